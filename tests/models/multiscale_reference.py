"""Slow, plain multi-scale language models, for parity tests.

Source: "Multi-scale Transformer Language Models" (arXiv 2005.00581). Its
abstract and the papers that cite it do not settle these rules, which are ours:

- block m of scale S covers tokens m S .. m S + S - 1 and may be used at token t
  if and only if it has ended: (m + 1) S - 1 <= t. Blocks that have not ended at
  the last token do not exist; nothing is padded;
- until a block of a scale may be used, a learned vector replaces it, except in
  attention, which then has no keys of that scale;
- top-down: every scale is pooled from the embeddings and runs its blocks after
  the coarser scale, whose latest usable vector is injected;
- bottom-up: every scale is pooled from the outputs of the finer one; all scales
  are then aggregated at each token, and further blocks follow;
- retina: in every layer, tokens see near tokens, and pooled blocks of far ones.
  With windows of w tokens, a query sees the tokens of its own window and of the
  one before, blocks of S_1 tokens of the S_1 windows before these, and so on;
  the last scale has no end;
- the position of a block is that of its first token; attention to several
  scales has position biases for each; 'learned' positions are added to the
  pooled inputs of every scale before anything else reads them.

The models read tokens shifted right by one: 'token t' above is the t-th shifted
token, and logits at t predict token t of the original sequence.

Letters in shapes: T tokens, V tokens of the vocabulary, d width, f hidden width
of a feed-forward layer, h heads of dh; a coarse scale S has T // S rows.

Everything is in float64, for one sequence. Nothing here is compiled, masked, or
shared with the code under test.
"""

import math
from dataclasses import dataclass

import numpy as np

EPSILON = 1e-6
N_BUCKETS = 32
MAX_DISTANCE = 128


@dataclass(frozen=True)
class Config:
  """The settings that the shapes of the weights do not determine.

  Attributes:
    scales: tokens in a block of each scale, finest (1) first.
    n_heads: h.
    positions: 'none', 'rotary', 't5', 'relative' or 'learned'.
    shorten: 'average' or 'linear' pooling of a group of vectors into one.
    inject: 'concat' or 'sum', in top-down models.
    aggregate: 'attention' or 'concat', in bottom-up models.
    window: w, in retina models.
  """

  scales: tuple
  n_heads: int
  positions: str = 'none'
  shorten: str = 'average'
  inject: str = 'concat'
  aggregate: str = 'attention'
  window: int = 0

  def __post_init__(self):
    assert self.scales[0] == 1
    for finer, coarser in zip(self.scales, self.scales[1:], strict=False):
      assert coarser % finer == 0 and coarser > finer
    assert self.positions in ('none', 'rotary', 't5', 'relative', 'learned')
    assert self.shorten in ('average', 'linear')
    assert self.inject in ('concat', 'sum')
    assert self.aggregate in ('attention', 'concat')


# Blocks and their visibility
# ------------------------------------------------------------------------------
def usable_blocks(scale, t, n_tokens):
  """The blocks of a scale that have ended at token t, earliest first."""
  n_blocks = n_tokens // scale
  return [m for m in range(n_blocks) if (m + 1) * scale - 1 <= t]


def tokens_of(scale, m):
  """The tokens that block m of a scale covers."""
  return range(m * scale, m * scale + scale)


def retina_keys(t, n_tokens, window, scales):
  """The keys that token t attends to in a layer of a retina.

  Args:
    t: the token.
    n_tokens: T.
    window: w.
    scales: scales of the model.

  Returns:
    (index of a scale, block) for every key; a block of scale 1 is a token.
  """
  chunk = t // window
  keys, start = [], 0
  for i, scale in enumerate(scales):
    # Keys of this scale are `start` to `end` - 1 windows back.
    end = start + (2 if i == 0 else scale)
    if i == len(scales) - 1:
      end = math.inf
    for m in usable_blocks(scale, t, n_tokens):
      in_windows = {chunk - token // window for token in tokens_of(scale, m)}
      (distance,) = in_windows  # Each block is in one window.
      if start <= distance < end:
        keys.append((i, m))
    start = end

  covered = [token for i, m in keys for token in tokens_of(scales[i], m)]
  assert sorted(covered) == list(range(t + 1)), 'not each past token once'
  return keys


# Layers
# ------------------------------------------------------------------------------
def dense(weights, x):
  """x (.., n) to (.., m), with {'kernel': (n, m), 'bias': (m,)}."""
  return x @ weights['kernel'] + weights['bias']


def layer_norm(weights, x):
  """Normalizes the last axis of x, with {'scale': (d,), 'bias': (d,)}."""
  return standardized(x) * weights['scale'] + weights['bias']


def standardized(x):
  """x with mean 0 and variance 1 along its last axis."""
  mean = x.mean(axis=-1, keepdims=True)
  variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
  return (x - mean) / np.sqrt(variance + EPSILON)


def gelu(x):
  """GELU, approximated by tanh."""
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def feed_forward(weights, x):
  """x (.., d) to (.., d), with dense layers 'hidden' and 'output'."""
  return dense(weights['output'], gelu(dense(weights['hidden'], x)))


def pool(weights, rows, ratio, how):
  """Pools groups of `ratio` rows: (n, d) -> (n // ratio, d).

  Args:
    weights: a dense layer (ratio * d) -> d if 'linear', else unused.
    rows: (n, d); an incomplete last group is unused.
    ratio: rows of a group.
    how: 'average' or 'linear'.
  """
  pooled = np.zeros((len(rows) // ratio, rows.shape[1]))
  for m in range(len(pooled)):
    group = [rows[i] for i in tokens_of(ratio, m)]
    if how == 'average':
      pooled[m] = sum(group) / ratio
    else:
      pooled[m] = dense(weights, np.concatenate(group))
  return pooled


def latest_usable(rows, scale, t, n_tokens, null):
  """The latest of rows (T // S, d) that may be used at token t, or `null`."""
  blocks = usable_blocks(scale, t, n_tokens)
  return rows[blocks[-1]] if blocks else null


# Attention
# ------------------------------------------------------------------------------
def bucket(distance):
  """The T5 bucket, 0 to 31, of a query this many tokens after its key."""
  n_exact = N_BUCKETS // 2
  if distance < n_exact:
    return max(distance, 0)
  octaves = math.log(distance / n_exact) / math.log(MAX_DISTANCE / n_exact)
  return min(n_exact + int(octaves * (N_BUCKETS - n_exact)), N_BUCKETS - 1)


def rotate(x, position):
  """Rotates heads (h, dh); pair i is element i of each half of a head."""
  rotated = np.zeros_like(x)
  half = x.shape[1] // 2
  for i in range(half):
    angle = position * 10000.0 ** (-i / half)
    a, b = x[:, i], x[:, half + i]
    rotated[:, i] = a * math.cos(angle) - b * math.sin(angle)
    rotated[:, half + i] = b * math.cos(angle) + a * math.sin(angle)
  return rotated


def sinusoid(offset, d):
  """Sines, then cosines, of an offset: (d,)."""
  angles = [offset * 10000.0 ** (-2 * i / d) for i in range(d // 2)]
  return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def attention(weights, model, x, x_positions, key_sets, visible, config):
  """Attention of rows to rows of several sets, with one softmax.

  Args:
    weights: dense layers 'query', 'key', 'value', 'output'; 'positions', one
      for each key set: a table (h, 32) if 't5', a dense layer d -> d if
      'relative', else unused. If there is 'scales' (number of sets, d), its row
      of a set is added to the keys of that set.
    model: the weights of the model; has 'u' and 'v', (h, dh), if 'relative'.
    x: (n, d), the rows of the queries.
    x_positions: position of each row, in tokens.
    key_sets: (rows (m, d), position of each row in tokens) for each key set.
    visible: for each row of x, a list of (number of a set, row in it).
    config: a Config.

  Returns:
    (n, d).
  """
  n, d = x.shape
  h, dh = config.n_heads, d // config.n_heads

  def heads(name, row):
    return dense(weights[name], row).reshape(h, dh)

  keys, values = [], []
  for i, (rows, positions) in enumerate(key_sets):
    keys.append([heads('key', row) for row in rows])
    values.append([heads('value', row) for row in rows])
    if 'scales' in weights:
      keys[i] = [k + weights['scales'][i].reshape(h, dh) for k in keys[i]]
    if config.positions == 'rotary':
      keys[i] = [rotate(k, p) for k, p in zip(keys[i], positions, strict=True)]

  outputs = np.zeros((n, d))
  projected = {}
  for t in range(n):
    q, scores, seen = heads('query', x[t]), [], []
    if config.positions == 'rotary':
      q = rotate(q, x_positions[t])
    for i, j in visible[t]:
      k = keys[i][j]
      offset = key_sets[i][1][j] - x_positions[t]  # Of the key from the query.
      if config.positions == 't5':
        bias = weights['positions'][i][:, bucket(-offset)]
        score = (q * k).sum(axis=1) + bias
      elif config.positions == 'relative':
        if (i, offset) not in projected:
          r = dense(weights['positions'][i], sinusoid(offset, d))
          projected[i, offset] = r.reshape(h, dh)
        r = projected[i, offset]
        score = ((q + model['u']) * k).sum(axis=1)
        score += ((q + model['v']) * r).sum(axis=1)
      else:
        score = (q * k).sum(axis=1)
      scores.append(score / math.sqrt(dh))
      seen.append(values[i][j])
    scores, seen = np.array(scores), np.array(seen)  # (keys, h), (keys, h, dh)
    shares = np.exp(scores - scores.max(axis=0))
    shares = shares / shares.sum(axis=0)
    heads_out = (shares[:, :, None] * seen).sum(axis=0)
    outputs[t] = dense(weights['output'], heads_out.reshape(d))
  return outputs


def block(weights, model, x, scale, config):
  """A causal block on rows x (n, d) at distances of `scale` tokens."""
  positions = [m * scale for m in range(len(x))]
  visible = [[(0, j) for j in range(m + 1)] for m in range(len(x))]
  rows = layer_norm(weights['norm1'], x)
  x = x + attention(
    weights['attention'],
    model,
    rows,
    positions,
    [(rows, positions)],
    visible,
    config,
  )
  return x + feed_forward(
    weights['feed_forward'], layer_norm(weights['norm2'], x)
  )


def blocks(stack, model, x, scale, config):
  """Applies blocks one after another."""
  for weights in stack:
    x = block(weights, model, x, scale, config)
  return x


# Models
# ------------------------------------------------------------------------------
def embed(weights, tokens):
  """Embeddings (T, d) of tokens shifted right by one, after a token 0."""
  shifted = [0, *[int(token) for token in tokens][:-1]]
  return np.stack([weights['embedding'][token] for token in shifted])


def add_positions(weights, rows, i, config):
  """The rows of scale i, plus learned positions if there are any."""
  if config.positions != 'learned':
    return rows
  return rows + weights['places'][i][: len(rows)]


def logits(weights, x):
  """x (T, d) to (T, V)."""
  return dense(weights['logits'], layer_norm(weights['norm'], x))


def ratios(config):
  """Numbers of blocks of each scale in one block of the next scale."""
  pairs = zip(config.scales, config.scales[1:], strict=False)
  return [coarse // fine for fine, coarse in pairs]


def transformer(weights, tokens, config):
  """The logits (T, V) of a plain decoder, with weights as in `top_down`."""
  x = add_positions(weights, embed(weights, tokens), 0, config)
  return logits(weights, blocks(weights['blocks'][0], weights, x, 1, config))


def top_down(weights, tokens, config):
  """The logits (T, V) of a top-down model.

  Args:
    weights: {'embedding': (V, d), 'blocks': a list of blocks for each scale,
      'norm', 'logits'}, and lists by scale, or by coarser scale from index 0:
      - 'null' (d,), for every coarser scale;
      - 'inject', for every coarser scale if 'concat': a dense layer 2 d -> d
        from a row of the finer scale and one of the coarser;
      - 'shorten', for every coarser scale if 'linear': a dense layer from a
        group of rows of the next finer scale;
      - 'places' (n, d), for every scale if positions are learned;
      also 'u' and 'v' (h, dh) if positions are relative.
      A block is {'norm1', 'attention', 'norm2', 'feed_forward'}.
    tokens: T ints.
    config: a Config.
  """
  n_tokens = len(tokens)
  inputs = [add_positions(weights, embed(weights, tokens), 0, config)]
  for i, ratio in enumerate(ratios(config)):
    kernel = weights['shorten'][i] if config.shorten == 'linear' else None
    rows = pool(kernel, inputs[i], ratio, config.shorten)
    inputs.append(add_positions(weights, rows, i + 1, config))

  above = None
  for i in reversed(range(len(config.scales))):
    x, scale = inputs[i], config.scales[i]
    if above is not None:
      mixed = np.zeros_like(x)
      for m in range(len(x)):
        last_token = tokens_of(scale, m)[-1]
        u = latest_usable(
          above, config.scales[i + 1], last_token, n_tokens, weights['null'][i]
        )
        parts = standardized(x[m]), standardized(u)
        if config.inject == 'concat':
          mixed[m] = dense(weights['inject'][i], np.concatenate(parts))
        else:
          mixed[m] = sum(parts)
      x = mixed
    above = blocks(weights['blocks'][i], weights, x, scale, config)
  return logits(weights, above)


def bottom_up(weights, tokens, config):
  """The logits (T, V) of a bottom-up model.

  Args:
    weights: as in `top_down`, without 'inject'; 'null' only if aggregation is
      'concat'; 'post', a list of blocks; 'aggregate', with two scales or more:
      a dense layer (number of scales * d) -> d if 'concat', else a block whose
      'attention' has 'scales'.
    tokens: T ints.
    config: a Config.
  """
  n_tokens, scales = len(tokens), config.scales
  x = embed(weights, tokens)
  outputs = []
  for i, scale in enumerate(scales):
    if i > 0:
      kernel = weights['shorten'][i - 1] if config.shorten == 'linear' else None
      x = pool(kernel, outputs[i - 1], ratios(config)[i - 1], config.shorten)
    x = add_positions(weights, x, i, config)
    outputs.append(blocks(weights['blocks'][i], weights, x, scale, config))

  x = outputs[0]
  if len(scales) > 1 and config.aggregate == 'concat':
    mixed = np.zeros_like(x)
    for t in range(n_tokens):
      parts = [standardized(x[t])]
      for i in range(1, len(scales)):
        null = weights['null'][i - 1]
        u = latest_usable(outputs[i], scales[i], t, n_tokens, null)
        parts.append(standardized(u))
      mixed[t] = dense(weights['aggregate'], np.concatenate(parts))
    x = mixed
  elif len(scales) > 1:
    own = weights['aggregate']
    key_sets = [
      (layer_norm(own['norm1'], rows), [m * scale for m in range(len(rows))])
      for scale, rows in zip(scales, outputs, strict=True)
    ]
    visible = [
      [
        (i, m)
        for i, scale in enumerate(scales)
        for m in usable_blocks(scale, t, n_tokens)
      ]
      for t in range(n_tokens)
    ]
    rows, positions = key_sets[0]
    x = x + attention(
      own['attention'], weights, rows, positions, key_sets, visible, config
    )
    x = x + feed_forward(own['feed_forward'], layer_norm(own['norm2'], x))
  return logits(weights, blocks(weights['post'], weights, x, 1, config))


def retina(weights, tokens, config):
  """The logits (T, V) of a retina model.

  Args:
    weights: as in `top_down`, but for one list of blocks and 'places' of the
      finest scale only; no 'null', 'inject' or 'shorten'. The 'attention' of a
      block has a key set for each scale, and 'shorten' for each but the finest
      if 'linear': a dense layer from a group of rows of the next finer scale.
    tokens: T ints.
    config: a Config.
  """
  n_tokens, scales = len(tokens), config.scales
  assert all(config.window % scale == 0 for scale in scales)
  visible = [
    retina_keys(t, n_tokens, config.window, scales) for t in range(n_tokens)
  ]
  x = add_positions(weights, embed(weights, tokens), 0, config)
  for layer in weights['blocks'][0]:
    rows = layer_norm(layer['norm1'], x)
    key_sets, pooled = [], rows
    for i, scale in enumerate(scales):
      if i > 0:
        linear = config.shorten == 'linear'
        kernel = layer['attention']['shorten'][i - 1] if linear else None
        pooled = pool(kernel, pooled, ratios(config)[i - 1], config.shorten)
      key_sets.append((pooled, [m * scale for m in range(len(pooled))]))
    positions = list(range(n_tokens))
    x = x + attention(
      layer['attention'], weights, rows, positions, key_sets, visible, config
    )
    x = x + feed_forward(layer['feed_forward'], layer_norm(layer['norm2'], x))
  return logits(weights, x)

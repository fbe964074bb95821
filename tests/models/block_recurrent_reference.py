"""A slow, plain Block-Recurrent Transformer, for parity tests.

Source: "Block-Recurrent Transformers (arXiv 2203.07852)" and its published
code, which decides where the two differ. In the code,

- a token attends to the W tokens before it, never to itself;
- the cache at the start of a document is zeros, and it is not masked;
- keys and queries are L2-normalized per head, and the logits are
  `(q . k + bias) * |scale|`, with no division by the root of the width;
- tokens read the state as it entered the block;
- state ids are added after the norm;
- the state reads the keys of two blocks, the previous and the current one;
- the candidate of a gate has no bias, and a tanh in the 'single' cell only.

Letters in shapes: B lanes, N tokens, W window and block, S states, V tokens of
the vocabulary, d width, f hidden width of a feed-forward layer, h heads of dh.

Nothing here is compiled, scanned or shared with the code under test.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

EPSILON = 1e-6
SINK = -1000.0
MASKED = -1e6
N_BUCKETS = 32
MAX_DISTANCE = 128


@dataclass(frozen=True)
class Config:
  """The settings that the shapes of the weights do not determine.

  Attributes:
    n_heads: h.
    window: W.
    gate: 'fixed' or 'lstm'.
    update: 'skip', 'dual' or 'single'.
    feedback: whether the layers with 'wq2' read the state of the only recurrent
      layer as it entered the block.
    n_read_blocks: 2 if the state reads the keys of the previous and the current
      block, 1 if it reads those of the current block only.
  """

  n_heads: int
  window: int
  gate: str
  update: str
  feedback: bool = False
  n_read_blocks: int = 2

  def __post_init__(self):
    if self.gate not in ('fixed', 'lstm'):
      raise ValueError(f'gate is {self.gate!r}')
    if self.update not in ('skip', 'dual', 'single'):
      raise ValueError(f'update is {self.update!r}')
    if self.n_read_blocks not in (1, 2):
      raise ValueError(f'n_read_blocks is {self.n_read_blocks!r}')


def rms_norm(x, gain):
  """Scales x (..., d) to a mean square of one, times gain (d,)."""
  mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(mean_square + EPSILON) * gain


def l2_norm(x):
  """Scales x (..., dh) to a sum of squares of one."""
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + EPSILON)


def split_heads(x, n_heads):
  """(B, L, h*dh) to (B, L, h, dh)."""
  return x.reshape(*x.shape[:2], n_heads, x.shape[2] // n_heads)


def merge_heads(x):
  """(B, L, h, dh) to (B, L, h*dh)."""
  return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def bucket(distance):
  """The T5 bucket, 0 to 31, of a query this many tokens after its key."""
  n_exact = N_BUCKETS // 2
  if distance < n_exact:
    return max(distance, 0)
  octaves = math.log(distance / n_exact) / math.log(MAX_DISTANCE / n_exact)
  return min(n_exact + int(octaves * (N_BUCKETS - n_exact)), N_BUCKETS - 1)


def distances(window):
  """W rows of 2W ints: how far key j of two blocks is before query i."""
  return [[window + i - j for j in range(2 * window)] for i in range(window)]


def window_mask(window):
  """(W, 2W) bool: whether the key is 1 to W tokens before the query."""
  rows = distances(window)
  return jnp.array([[1 <= n <= window for n in row] for row in rows])


def window_bias(t5, window):
  """Biases (h, W, 2W) of a block, looked up in the table t5 (h, 32)."""
  rows = distances(window)
  return t5[:, jnp.array([[bucket(n) for n in row] for row in rows])]


def attention(q, k, v, scale, bias=None, mask=None):
  """Attention with a constant sink logit.

  Args:
    q: queries (B, Q, h, dh), normalized.
    k: keys (B, K, h, dh), normalized.
    v: values (B, K, h, dh).
    scale: (h,).
    bias: (h, Q, K), or none.
    mask: (Q, K), true where a query may see a key, or none.

  Returns:
    (B, Q, h, dh).
  """
  logits = jnp.einsum('bqhd,bkhd->bhqk', q, k)
  if bias is not None:
    logits = logits + bias
  logits = logits * jnp.abs(scale)[:, None, None]
  if mask is not None:
    logits = jnp.where(mask, logits, MASKED)
  sink = jnp.full_like(logits[..., :1], SINK)
  weights = jax.nn.softmax(jnp.concatenate([logits, sink], axis=-1), axis=-1)
  return jnp.einsum('bhqk,bkhd->bqhd', weights[..., :-1], v)


def gated(params, state, candidate, hidden, gate):
  """Mixes the state and a candidate.

  Args:
    params: {'bias'} for 'fixed'; {'wf', 'bf', 'wi', 'bi'} for 'lstm'.
    state: (B, S, d).
    candidate: (B, S, d).
    hidden: (B, S, n), the input of the layer that made the candidate.
    gate: 'fixed' or 'lstm'.

  Returns:
    (B, S, d).
  """
  if gate == 'fixed':
    keep = jax.nn.sigmoid(params['bias'])
    return state * keep + candidate * (1 - keep)
  forget_gate = jax.nn.sigmoid(hidden @ params['wf'] + params['bf'] + 1)
  input_gate = jax.nn.sigmoid(hidden @ params['wi'] + params['bi'] - 1)
  return state * forget_gate + candidate * input_gate


def state_inputs(params, state, n_heads):
  """Projections of the state that the attention of a block uses.

  Args:
    params: the 'state' dict of a recurrent layer.
    state: (B, S, d), as it entered the block.
    n_heads: h.

  Returns:
    Keys, values, queries of the states and queries of the tokens, each
    (B, S, h, dh).
  """
  sn = rms_norm(state, params['norm']) + params['ids']
  k = l2_norm(split_heads(sn @ params['wk'], n_heads))
  v = split_heads(sn @ params['wv'], n_heads)
  q = l2_norm(split_heads(sn @ params['wq'], n_heads))
  q2 = l2_norm(split_heads(sn @ params['wq2'], n_heads))
  return k, v, q, q2


def next_state(params, state, k, v, config):
  """The horizontal direction: the state that leaves a block.

  Args:
    params: the 'state' dict of a recurrent layer.
    state: (B, S, d), as it entered the block.
    k: token keys (B, K, h, dh) of the blocks the state reads.
    v: their values (B, K, h, dh).
    config: a Config.

  Returns:
    (B, S, d).
  """
  ks, vs, qs, qs2 = state_inputs(params, state, config.n_heads)
  b1 = attention(qs, ks, vs, params['scale'])
  b2 = attention(qs2, k, v, params['scale2'])
  o = jnp.concatenate([merge_heads(b1), merge_heads(b2)], axis=-1)

  if config.update == 'single':
    ffn = params['ffn']
    hidden = jax.nn.relu(o @ ffn['w1'])
    z = jnp.tanh(hidden @ ffn['w2'])
    return gated(ffn['gate'], state, z, hidden, config.gate)

  dense = params['attention']
  u = gated(dense['gate'], state, o @ dense['w'], o, config.gate)
  if config.update == 'skip':
    return u

  ffn = params['ffn']
  hidden = jax.nn.relu(rms_norm(u, params['norm2']) @ ffn['w1'])
  return gated(ffn['gate'], u, hidden @ ffn['w2'], hidden, config.gate)


def layer_block(params, x, memory, read, config):
  """One layer on one block.

  Args:
    params: the dict of the layer.
    x: (B, W, d).
    memory: {'k', 'v'} (B, W, h, dh) of the previous block, and {'s'} (B, S, d)
      in a recurrent layer.
    read: keys and values (B, S, h, dh) of the state that the tokens read, or
      None.
    config: a Config.

  Returns:
    The output (B, W, d) and the memory after the block.
  """
  h, window = config.n_heads, config.window
  xn = rms_norm(x, params['norm'])
  k = l2_norm(split_heads(xn @ params['wk'], h))
  v = split_heads(xn @ params['wv'], h)
  q = l2_norm(split_heads(xn @ params['wq'], h))
  both_k = jnp.concatenate([memory['k'], k], axis=1)
  both_v = jnp.concatenate([memory['v'], v], axis=1)

  # The vertical direction.
  bias, mask = window_bias(params['t5'], window), window_mask(window)
  a = merge_heads(attention(q, both_k, both_v, params['scale'], bias, mask))
  if read is not None:
    q2 = l2_norm(split_heads(xn @ params['wq2'], h))
    a2 = attention(q2, read[0], read[1], params['scale2'])
    a = jnp.concatenate([a, merge_heads(a2)], axis=-1)
  y = x + a @ params['wo']
  hidden = jax.nn.relu(rms_norm(y, params['ffn_norm']) @ params['w1'])
  y = y + hidden @ params['w2']

  after = {'k': k, 'v': v}
  if 'state' in params:
    seen_k, seen_v = (both_k, both_v) if config.n_read_blocks == 2 else (k, v)
    after['s'] = next_state(
      params['state'], memory['s'], seen_k, seen_v, config
    )
  return y, after


def read_state(params, memory, config):
  """Keys and values (B, S, h, dh) of the state of a recurrent layer."""
  k, v, _, _ = state_inputs(params['state'], memory['s'], config.n_heads)
  return k, v


def fresh_memory(params, batch, config):
  """The memory of all lanes at the start of a document.

  Args:
    params: see `forward`.
    batch: B.
    config: a Config.

  Returns:
    One dict per layer: 'k' and 'v' (B, W, h, dh), zeros; in a recurrent layer
    also 's' (B, S, d), the learned initial state.
  """
  memory = []
  for layer in params['layers']:
    wk = layer['wk']
    shape = (
      batch,
      config.window,
      config.n_heads,
      wk.shape[1] // config.n_heads,
    )
    fresh = {'k': jnp.zeros(shape, wk.dtype), 'v': jnp.zeros(shape, wk.dtype)}
    if 'state' in layer:
      initial = jnp.asarray(layer['state']['initial'])
      fresh['s'] = jnp.broadcast_to(initial, (batch, *initial.shape))
    memory.append(fresh)
  return memory


def reset(params, start, memory, config):
  """The memory, reset in the lanes where start (B,) is true."""
  start = jnp.asarray(start)
  result = []
  fresh = fresh_memory(params, start.shape[0], config)
  for new, old in zip(fresh, memory, strict=True):
    chosen = {}
    for name in new:
      lanes = start.reshape(-1, *[1] * (new[name].ndim - 1))
      chosen[name] = jnp.where(lanes, new[name], old[name])
    result.append(chosen)
  return result


def run_by_layer(layers, blocks, memory, config):
  """Runs every block through a layer, then the next layer.

  Args:
    layers: the dicts of the layers.
    blocks: a list of N/W arrays (B, W, d).
    memory: one dict per layer.
    config: a Config.

  Returns:
    The list of the outputs and the memory after the last block.
  """
  memory = list(memory)
  for i, layer in enumerate(layers):
    outputs = []
    for x in blocks:
      read = read_state(layer, memory[i], config) if 'state' in layer else None
      y, memory[i] = layer_block(layer, x, memory[i], read, config)
      outputs.append(y)
    blocks = outputs
  return blocks, memory


def run_by_block(layers, blocks, memory, config):
  """Runs every layer on a block, then on the next block, as feedback needs.

  Args:
    layers: the dicts of the layers, one of them recurrent.
    blocks: a list of N/W arrays (B, W, d).
    memory: one dict per layer.
    config: a Config.

  Returns:
    The list of the outputs and the memory after the last block.
  """
  memory = list(memory)
  (recurrent,) = (i for i, layer in enumerate(layers) if 'state' in layer)
  outputs = []
  for x in blocks:
    # All layers read the state as it entered the block.
    state = read_state(layers[recurrent], memory[recurrent], config)
    for i, layer in enumerate(layers):
      read = state if 'wq2' in layer else None
      x, memory[i] = layer_block(layer, x, memory[i], read, config)
    outputs.append(x)
  return outputs, memory


def forward(params, tokens, start, memory, config):
  """The logits of a segment, and the memory for the next one.

  Tokens are not shifted: the logits at position i predict token i+1 from tokens
  0 to i.

  Args:
    params: {'embed': (V, d), 'norm': (d,), 'layers': [layer, ...]}, where
      - layer is {'norm': (d,), 'wq', 'wk', 'wv': (d, h*dh), 'scale': (h,),
        't5': (h, 32), 'wo': (h*dh, d), 'ffn_norm': (d,), 'w1': (d, f), 'w2':
        (f, d)};
      - a layer that reads a state also has {'wq2': (d, h*dh), 'scale2': (h,)},
        and its 'wo' is (2*h*dh, d), self-attention first;
      - a recurrent layer also has 'state': {'norm': (d,), 'ids', 'initial':
        (S, d), 'wk', 'wv', 'wq', 'wq2': (d, h*dh), 'scale', 'scale2': (h,)}
        and, by update,
        'skip': 'attention': {'w': (2*h*dh, d), 'gate'};
        'dual': the same, 'norm2': (d,), 'ffn': {'w1': (d, f), 'w2': (f, d),
        'gate'};
        'single': 'ffn': {'w1': (2*h*dh, f), 'w2': (f, d), 'gate'};
      - a gate is {'bias': (d,)} if fixed, else {'wf', 'wi': (n, d), 'bf', 'bi':
        (d,)}, where n is 2*h*dh under 'attention' and f under 'ffn'.
    tokens: ints (B, N), N a multiple of W.
    start: bools (B,), true in the lanes where a document starts.
    memory: one dict per layer, see `fresh_memory`.
    config: a Config.

  Returns:
    The logits (B, N, V) and the memory.
  """
  tokens = jnp.asarray(tokens)
  embed = jnp.asarray(params['embed'])
  window, layers = config.window, params['layers']
  n_blocks, rest = divmod(tokens.shape[1], window)
  if n_blocks < 1 or rest:
    raise ValueError(f'{tokens.shape[1]} tokens are no multiple of {window}')

  memory = reset(params, start, memory, config)
  x = embed[tokens]
  blocks = [x[:, b * window : (b + 1) * window] for b in range(n_blocks)]
  run = run_by_block if config.feedback else run_by_layer
  blocks, memory = run(layers, blocks, memory, config)
  x = rms_norm(jnp.concatenate(blocks, axis=1), params['norm'])
  return x @ embed.T / math.sqrt(embed.shape[1]), memory

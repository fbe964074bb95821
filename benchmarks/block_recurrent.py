"""Block-Recurrent Transformers: cost, decoding, recall, and books.

    python benchmarks/block_recurrent.py [--parts=step,length,decode,recall]
    python benchmarks/block_recurrent.py --parts=books --books=books.docs

* step: seconds of the forward and backward pass, at an equal number of tokens,
  of the 12-layer recurrent model (fixed gate, skip), Slide with 13 layers, and
  XL with segments as long as its window. Steps alternate in one process.
* length: seconds and dot-product FLOPs of the recurrent model, by the length of
  the segment.
* decode: time per token, by the position of the token.
* recall: a toy task that asks for a key given at the start of a document; loss
  in nats, by the distance from query to key. Chance is ln 8 = 2.079.
* books: bits per byte, on whole test books, of recurrent models and of Slide
  with one more layer, trained for equal numbers of steps. `--books` is a file
  of documents with its table, or a folder, as for `DocumentLanes.path`.
"""

import argparse
import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from timing import medians, random_weights

from trax_hier import generation
from trax_hier.compat import ShapeDtype
from trax_hier.data import DocumentLanes
from trax_hier.layers import (
  BlockRecurrentCell,
  FixedGate,
  LSTMGate,
  MemorizingAttention,
  SlidingAttention,
)
from trax_hier.layers.base.dtypes import cast_floats
from trax_hier.models import BlockRecurrentLM
from trax_hier.training import Adafactor, Adam, multifactor
from trax_hier.training.evaluate import Evaluator
from trax_hier.training.flops import flops as count_flops
from trax_hier.training.mesh import make_mesh
from trax_hier.training.state import (
  abstract_init,
  init_train_state,
  lane_axes,
  token_shapes,
)
from trax_hier.training.step import make_train_step

P = functools.partial


def recurrent(window, n_states, gate=FixedGate, configuration='skip', **sizes):
  """A factory of models; `sizes` may include `recurrent_layers=()`."""
  return P(
    BlockRecurrentLM,
    attention=P(SlidingAttention, window=window),
    recurrent_attention=P(
      BlockRecurrentCell,
      window=window,
      n_states=n_states,
      gate=gate,
      configuration=configuration,
    ),
    **sizes,
  )


def trainer(model, optimizer, shape, seed):
  """The initial train state and the jitted train step of a model."""
  layer, batch = model(mode='train'), token_shapes(shape)
  _, model_state = abstract_init(layer, batch)
  step = make_train_step(layer, optimizer, lane_axes(layer, batch, model_state))
  init = jax.jit(lambda rng: init_train_state(layer, optimizer, batch, rng))
  state = init(jax.random.PRNGKey(seed))
  return state, jax.jit(step, donate_argnums=0)


# Recall
# ------------------------------------------------------------------------------
DOCUMENT, SEGMENT, QUERY_EVERY, N_KEYS, N_NOISE = 256, 128, 16, 8, 32
QUERY = 1 + N_KEYS  # Ids in order: 0, keys, the query, noise.
VOCAB = QUERY + 1 + N_NOISE


def recall_documents(rng, n):
  """Documents whose token 1 is a key, which is the target at every query.

  The answer is never an input: attention could copy the key from it.
  """
  inputs = rng.integers(QUERY + 1, VOCAB, (n, DOCUMENT))
  keys = rng.integers(1, 1 + N_KEYS, n)
  inputs[:, 1] = keys
  inputs[:, QUERY_EVERY - 1 :: QUERY_EVERY] = QUERY
  is_answer = np.zeros(DOCUMENT, bool)
  is_answer[QUERY_EVERY::QUERY_EVERY] = True
  return {
    'inputs': inputs.astype(np.int32),
    'targets': np.broadcast_to(keys[:, None], inputs.shape).astype(np.int32),
    'weights': np.broadcast_to(is_answer, inputs.shape).astype(np.float32),
  }


def segments(documents):
  """Yields the documents as batches of segments for the train step."""
  for start in range(0, DOCUMENT, SEGMENT):
    batch = {
      name: x[:, start : start + SEGMENT] for name, x in documents.items()
    }
    batch['start_of_sequence'] = np.full(len(batch['inputs']), start == 0)
    yield batch


def train_recall(model, seed, arguments):
  """Yields (steps, losses) after half of the steps and after all of them."""
  shape = (arguments.recall_batch, SEGMENT)
  state, step = trainer(model, Adam(3e-3), shape, seed)
  score = recall_scorer(model, shape)
  rng = np.random.default_rng(seed)
  half = arguments.recall_steps * SEGMENT // DOCUMENT // 2
  for checkpoint in (1, 2):
    for _ in range(half):
      for batch in segments(recall_documents(rng, shape[0])):
        state, _ = step(state, batch)
    steps = checkpoint * half * DOCUMENT // SEGMENT
    yield steps, score(state.weights)


def recall_scorer(model, shape):
  """A function: weights -> losses in nats of three groups of queries.

  The groups are the first query, queries of the first segment more than 5
  windows after the key, and queries of the next segment.
  """
  layer = model(mode='eval')
  _, model_state = abstract_init(layer, token_shapes(shape))
  fresh = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), model_state)

  @jax.jit
  def nats(weights, memory, batch):
    logits, memory = layer.pure_fn(
      (batch['inputs'], batch['start_of_sequence']),
      weights,
      memory,
      jax.random.PRNGKey(0),
    )
    log_probs = jax.nn.log_softmax(logits)
    targets = batch['targets'][..., None]
    return -jnp.take_along_axis(log_probs, targets, -1)[..., 0], memory

  def score(weights):
    rng, memory, losses = np.random.default_rng(1 << 20), fresh, []
    for _ in range(16):
      by_segment = []
      for batch in segments(recall_documents(rng, shape[0])):
        y, memory = nats(weights, memory, batch)
        by_segment.append(np.asarray(y))
      by_position = np.concatenate(by_segment, axis=1)
      losses.append(by_position[:, ::QUERY_EVERY].mean(axis=0))
    by_query = np.mean(losses, axis=0)[1:]  # At positions 16, 32, ...
    n_first = SEGMENT // QUERY_EVERY - 1  # Queries of the first segment.
    return by_query[0], by_query[5:n_first].mean(), by_query[n_first:].mean()

  return score


def recall(arguments):
  """Prints the losses of the recall task for each model and seed."""
  sizes = dict(
    vocab_size=VOCAB, d_model=32, d_ff=64, n_layers=3, n_heads=2, dropout=0.0
  )
  cell = P(recurrent, 16, 8, recurrent_layers=(2,), **sizes)
  rows = {
    'Slide': recurrent(16, 8, recurrent_layers=(), **sizes),
    'fixed:skip, bias 0 (as published)': cell(),
    'fixed:dual, bias 0 (as published)': cell(configuration='dual'),
    'lstm:skip': cell(gate=LSTMGate),
    'fixed:skip, bias +1': cell(gate=P(FixedGate, bias=1.0)),
    'fixed:skip, bias +2': cell(gate=P(FixedGate, bias=2.0)),
    'external memory, 8 neighbors': P(
      cell(),
      recurrent_attention=P(
        MemorizingAttention, window=16, memory=256, n_neighbors=8, segment=16
      ),
    ),
  }
  print(
    f'recall: batches of {arguments.recall_batch} segments of {SEGMENT} tokens,'
    f' window 16, Adam 3e-3; nats, chance {math.log(N_KEYS):.3f}'
  )
  columns = 'seed', 'steps', 'first', '> 5 windows', 'next segment'
  print(f'{"":36}' + ''.join(f'{name:>13}' for name in columns))
  for name, model in rows.items():
    for seed in range(arguments.seeds):
      for steps, losses in train_recall(model, seed, arguments):
        numbers = ''.join(f'{x:13.3f}' for x in losses)
        print(f'{name:36}{seed:13}{steps:13}{numbers}', flush=True)


# Cost
# ------------------------------------------------------------------------------
class GradientStep:
  """Loss and gradients of a model on one segment, under plain `jax.jit`."""

  def __init__(self, model, shape, dtype='float32'):
    layer = model(mode='train')
    shapes, state = abstract_init(layer, token_shapes(shape))
    self._weights = random_weights(shapes)
    state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)
    rng = np.random.default_rng(0)
    self._tokens = jnp.asarray(rng.integers(1, 256, shape), jnp.int32)
    start = jnp.ones(shape[0], bool)

    def loss(weights, tokens):
      weights = cast_floats(weights, jnp.dtype(dtype))
      logits, _ = layer.pure_fn(
        (tokens, start), weights, state, jax.random.PRNGKey(0)
      )
      log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
      return -jnp.mean(jnp.take_along_axis(log_probs, tokens[..., None], -1))

    self._step = jax.jit(jax.value_and_grad(loss))
    jax.block_until_ready(self._step(self._weights, self._tokens))

  def __call__(self):
    """Seconds of one step."""
    start = time.perf_counter()
    jax.block_until_ready(self._step(self._weights, self._tokens))
    return time.perf_counter() - start


def forward_flops(model, shape):
  """FLOPs of the dot products in a forward pass, without the logits layer."""
  layer = model(mode='eval')
  weights, state = abstract_init(layer, token_shapes(shape))
  tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
  start = jax.ShapeDtypeStruct(shape[:1], bool)
  total = count_flops(
    lambda x, w, s: layer.pure_fn(x, w, s, jax.random.PRNGKey(0))[0],
    (tokens, start),
    weights,
    state,
  )
  table = layer.sublayers[0].weights[0][0]
  return total - 2 * math.prod(shape) * math.prod(table.shape)


def step(arguments):
  """Prints step times at equal tokens and their ratios to Slide."""
  n, w, d = arguments.length, 512, arguments.d_model
  sizes = dict(vocab_size=256, d_model=d, d_ff=4 * d, n_heads=8, dropout=0.0)
  models = {
    'Slide:13L': (
      n,
      recurrent(w, w, n_layers=13, recurrent_layers=(), **sizes),
    ),
    'Rec:fixed:skip': (n, recurrent(w, w, **sizes)),
  }
  for size in arguments.xl:
    xl = recurrent(size, w, recurrent_layers=(), **sizes)
    models[f'XL:{size}'] = size, xl
  n_tokens = arguments.step_batch * n
  cases = [
    (model, (n_tokens // length, length)) for length, model in models.values()
  ]
  steps = [GradientStep(*case, arguments.dtype) for case in cases]
  seconds = medians(steps, arguments.rounds)
  flops = [forward_flops(*case) for case in cases]
  print(
    f'step: d_model {d}, {arguments.step_batch} x {n} tokens, {arguments.dtype}'
    f', window {w} except XL, medians of {arguments.rounds} rounds'
  )
  print(f'{"":16}{"seconds":>9}{"ratio":>7}{"GFLOP/token":>13}{"ratio":>7}')
  for name, t, f in zip(models, seconds, flops, strict=True):
    print(
      f'{name:16}{t:9.4f}{t / seconds[0]:7.3f}{f / n_tokens / 1e9:13.4f}'
      f'{f / flops[0]:7.3f}',
      flush=True,
    )


def length(arguments):
  """Prints time and FLOPs of the recurrent model by segment length."""
  sizes = dict(vocab_size=256, d_model=256, d_ff=1024, n_heads=8, dropout=0.0)
  model = recurrent(256, 256, **sizes)
  lengths = [512, 1024, 2048, 4096, 8192]
  steps = [GradientStep(model, (1, n)) for n in lengths]
  seconds = medians(steps, arguments.rounds)
  print(f'{"length":>8}{"seconds":>9}{"us/token":>10}{"MFLOP/token":>13}')
  for n, t in zip(lengths, seconds, strict=True):
    flops = forward_flops(model, (1, n)) / n / 1e6
    print(f'{n:8}{t:9.3f}{1e6 * t / n:10.1f}{flops:13.3f}', flush=True)


def decode(arguments):
  """Prints the time per token by position, and the bytes of the state."""
  sizes = dict(vocab_size=256, d_model=128, d_ff=512, n_heads=4, dropout=0.0)
  model = recurrent(128, 128, n_layers=4, recurrent_layers=(3,), **sizes)
  weights, _ = abstract_init(model(mode='eval'), token_shapes((1, 128)))
  weights = random_weights(weights)
  n = arguments.decode_tokens
  stamps = [(0.0, 0)]
  begin = time.perf_counter()

  def record(new):
    stamps.append((time.perf_counter() - begin, stamps[-1][1] + len(new[0])))

  generation.generate(model, weights, [[1]], n, on_tokens=record, max_len=n + 1)
  seconds, tokens = zip(*stamps, strict=True)
  print('decode: d_model 128, 4 layers, window 128; milliseconds per token')
  for first in (1000, 2000, 5000, 10000, 20000, 50000, 90000):
    last = first + max(500, first // 10)
    if last <= n:
      t = np.interp([first, last], tokens, seconds)
      print(
        f'{first:8} to {last:7}: {1e3 * (t[1] - t[0]) / (last - first):.3f}',
        flush=True,
      )
  state = [
    sum(
      s.size * s.dtype.itemsize
      for s in jax.tree.leaves(
        jax.eval_shape(
          lambda n=n: model(mode='predict', max_len=n).init(
            ShapeDtype((1, 1), np.int32), jax.random.PRNGKey(0)
          )[1]
        )
      )
    )
    for n in (1000, 100000)
  ]
  print(f'bytes of state for 1,000 and 100,000 tokens: {state}')


# Books
# ------------------------------------------------------------------------------
def books(arguments):
  """Prints bits per byte on whole test books of models of equal cost."""
  if not arguments.books:
    raise SystemExit('--parts=books needs --books')
  data = DocumentLanes(
    arguments.books,
    arguments.books_batch,
    arguments.books_length,
    predict_first=True,
  )
  print(data.describe())
  w, d, n = (
    arguments.books_window,
    arguments.books_d_model,
    arguments.books_layers,
  )
  sizes = dict(
    vocab_size=256, d_model=d, d_ff=4 * d, n_heads=d // 32, dropout=0.0
  )
  skip = P(
    recurrent, w, w, n_layers=n, recurrent_layers=(round(n * 10 / 12),), **sizes
  )
  models = {
    f'Slide:{n + 1}L': recurrent(
      w, w, n_layers=n + 1, recurrent_layers=(), **sizes
    ),
    f'Rec:fixed:skip:{n}L, bias 0': skip(),
    f'Rec:fixed:skip:{n}L, bias +1': skip(gate=P(FixedGate, bias=1.0)),
  }
  print(
    f'books: d_model {d}, window {w}, Adafactor, learning rate {arguments.rate}'
  )
  schedule = multifactor(
    'constant * linear_warmup * cosine_decay_once',
    constant=arguments.rate,
    warmup_steps=100,
    cosine_steps=arguments.steps,
    cosine_end=0.1,
  )
  shape = data.train_batch(0)['inputs'].shape
  flops = [forward_flops(model, shape) for model in models.values()]
  for (name, model), f in zip(models.items(), flops, strict=True):
    state, train_step = trainer(
      model, Adafactor(schedule, momentum=0.9), shape, arguments.seed
    )
    begin = time.perf_counter()
    for i in range(arguments.steps):
      state, metrics = train_step(state, data.train_batch(i))
      if i % 200 == 199:
        print(f'  step {i + 1}: {float(metrics[0]):.3f} nats', flush=True)
    seconds = time.perf_counter() - begin
    result = Evaluator(
      model(mode='eval'), data.eval_batches('test'), 'byte', make_mesh()
    )(state.weights)
    print(
      f'{name:28}{result["bits_per_byte"]:8.4f} bits per byte over '
      f'{result["tokens"]:,.0f} tokens; {arguments.steps} steps of '
      f'{math.prod(shape)} bytes in {seconds / 60:.1f} min; forward FLOPs '
      f'{f / flops[0]:.3f} times the first model',
      flush=True,
    )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--parts',
    default='step,length,decode,recall',
    help=f'benchmarks to run, of {", ".join(BENCHMARKS)}',
  )
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument(
    '--length', type=int, default=4096, help='tokens (step only)'
  )
  parser.add_argument('--d_model', type=int, default=512, help='step only')
  parser.add_argument(
    '--step_batch', type=int, default=1, help='rows of `length` (step only)'
  )
  parser.add_argument(
    '--xl',
    type=lambda text: [int(number) for number in text.split(',')],
    default='512,1024,2048',
    help='segments of the XL models (step only)',
  )
  parser.add_argument(
    '--dtype', default='float32', help='float32 or bfloat16 (step only)'
  )
  parser.add_argument('--decode_tokens', type=int, default=100000)
  parser.add_argument(
    '--seeds', type=int, default=3, help='number of seeds (recall only)'
  )
  parser.add_argument('--recall_steps', type=int, default=600)
  parser.add_argument('--recall_batch', type=int, default=64)
  parser.add_argument('--books', help='documents, as for DocumentLanes.path')
  parser.add_argument('--books_d_model', type=int, default=128)
  parser.add_argument('--books_layers', type=int, default=4)
  parser.add_argument('--books_window', type=int, default=128)
  parser.add_argument('--books_batch', type=int, default=4)
  parser.add_argument('--books_length', type=int, default=1024)
  parser.add_argument('--steps', type=int, default=1200, help='books only')
  parser.add_argument(
    '--rate', type=float, default=0.02, help='learning rate (books only)'
  )
  parser.add_argument('--seed', type=int, default=0, help='books only')
  arguments = parser.parse_args()
  print(f'jax {jax.__version__} on {jax.devices()[0].device_kind}')
  for name in arguments.parts.split(','):
    BENCHMARKS[name](arguments)


BENCHMARKS = {
  'step': step,
  'length': length,
  'decode': decode,
  'recall': recall,
  'books': books,
}


if __name__ == '__main__':
  main()

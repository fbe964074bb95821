"""Training speed on CPU, side by side with Trax and PyTorch.

    pip install torch hourglass-transformer-pytorch
    pip install block-recurrent-transformer-pytorch
    python benchmarks/training_speed.py [--parts=hourglass,recurrent]
        [--models=ours,trax,torch] [--rounds=7]

* hourglass: tokens per second of whole training steps (Adam) of 1@1 4@3 1@1,
  width 256, 4 heads, 4 x 1536 tokens, with attention resampling.
* recurrent: the same for a Block-Recurrent Transformer of 4 layers, width 256,
  window and states 512, one recurrent layer, 2 x 2048 tokens.

Each model runs in a process of its own, on all cores; a few steps of ours and
of another model alternate. 'ours, plain' is the same step without huge pages
and faster products. The share of the product speed is the time that the model's
FLOPs would take at the speed of a product of 2048 x 2048 matrices, over the
time of a step. The torch package has no relative positions: its Hourglass has
learned absolute ones, and attends within groups to resample.
"""

import argparse
import functools
import importlib.metadata
import os
import statistics
import sys
import time

from timing import Worker, report

PLAIN = {'GLIBC_TUNABLES': '', 'TRAX_HIER_CPU_PRODUCTS': '0'}
FAST = {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}
# Model: the function that makes it, and its environment.
ENVIRONMENTS = {
  'ours': FAST,
  'ours, plain': PLAIN,
  'ours, linear and rotary': FAST,
  'ours, no positions': FAST,
  'trax': PLAIN,
  'torch': {'OMP_WAIT_POLICY': 'passive'},
}
SHAPES = {'hourglass': (4, 1536), 'recurrent': (2, 2048)}
WIDTH, HEADS, VOCAB, RATE = 256, 4, 256, 1e-3


def our_step(part, name):
  """Our training step as a function without arguments, and its FLOPs."""
  from timing import TrainingSteps

  from trax_hier import layers
  from trax_hier.data import FromArrays
  from trax_hier.models import BlockRecurrentLM, HourglassLM
  from trax_hier.training import Adam

  P = functools.partial
  sizes = dict(
    vocab_size=VOCAB, d_model=WIDTH, d_ff=4 * WIDTH, n_heads=HEADS, dropout=0.0
  )
  if part == 'hourglass':
    extra = {}
    if 'linear' in name:
      extra = dict(
        shorten=layers.LinearShorten,
        upsample=layers.LinearUpsample,
        positions=layers.RotaryPositions,
      )
    model = P(
      HourglassLM, vanilla_layers=(1, 1), hierarchy='4@3', **sizes, **extra
    )
  else:
    if 'no positions' in name:
      sizes['positions'] = layers.NoPositions
    model = P(
      BlockRecurrentLM,
      n_layers=4,
      recurrent_layers=(3,),
      attention=P(layers.SlidingAttention, window=512),
      recurrent_attention=P(
        layers.BlockRecurrentCell, window=512, n_states=512
      ),
      carry=False,
      **sizes,
    )
  batch, length = SHAPES[part]
  tokens = random_tokens((4 * batch, length))
  data = FromArrays(train=tokens, valid=tokens, batch_size=batch, length=length)
  steps = TrainingSteps(model, data, P(Adam, RATE))
  steps.start()
  return lambda: steps.run(1), steps.flops()


def trax_step(part, name):
  """The step of Trax's own Hourglass, with its Adam."""
  del part, name
  import jax
  import jax.numpy as jnp

  from trax_hier.compat import ShapeDtype  # Before trax.

  from trax import optimizers  # isort: skip
  from trax.models.research import hourglass  # isort: skip

  model = hourglass.HourglassLM(
    vocab_size=VOCAB,
    d_model=WIDTH,
    d_ff=4 * WIDTH,
    n_heads=HEADS,
    dropout=0.0,
    vanilla_layers=(1, 1),
    hierarchy='4@3',
    mode='train',
  )
  tokens = jnp.asarray(random_tokens(SHAPES['hourglass']))
  rng = jax.random.PRNGKey(0)
  weights, state = jax.jit(
    lambda rng: model.init(ShapeDtype(tokens.shape, jnp.int32), rng)
  )(rng)
  adam = optimizers.Adam(RATE)
  slots, parameters = adam.tree_init(weights)

  def loss(weights, state, tokens):
    logits, state = model.pure_fn(tokens, weights, state, rng)
    log_probs = jax.nn.log_softmax(logits)
    scores = jnp.take_along_axis(log_probs, tokens[..., None], -1)
    return -jnp.mean(scores), state

  def step(i, weights, slots, state, tokens):
    (nats, state), grads = jax.value_and_grad(loss, has_aux=True)(
      weights, state, tokens
    )
    weights, slots, _ = adam.tree_update(i, grads, weights, slots, parameters)
    return weights, slots, state, nats

  step = jax.jit(step, donate_argnums=(1, 2, 3))
  kept = [weights, slots, state]

  def timed():
    start = time.perf_counter()
    *kept[:], _ = jax.block_until_ready(step(1, *kept, tokens))
    return time.perf_counter() - start

  return timed, None


def torch_step(part, name):
  """The step of a torch package, with torch's Adam."""
  del name
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  batch, length = SHAPES[part]
  if part == 'hourglass':
    from hourglass_transformer_pytorch import HourglassTransformerLM

    model = HourglassTransformerLM(
      num_tokens=VOCAB,
      dim=WIDTH,
      max_seq_len=length,
      depth=(1, 4, 1),
      shorten_factor=3,
      heads=HEADS,
      dim_head=WIDTH // HEADS,
    )
  else:
    from block_recurrent_transformer_pytorch import BlockRecurrentTransformer

    model = BlockRecurrentTransformer(
      num_tokens=VOCAB,
      dim=WIDTH,
      depth=4,
      heads=HEADS,
      dim_head=WIDTH // HEADS,
      max_seq_len=length,
      block_width=512,
      num_state_vectors=512,
      recurrent_layers=(3,),
    )
  tokens = torch.tensor(random_tokens((batch, length))).long()
  adam = torch.optim.Adam(model.parameters(), lr=RATE)

  def timed():
    start = time.perf_counter()
    logits = model(tokens)
    if isinstance(logits, tuple):
      logits = logits[0]
    loss = torch.nn.functional.cross_entropy(
      logits.reshape(-1, VOCAB), tokens.reshape(-1)
    )
    adam.zero_grad()
    loss.backward()
    adam.step()
    return time.perf_counter() - start

  return timed, None


def random_tokens(shape):
  import numpy as np

  rng = np.random.default_rng(0)
  return rng.integers(1, VOCAB, shape).astype(np.int32)


def work(part, name):
  """Answers each line with seconds of a step, and FLOPs or 0."""
  make = {'trax': trax_step, 'torch': torch_step}.get(name, our_step)
  step, flops = make(part, name)
  for _ in range(2):
    step()
  for _ in sys.stdin:
    # Memory that was idle during the other model's turn is slow at first.
    _, *seconds = [step() for _ in range(4)]
    report(statistics.median(seconds), flops or 0)


def product_speed():
  """FLOP/s of a product of 2048 x 2048 matrices, the best of some."""
  import jax
  import jax.numpy as jnp

  n = 2048
  x = jnp.ones((n, n))
  product = jax.jit(jnp.matmul)
  best = 0
  for _ in range(10):
    start = time.perf_counter()
    product(x, x).block_until_ready()
    best = max(best, 2 * n**3 / (time.perf_counter() - start))
  return best


def models(part, arguments):
  """Prints the speeds of whole steps."""
  wanted = arguments.models.split(',')
  names = [
    name
    for name in ENVIRONMENTS
    if name.split(',')[0] in wanted and name != 'ours'
  ]
  excluded = {
    'hourglass': ['ours, no positions'],
    'recurrent': ['trax', 'ours, linear and rotary'],
  }
  names = [name for name in names if name not in excluded[part]]
  batch, length = SHAPES[part]
  n_tokens = batch * length
  print(
    f'{part}: width {WIDTH}, {batch} x {length} tokens, Adam, medians of '
    f'{arguments.rounds} rounds, {len(os.sched_getaffinity(0))} cores'
  )
  print(f'{"other":26}{"ours":>8}{"other":>8}{"ratio":>7}{"of products":>13}')
  peak = product_speed()
  for name in names:
    own, flops, other = pair(part, name, arguments.rounds)
    share = flops / peak / own
    print(
      f'{name:26}{n_tokens / own:8.0f}{n_tokens / other:8.0f}'
      f'{other / own:7.2f}{share:13.2f}',
      flush=True,
    )
  print(f'a large product runs at {peak / 1e9:.0f} GFLOP/s')


def pair(part, name, rounds):
  """Median seconds of our step, its FLOPs, and seconds of another model's.

  More processes at once would compete for memory, whose huge pages run out.
  """
  workers = []
  for each in ('ours', name):
    workers.append(
      Worker([f'--worker={part}', f'--models={each}'], ENVIRONMENTS[each])
    )
    workers[-1].ask()  # Compiles before the next process starts.
  answers = [[worker.ask() for worker in workers] for _ in range(rounds)]
  for worker in workers:
    worker.close()
  (own, flops), (other, _) = (
    map(statistics.median, zip(*each, strict=True))
    for each in zip(*answers, strict=True)
  )
  return own, flops, other


def versions():
  """The versions of the packages that are here."""
  found = []
  for package in (
    'jax',
    'trax',
    'torch',
    'hourglass-transformer-pytorch',
    'block-recurrent-transformer-pytorch',
  ):
    try:
      found.append(f'{package} {importlib.metadata.version(package)}')
    except importlib.metadata.PackageNotFoundError:
      continue
  return ', '.join(found)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--parts', default='hourglass,recurrent')
  parser.add_argument('--models', default='ours,trax,torch')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--worker', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    work(arguments.worker, arguments.models)
    return
  print(versions())
  for part in arguments.parts.split(','):
    models(part, arguments)


if __name__ == '__main__':
  main()

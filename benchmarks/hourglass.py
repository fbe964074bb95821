"""Training speed of our Hourglass and Trax's, and compile time by depth.

    python benchmarks/hourglass.py [--length=768] [--d_model=256] [--rounds=7]

Both models compute loss and gradients under plain `jax.jit`, alternately in one
process, on the same tokens. The result is the ratio of the medians. Peer: the
HourglassLM of trax 1.4.1 on the same JAX.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from trax_hier.compat import ShapeDtype
from trax_hier.layers import (
  AttentionShorten,
  AttentionUpsample,
  LinearShorten,
  LinearUpsample,
  RepeatUpsample,
)
from trax_hier.models import HourglassLM, TransformerLM

# trax must be imported after the compatibility layer.
from trax.layers.research import resampling  # isort: skip
from trax.models.research import hourglass as official  # isort: skip

_VARIANTS = {
  'attention, average and repeat': (
    dict(attention_upsampling_fn=resampling.NaiveUpsampling),
    dict(upsample=functools.partial(AttentionUpsample, expand=RepeatUpsample)),
  ),
  'attention, linear': (
    dict(attention_downsampling_fn=resampling.LinearPooling),
    dict(shorten=functools.partial(AttentionShorten, pool=LinearShorten)),
  ),
  'linear': (
    dict(
      downsampling_fn=resampling.LinearPooling,
      upsampling_fn=resampling.LinearUpsampling,
    ),
    dict(shorten=LinearShorten, upsample=LinearUpsample),
  ),
}


def gradient_step(layer, tokens):
  """Compiles loss and gradients; returns the call and the compile time in s."""
  signature = ShapeDtype(tokens.shape, np.int32)
  rng = jax.random.PRNGKey(0)
  shapes, state = jax.eval_shape(lambda rng: layer.init(signature, rng), rng)
  random = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda w: jnp.asarray(random.normal(size=w.shape) * 0.05, w.dtype), shapes
  )
  state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)

  def loss(weights, tokens):
    logits, _ = layer.pure_fn(tokens, weights, state, rng)
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_probs, tokens[..., None], -1))

  start = time.perf_counter()
  step = jax.jit(jax.value_and_grad(loss)).lower(weights, tokens).compile()
  seconds = time.perf_counter() - start
  return lambda: jax.block_until_ready(step(weights, tokens)), seconds


def speed(arguments):
  """Prints the tokens per second of both models for each variant."""
  rng = np.random.default_rng(1)
  shape = (arguments.batch_size, arguments.length)
  tokens = jnp.asarray(rng.integers(1, 256, shape), jnp.int32)
  common = dict(
    vocab_size=256,
    d_model=arguments.d_model,
    d_ff=4 * arguments.d_model,
    n_heads=8,
    dropout=0.0,
    vanilla_layers=(2, 2),
    hierarchy='4@3',
    mode='train',
  )
  print(
    f'2@1 4@3 2@1, d_model {arguments.d_model}, batch {shape[0]} x {shape[1]}, '
    f'jax {jax.__version__} on {jax.devices()[0].device_kind}'
  )
  print(f'{"resampling":32}{"trax tok/s":>12}{"ours tok/s":>12}{"ratio":>8}')
  for name, (theirs, ours) in _VARIANTS.items():
    steps = [
      gradient_step(official.HourglassLM(**common, **theirs), tokens)[0],
      gradient_step(HourglassLM(**common, **ours), tokens)[0],
    ]
    times = [[], []]
    for _ in range(arguments.rounds):
      for step, measured in zip(steps, times, strict=True):
        start = time.perf_counter()
        step()
        measured.append(time.perf_counter() - start)
    peer, own = (tokens.size / statistics.median(t[1:]) for t in times)
    print(f'{name:32}{peer:12.0f}{own:12.0f}{own / peer:8.2f}', flush=True)


def compile_time():
  """Prints the compile time of loss and gradients for 4 and 24 blocks."""
  tokens = jnp.ones((2, 128), jnp.int32)
  seconds = {}
  for _ in range(2):  # The second round is warm.
    for n_layers in (4, 24):
      layer = TransformerLM(
        vocab_size=256,
        d_model=64,
        d_ff=256,
        n_heads=4,
        n_layers=n_layers,
        dropout=0.0,
      )
      seconds[n_layers] = gradient_step(layer, tokens)[1]
  print(
    f'compile: 4 blocks {seconds[4]:.1f} s, 24 blocks {seconds[24]:.1f} s, '
    f'ratio {seconds[24] / seconds[4]:.2f}'
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--batch_size', type=int, default=2)
  parser.add_argument('--length', type=int, default=768)
  parser.add_argument('--d_model', type=int, default=256)
  parser.add_argument('--rounds', type=int, default=7)
  arguments = parser.parse_args()
  compile_time()
  speed(arguments)


if __name__ == '__main__':
  main()

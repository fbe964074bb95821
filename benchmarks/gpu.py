"""Benchmarks of one GPU; benchmarks/gpu.sh runs all of them in ten minutes.

    python benchmarks/gpu.py PART [--tiny] [--seconds=60] [--enwik8=FILE]

Parts:

* contract: the tests of flash attention and of six models, each row of the
  contract suite in its own process, as many as finish.
* train: training tokens per second and MFU, in bfloat16, of an Hourglass of
  about 100M parameters with attention resampling and relative positions, of the
  same model of trax 1.4.1, and of ours with rotary positions, with and without
  flash attention. The steps are those that `train` runs, with Adam and a
  donated state. MFU is the model's FLOPs over the peak of the device.
* torch: the same for hourglass-transformer-pytorch with torch's autocast.
* memory: temporary memory of a training step by length; nothing runs.
* pair: bits per byte of an Hourglass and a Transformer on enwik8, each trained
  for half of the seconds.

A figure is printed as soon as it is known. `--tiny` is a smoke test on CPU.
"""

import argparse
import contextlib
import functools
import math
import os
import pathlib
import subprocess
import sys
import time

P = functools.partial

ROOT = pathlib.Path(__file__).parents[1]
ROWS = (
  'hourglass',
  'block-recurrent',
  'retina',
  'windowed',
  'alternating',
  'transformer and not windowed and not alternating',
)


def say(text):
  print(text, flush=True)


# Contract
# ------------------------------------------------------------------------------
def contract(arguments):
  """Runs tests in processes of their own; returns whether all passed."""
  on_gpu = not arguments.tiny
  environment = os.environ | {
    # Tolerances are those of float32, which GPUs round to 10 bits by default.
    'JAX_DEFAULT_MATMUL_PRECISION': 'highest',
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    'XLA_FLAGS': '--xla_gpu_deterministic_ops=true' if on_gpu else '',
    'JAX_PLATFORMS': 'cuda' if on_gpu else 'cpu',
  }
  pytest = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider']
  suite = 'tests/test_contract.py', '-m', 'not slow', '-k'
  flash_tests = ['tests/layers/attention/test_flash.py', '-k']
  commands = {
    f'flash attention, {which}': [*flash_tests, which]
    for which in ('patterns', 'not patterns')
  }
  rows = ROWS[:1] if arguments.tiny else ROWS
  commands |= {row: [*suite, row] for row in rows}
  start = time.perf_counter()
  running = {
    name: subprocess.Popen(
      [*pytest, *command],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for name, command in commands.items()
  }
  failed = False
  for name, process in running.items():
    left = max(1, start + arguments.seconds - time.perf_counter())
    try:
      output, _ = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
      process.kill()
      output, _ = process.communicate()
      say(f'{name}: cut off; {output.strip()[-80:]}')
      continue
    say(f'{name}: {output.strip().splitlines()[-1]}')
    if process.returncode:
      failed = True
      say(output[-3000:])
  return not failed


# Training speed
# ------------------------------------------------------------------------------
def sizes(tiny):
  """Dimensions and layers of the Hourglass, of about 100M parameters."""
  if tiny:
    return dict(d_model=32, d_ff=64, n_heads=2, layers=(1, 1, 1))
  return dict(d_model=768, d_ff=3072, n_heads=8, layers=(2, 8, 2))


def batch_shape(tiny):
  """Rows and length, a multiple of the shorten factor 3 and of 128."""
  return (2, 384) if tiny else (8, 2304)


def hourglasses(tiny):
  """Factories of the models, and whether flash attention is on."""
  from trax_hier.layers import (
    AttentionUpsample,
    LinearShorten,
    LinearUpsample,
    RepeatUpsample,
    RotaryPositions,
  )
  from trax_hier.models import HourglassLM

  # trax must be imported after the compatibility layer.
  from trax.layers.research import resampling  # isort: skip
  from trax.models.research import hourglass as official  # isort: skip

  size = sizes(tiny)
  before, middle, after = size.pop('layers')
  common = dict(
    vocab_size=256,
    vanilla_layers=(before, after),
    hierarchy=f'{middle}@3',
    dropout=0.0,
    **size,
  )
  ours = P(
    HourglassLM,
    **common,
    upsample=P(AttentionUpsample, expand=RepeatUpsample),
  )
  theirs = P(
    official.HourglassLM,
    **common,
    attention_upsampling_fn=resampling.NaiveUpsampling,
  )
  linear = dict(shorten=LinearShorten, upsample=LinearUpsample)
  rotary = P(HourglassLM, **common, **linear, positions=RotaryPositions)
  return {
    'ours, relative': (ours, True),
    'trax 1.4.1, relative': (theirs, True),
    'ours, rotary, linear': (rotary, True),
    'ours, rotary, linear, no flash': (rotary, False),
  }


@contextlib.contextmanager
def flash(on):
  """Turns flash attention on or off for what is traced in this context."""
  os.environ['TRAX_HIER_FLASH_ATTENTION'] = str(int(on))
  try:
    yield
  finally:
    del os.environ['TRAX_HIER_FLASH_ATTENTION']


def train(arguments):
  """Prints training speed and MFU of our models and of trax's."""
  import jax
  from timing import TrainingSteps

  from trax_hier.data import StandardLibrary
  from trax_hier.training import Adam
  from trax_hier.training.utilization import peak_flops

  shape = batch_shape(arguments.tiny)
  data = StandardLibrary(*shape)
  kind = jax.devices()[0].device_kind
  peak = peak_flops(kind)
  say(f'train: batch {shape[0]} x {shape[1]}, bfloat16, Adam, on {kind}')
  say(
    f'{"":32}{"tokens/s":>10}{"ms":>9}{"TFLOP/s":>9}{"MFU":>7}'
    f'{"compile s":>10}{"temp GB":>8}{"loss":>8}'
  )
  for name, (model, on) in hourglasses(arguments.tiny).items():
    try:
      with flash(on):
        steps = TrainingSteps(
          model, data, P(Adam, 1e-4), compute_dtype='bfloat16', eval_batches=1
        )
        flops = steps.flops()
      steps.start()
      steps.run(3)  # Warms up.
      n = 2 if arguments.tiny else 20
      seconds = min(steps.run(n) / n for _ in range(2))
    except Exception as error:  # The other models still count.
      say(f'{name:32} failed: {str(error).strip()[:300]}')
      continue
    mfu = f'{100 * flops / seconds / peak:6.1f}%' if peak else f'{"-":>7}'
    say(
      f'{name:32}{steps.n_tokens / seconds:10.0f}{1e3 * seconds:9.2f}'
      f'{flops / seconds / 1e12:9.1f}{mfu}{steps.compile_seconds:10.1f}'
      f'{steps.temporary / 1e9:8.2f}{steps.losses[-1]:8.3f}'
    )
    del steps  # Frees its memory.


def train_torch(arguments):
  """Prints the training speed of hourglass-transformer-pytorch."""
  try:
    import torch
    from hourglass_transformer_pytorch import HourglassTransformerLM
  except ImportError as error:
    say(f'torch: skipped: {error}')
    return
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  if device == 'cpu' and not arguments.tiny:
    say('torch: skipped: it finds no GPU')
    return
  size = sizes(arguments.tiny)
  rows, length = batch_shape(arguments.tiny)
  model = HourglassTransformerLM(
    num_tokens=256,
    dim=size['d_model'],
    max_seq_len=length,
    depth=size['layers'],
    shorten_factor=3,
    heads=size['n_heads'],
    dim_head=size['d_model'] // size['n_heads'],
    attn_resampling=True,
    updown_sample_type='naive',
  ).to(device)
  n_parameters = sum(p.numel() for p in model.parameters())
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
  tokens = torch.randint(1, 256, (rows, length), device=device)

  def step():
    with torch.autocast(device, dtype=torch.bfloat16):
      logits = model(tokens)
    loss = torch.nn.functional.cross_entropy(
      logits.float().flatten(0, 1), tokens.flatten()
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss

  def run(n):
    start = time.perf_counter()
    for _ in range(n):
      loss = step()
    loss.item()  # Waits.
    return (time.perf_counter() - start) / n

  run(3)  # Warms up.
  n = 2 if arguments.tiny else 20
  seconds = min(run(n) for _ in range(2))
  say(
    f'torch {torch.__version__}, hourglass-transformer-pytorch, '
    f'{n_parameters / 1e6:.0f}M parameters, batch {rows} x {length}, bfloat16: '
    f'{rows * length / seconds:.0f} tokens/s, {1e3 * seconds:.2f} ms'
  )


# Memory
# ------------------------------------------------------------------------------
def memory(arguments):
  """Prints the temporary memory of a training step, by length."""
  from timing import TrainingSteps

  from trax_hier.data import StandardLibrary
  from trax_hier.layers import RotaryPositions
  from trax_hier.models import HourglassLM, TransformerLM
  from trax_hier.training import Adam

  width = 32 if arguments.tiny else 512
  size = dict(vocab_size=256, d_model=width, d_ff=4 * width, dropout=0.0)
  transformer = P(TransformerLM, **size, n_layers=6, n_heads=width // 16)
  hourglass = P(HourglassLM, **size, hierarchy='4@3', n_heads=width // 16)
  if not arguments.tiny:
    transformer, hourglass = (P(m, n_heads=8) for m in (transformer, hourglass))
  rotary = P(transformer, positions=RotaryPositions)
  models = {
    'Transformer, rotary': (rotary, True),
    'the same, no flash': (rotary, False),
    'Hourglass 1@1 4@3 1@1, relative': (hourglass, True),
  }
  tokens, lengths = 32768, (1024, 4096, 16384)
  if arguments.tiny:
    tokens, lengths = 512, (128, 256)
  say(
    f'memory: d_model {width}, 6 layers, {tokens} tokens in bfloat16: GB of '
    'temporary memory of a training step, by length'
  )
  say(f'{"":32}' + ''.join(f'{n:>9}' for n in lengths))
  for name, (model, on) in models.items():
    line = f'{name:32}'
    for length in lengths:
      data = StandardLibrary(tokens // length, length)
      try:
        with flash(on):
          steps = TrainingSteps(
            model, data, Adam, compute_dtype='bfloat16', eval_batches=1
          )
        line += f'{steps.temporary / 1e9:9.2f}'
      except Exception as error:
        say(f'{name}, {length}: {str(error).strip()[:300]}')
        line += f'{"failed":>9}'
    say(line)


# Quality
# ------------------------------------------------------------------------------
def pair(arguments):
  """Prints bits per byte of two models trained for equal times on enwik8."""
  if not arguments.enwik8:
    say('pair: skipped: it needs --enwik8')
    return
  from timing import TrainingSteps

  from trax_hier.data import Enwik8
  from trax_hier.layers import RotaryPositions
  from trax_hier.models import HourglassLM, TransformerLM
  from trax_hier.training import Adam, multifactor

  width, layers = (32, 1) if arguments.tiny else (512, 4)
  size = dict(
    vocab_size=256,
    d_model=width,
    d_ff=4 * width,
    n_heads=max(2, width // 64),
    dropout=0.0,
    positions=RotaryPositions,
  )
  shape = (2, 96) if arguments.tiny else (16, 1536)
  models = {
    f'Hourglass {layers}@1 {2 * layers}@3 {layers}@1': P(
      HourglassLM,
      **size,
      vanilla_layers=(layers, layers),
      hierarchy=f'{2 * layers}@3',
    ),
    f'Transformer, {3 * layers} layers': P(
      TransformerLM, **size, n_layers=3 * layers
    ),
  }
  data = Enwik8(arguments.enwik8, *shape)
  rate = multifactor(
    'constant * linear_warmup * rsqrt_normalized_decay',
    constant=1e-3,
    warmup_steps=200,
  )
  say(f'pair: enwik8, batches of {shape[0]} x {shape[1]}, bfloat16, d {width}')
  start = time.perf_counter()
  trainings, evaluation = {}, 0.0
  for name, model in models.items():
    trainings[name] = steps = TrainingSteps(
      model,
      data,
      P(Adam, rate),
      compute_dtype='bfloat16',
      eval_batches=2 if arguments.tiny else 40,
    )
    steps.start()
    steps.evaluate()  # Compiles.
    before = time.perf_counter()
    steps.evaluate()
    evaluation += time.perf_counter() - before
  elapsed = time.perf_counter() - start
  share = (arguments.seconds - elapsed - evaluation) / len(models)
  say(f'compiled in {elapsed:.0f} s; each trains for {share:.0f} s')
  for name, steps in trainings.items():
    train_for(share, name, steps)


def train_for(seconds, name, steps):
  """Trains for some seconds and prints the result."""
  trained, quarter = 0.0, 1
  while trained < seconds:
    trained += steps.run(10)
    if trained >= quarter * seconds / 4:
      quarter += 1
      bits = sum(steps.losses[-10:]) / 10 / math.log(2)
      say(f'  {name}: step {steps.steps}, {bits:.3f} bits in training')
  bits = steps.evaluate()['bits_per_byte']
  say(
    f'{name}: {bits:.4f} bits per byte, held out, after {steps.steps} steps in '
    f'{trained:.0f} s, {steps.steps * steps.n_tokens / trained:.0f} bytes/s'
  )


PARTS = {
  'contract': contract,
  'train': train,
  'torch': train_torch,
  'memory': memory,
  'pair': pair,
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('part', choices=PARTS)
  add('--tiny', action='store_true', help='smoke test, also on CPU')
  add('--seconds', type=float, default=60, help='for contract and pair')
  add('--enwik8', help='the file, raw or compressed (pair only)')
  arguments = parser.parse_args()
  if PARTS[arguments.part](arguments) is False:
    sys.exit(1)


if __name__ == '__main__':
  main()

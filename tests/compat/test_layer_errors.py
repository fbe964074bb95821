"""Snapshot tests of error messages.

Each message is compared with `golden/errors/NAME.txt`. After a change of the
messages, rewrite the files and read them:

    python tests/compat/test_layer_errors.py --write
"""

import contextlib
import functools
import io
import re
import sys
import tempfile
import traceback
from pathlib import Path

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config, trainer
from trax_hier import layers as hl
from trax_hier.compat import base, signature, tl
from trax_hier.layers.base import slots
from trax_hier.models import HourglassLM, TransformerLM

GOLDEN = Path(__file__).parents[1] / 'golden' / 'errors'
SIZES = dict(vocab_size=17, d_model=16, d_ff=32, n_heads=2, dropout=0.0)
TOKENS = np.zeros((2, 16), np.int32)
VECTORS = np.zeros((2, 16, 12), np.float32)


def train(*bindings, files=('quickstart.gin', 'smoke.gin')):
  """Runs the trainer, which must exit with 2, and returns its error output."""
  arguments = [f'--config_file={name}' for name in files]
  arguments += [f'--config={binding}' for binding in bindings]
  stderr = io.StringIO()
  config.clear()
  try:
    with (
      contextlib.redirect_stderr(stderr),
      tempfile.TemporaryDirectory() as folder,
    ):
      code = trainer.main([*arguments, f'--output_dir={folder}'])
  finally:
    config.clear()
  assert code == 2, stderr.getvalue()
  return stderr.getvalue()


def call(layer, x):
  """The error of a layer that is initialized for x and called with it."""
  with pytest.raises(base.LayerError) as caught:
    jax.eval_shape(lambda: [layer.init(signature(x)), layer(x)])
  return f'{caught.value}\n'


def refused(make):
  """The error of a model whose part does not fit its slot."""
  with pytest.raises(slots.MisfitError) as caught:
    make()
  return f'{config.explain(caught.value)}\n'


def ChangesWidth():
  """A residual branch whose output has a different width."""
  return tl.Serial(tl.Dense(8), tl.Residual(tl.LayerNorm(), tl.Dense(4)))


def AddsOne():
  """A layer that needs one more input than the stack has."""
  return tl.Serial(tl.Dense(8), tl.Add())


def Widening(d_model):
  """A block whose outputs are wider than its inputs."""
  return tl.Dense(d_model + 1)


def NoOutputProjection(d_model):
  """A feed-forward layer without its output projection."""
  return tl.Serial(hl.Dense(4 * d_model), tl.Relu())


def called_with_other_width():
  layer = tl.Dense(8)
  layer.init(signature(VECTORS))
  with pytest.raises(base.LayerError) as caught:
    layer(VECTORS[..., :5])
  return f'{caught.value}\n'


def called_before_init():
  with pytest.raises(base.LayerError) as caught:
    tl.Serial(hl.Dense(8), tl.Relu())(VECTORS)
  return f'{caught.value}\n'


CASES = {
  # On the command line.
  'misspelled_parameter': lambda: train("HourglassLM.hierachy = '2@2'"),
  'misspelled_reference': lambda: train('HourglassLM.shorten = @LinearShortn'),
  'wrong_type': lambda: train("HourglassLM.d_model = '512'"),
  'wrong_choice': lambda: train("HourglassLM.hierarchy = '3@3 2@2'"),
  'data_not_given': lambda: train(files=('hourglass/enwik8.gin',)),
  'heads_do_not_divide': lambda: train('N_HEADS = 3'),
  'small_vocabulary': lambda: train('VOCAB_SIZE = 100'),
  'no_sources': lambda: train(
    "DATA = 'elsewhere'", files=('scaling/800m_ff.gin', 'smoke.gin')
  ),
  'batch_in_parts': lambda: train('train.accumulate_steps = 3'),
  'few_positions': lambda: train(
    'LearnedPositions.n_positions = 64', files=('scaling/text.gin', 'smoke.gin')
  ),
  'no_effect': lambda: train('LinearShorten.dropout = 0.1'),
  # In Python.
  'residual_changes_width': lambda: call(ChangesWidth(), VECTORS),
  'feed_forward_changes_width': lambda: refused(
    lambda: HourglassLM(
      **SIZES,
      hierarchy='1@2',
      shortened_block=functools.partial(
        hl.DecoderBlock, feed_forward=NoOutputProjection
      ),
      remat=True,
    )
  ),
  'block_changes_width': lambda: refused(
    lambda: TransformerLM(**SIZES, n_layers=3, block=Widening)
  ),
  'block_changes_dtype': lambda: call(
    hl.Repeat(lambda: tl.Fn('Half', lambda x: x.astype(jnp.bfloat16)), 3),
    VECTORS,
  ),
  'missing_input': lambda: call(AddsOne(), VECTORS),
  'input_width_differs_from_init': called_with_other_width,
  'called_before_init': called_before_init,
  'float_tokens': lambda: call(
    TransformerLM(**SIZES, n_layers=1), TOKENS.astype(np.float32)
  ),
  'tokens_without_batch': lambda: call(
    TransformerLM(**SIZES, n_layers=1), TOKENS[0]
  ),
  'prompt_too_long': lambda: call(
    TransformerLM(**SIZES, n_layers=1, max_len=8, mode='predict'), TOKENS
  ),
}


def message(name):
  """The message of a case, without the paths of this machine."""
  text = CASES[name]().replace(f'{config.packaged_gin_dir()}/', '')
  text = re.sub(r'(?:\.\./)*[^\s(]*\bgin/(?=\w+[/.])', '', text)
  return text.replace(f'{Path.cwd()}/', '')


@pytest.mark.parametrize('name', CASES)
def test_message(name):
  assert message(name) == (GOLDEN / f'{name}.txt').read_text()


def test_every_file_has_a_case():
  assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


def fails(x):
  """Fails inside JAX."""
  return x + jnp.zeros(7)


def FailsInside():
  """A layer that fails inside combinators."""
  return tl.Serial(
    tl.Branch(None, tl.Residual(tl.Fn('Fails', fails))), tl.Add()
  )


@pytest.mark.parametrize(
  'transform',
  [
    lambda f: f,
    jax.jit,
    jax.checkpoint,
    jax.vmap,
    lambda f: jax.grad(lambda x: jnp.sum(f(x))),
    lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, 2),
  ],
  ids=['plain', 'jit', 'checkpoint', 'vmap', 'grad', 'scan'],
)
def test_the_path_appears_once_under(transform):
  layer = FailsInside()
  layer.init(signature(VECTORS[..., :1]))
  f = transform(
    lambda x: layer.pure_fn(x, layer.weights, layer.state, layer.rng)[0]
  )
  with pytest.raises(base.LayerError) as caught:
    f(jnp.asarray(VECTORS))
  text = str(caught.value)
  assert text.startswith('FailsInside / Fails: cannot broadcast ')
  assert '16, 12) float32)' in text and text.count('Fails: ') == 1


def Nested():
  """Makes a layer in an inner function."""

  def inner():
    return tl.Serial(_Private(), tl.Relu())

  return inner()


class _Private(base.Layer):
  def forward(self, x):
    return fails(x)


@pytest.mark.parametrize(
  'layer, path',
  [
    (tl.Serial(tl.Serial(tl.Fn('Fails', fails))), 'Fails'),
    (tl.Serial(Nested()), 'Nested / Private'),
    # A combinator is named if it raises the error itself.
    (tl.Serial(tl.Fn('Two', lambda x, y: x)), 'Serial'),
  ],
)
def test_names_in_the_path(layer, path):
  with pytest.raises(base.LayerError) as caught:
    layer(VECTORS)
  assert str(caught.value).partition(': ')[0] == path


def test_the_cause_is_the_original_error_without_frames_of_jax():
  with pytest.raises(base.LayerError) as caught:
    FailsInside()(VECTORS)
  cause = caught.value.__cause__
  assert isinstance(cause, ValueError) and caught.value.cause is cause
  frames = traceback.extract_tb(cause.__traceback__)
  assert frames[-1].line == 'return x + jnp.zeros(7)'
  assert not [f for f in frames if '/jax/' in f.filename]
  assert len(traceback.format_exception(caught.value)) < 30


def test_unfiltered_tracebacks_have_the_frames_of_jax():
  before = jax.config.jax_traceback_filtering
  jax.config.update('jax_traceback_filtering', 'off')
  try:
    with pytest.raises(base.LayerError) as caught:
      FailsInside()(VECTORS)
  finally:
    jax.config.update('jax_traceback_filtering', before)
  frames = traceback.extract_tb(caught.value.__cause__.__traceback__)
  assert '/jax/' in frames[-1].filename


@pytest.mark.parametrize(
  'error, text',
  [
    (ValueError('n = 3 is odd.'), 'n = 3 is odd (got'),
    (KeyError('x'), "KeyError: 'x' (got"),
    (AssertionError(), 'AssertionError: test_layer_errors.py:'),
    (ValueError('a\n  b'), 'a b (got'),
  ],
)
def test_the_problem_is_one_paragraph(error, text):
  def fail(x):
    raise error

  with pytest.raises(base.LayerError) as caught:
    tl.Fn('Fails', fail)(VECTORS)
  assert str(caught.value).startswith(f'Fails: {text}')
  assert '\n' not in str(caught.value)
  assert caught.value.message == str(caught.value)
  assert config.explain(caught.value) == str(caught.value)


def test_inputs_that_are_not_arrays():
  with pytest.raises(base.LayerError, match=r'signature\(array\) in init'):
    tl.Dense(3).init((2, 16))


def test_the_message_names_the_configurable():
  @gin.configurable(module='trax_hier.testing')
  def Odd(n):
    raise ValueError(f'n = {n} is odd')

  try:
    with pytest.raises(ValueError) as caught:
      Odd(3)
  finally:
    gin.config._REGISTRY.pop('trax_hier.testing.Odd')
  assert config.explain(caught.value) == 'Odd: n = 3 is odd'


def write():
  """Rewrites the files of all cases."""
  GOLDEN.mkdir(parents=True, exist_ok=True)
  for path in GOLDEN.iterdir():
    path.unlink()
  for name in CASES:
    (GOLDEN / f'{name}.txt').write_text(message(name))


if __name__ == '__main__':
  assert sys.argv[1:] == ['--write'], __doc__
  write()

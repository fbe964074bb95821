"""Weights in the checkpoints that Trax's training wrote, also years ago."""

import gzip
import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import toy

from trax_hier import config
from trax_hier.compat import ShapeDtype, tl
from trax_hier.storage.trax_files import read_trax_weights


@pytest.fixture(autouse=True)
def clear_config():
  """Forgets calls of other tests, which training writes to a gin file."""
  config.clear()


def train(folder, **arguments):
  """Two steps of Trax's training: its `Loop`, or its `Trainer`."""
  from trax import optimizers
  from trax.data import inputs
  from trax.supervised import lr_schedules, trainer_lib

  def batches(n_devices):
    while True:
      x = toy.tokens(5)
      yield x, x, np.ones_like(x, np.float32)

  def model(mode):
    return tl.Serial(tl.Embedding(toy.VOCAB, 4), tl.Dense(toy.VOCAB))

  return trainer_lib.train(
    str(folder),
    model=model,
    inputs=inputs.Inputs(batches),
    optimizer=optimizers.Adam,
    lr_schedule_fn=lr_schedules.multifactor,
    checkpoint_lowest='loss',
    eval_frequency=1,
    eval_steps=1,
    steps=2,
    **arguments,
  )


def assert_equal(found, expected):
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_array_equal(x, y)


def test_checkpoints_of_loop_are_read(tmp_path):
  loop = train(tmp_path)
  expected = jax.tree.leaves(loop.model.weights)
  for name in (
    'model.pkl.gz',
    'lowest_loss.pkl.gz',
    'model.weights.npy.gz',
  ):
    assert_equal(read_trax_weights(tmp_path / name), expected)


def test_checkpoints_of_trainer_are_read(tmp_path):
  state = train(tmp_path, use_loop=False, checkpoints_at=[2])
  expected = jax.tree.leaves(state.opt_state.weights)
  for name in ('model.pkl.gz', 'model_2.pkl.gz', 'lowest_loss.pkl.gz'):
    assert_equal(read_trax_weights(tmp_path / name), expected)


# Names of today, and of Trax and JAX in 2020, in protocols with plain names.
OLD_NAMES = {
  b'ctrax.supervised.history\n': b'ctrax.history\n',
  b'cnumpy._core.multiarray\n': b'cnumpy.core.multiarray\n',
  b'cjax.numpy\nint32\n': b'cjax.numpy.lax_numpy\nint32\n',
}


@pytest.mark.parametrize('protocol', [2, 3])
def test_files_of_2020_are_read(tmp_path, protocol):
  """As `Trainer` wrote the published files: JAX's arrays as those of NumPy."""
  from trax.supervised.history import History

  history = History()
  history.append('eval', 'metrics/loss', 1, np.float32(2.0))
  history.append('train', 'metrics/loss', 1, np.array(2.0, np.float32))
  embedding, positions = toy.normal(5, 4), toy.normal(1, 8, 4)
  content = {
    'step': 7,
    'flat_weights': [embedding, positions],
    'slots': [(toy.normal(5, 4), ()), [(toy.normal(1, 8, 4), ())]],
    'opt_params': {'learning_rate': np.array(0.1), 'b1': 0.9},
    'history': history,
    'flat_state': [(), np.zeros(2, np.int32)],
    'input_signature': ShapeDtype((2, 8), jnp.int32),
    'version_timestamp': 'Jun-18-2020',
  }
  text = pickle.dumps(content, protocol)
  for name, old in OLD_NAMES.items():
    assert name in text
    text = text.replace(name, old)
  file = tmp_path / 'model.pkl.gz'
  file.write_bytes(gzip.compress(text))
  assert_equal(read_trax_weights(file), [embedding, positions])


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('convert', [np.asarray, jnp.asarray])
def test_bfloat16_becomes_float32(tmp_path, protocol, convert):
  """`Trainer` pickles the arrays themselves; `Loop` writes their bits."""
  array = convert(np.array([1.5, -2.0], ml_dtypes.bfloat16))
  file = tmp_path / 'model.pkl.gz'
  file.write_bytes(
    gzip.compress(pickle.dumps({'flat_weights': [array]}, protocol))
  )
  (found,) = read_trax_weights(file)
  assert found.dtype == np.float32 and found.tolist() == [1.5, -2.0]


def test_only_one_encoding_of_bytes_is_read(tmp_path):
  file = tmp_path / 'model.pkl.gz'
  text = pickle.dumps({'flat_weights': [np.ones(2)]}, 2)
  assert b'latin1' in text
  file.write_bytes(gzip.compress(text.replace(b'latin1', b'rot-13')))
  with pytest.raises(ValueError, match="bytes in the encoding 'rot-13'"):
    read_trax_weights(file)

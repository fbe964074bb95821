"""No damage to a checkpoint loads in silence; nor do values not finite."""

import contextlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hier.training import NotFiniteError
from trax_hier.training.checkpoints import CheckpointError, Checkpoints

# Without the digests, checkpoints load as those of older versions do.
UNVERIFIED = 'checkpoint 2 is not verified: it was saved without digests'


def make_state(step):
  rng = np.random.default_rng(step)

  def array(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  return {
    'weights': (array(30, 7), (array(5),)),
    'opt_state': (array(3), jnp.int32(step)),
  }


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def position(step):
  return {'step': step, 'seed': 0}


def save(folder, states):
  checkpoints = Checkpoints(folder)
  for step, state in states.items():
    checkpoints.save(step, state, position(step))
    checkpoints.wait()
  checkpoints.close()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A folder with checkpoints of steps 1 and 2; tests damage copies."""
  folder = tmp_path_factory.mktemp('saved') / 'checkpoints'
  save(folder, {step: make_state(step) for step in (1, 2)})
  return folder


def bits(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def flip_a_bit(file, rng):
  content = bytearray(file.read_bytes())
  bit = int(rng.integers(8 * len(content)))
  content[bit // 8] ^= 1 << bit % 8
  file.write_bytes(content)


def load_weights(folder, say):
  with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
    step, weights = checkpoints.load_weights(
      abstract(make_state(1)['weights']), say
    )
  assert bits(weights) == bits(make_state(step)['weights'])
  return step


def restore(folder, say):
  with contextlib.closing(Checkpoints(folder)) as checkpoints:
    step, state, found = checkpoints.restore(abstract(make_state(1)), say)
  assert bits(state) == bits(make_state(step))
  assert found == position(step)
  return step


@pytest.mark.parametrize(
  'n_flips', [2, pytest.param(20, marks=pytest.mark.slow)]
)
def test_no_flipped_bit_loads_in_silence(saved, tmp_path, n_flips):
  files = [x for x in sorted((saved / '2').rglob('*')) if x.is_file()]
  rng = np.random.default_rng(0)
  found = set()
  for i, file in enumerate(files * n_flips):
    copy = shutil.copytree(saved, tmp_path / str(i) / 'checkpoints')
    flip_a_bit(copy / file.relative_to(saved), rng)
    for load in (load_weights, restore):
      said = []
      # Values that are wrong fail in `load`.
      with contextlib.suppress(CheckpointError):
        step = load(copy, said.append)
        assert step == 2 or said
        found.add(step)
  # Files that nothing reads do not matter.
  assert found == {1, 2}


def test_digests_find_what_orbax_does_not(saved, tmp_path):
  """Other values, well-formed and of the right shape."""
  copy = shutil.copytree(saved, tmp_path / 'checkpoints')
  shutil.rmtree(copy / '2' / 'state')
  shutil.copytree(copy / '1' / 'state', copy / '2' / 'state')
  said = []
  checkpoints = Checkpoints(copy)
  step, _, _ = checkpoints.restore(abstract(make_state(1)), said.append)
  assert step == 1
  assert said == [
    'checkpoint 2 cannot be loaded: 4 of 4 arrays (opt_state.0, opt_state.1, '
    'weights.0, …) differ from their digests',
    'falling back to checkpoint 1',
  ]
  # Only what is loaded is verified.
  with pytest.raises(ValueError, match='has checkpoints of these steps: 1'):
    checkpoints.load_weights(abstract(make_state(1)['weights']), print, 2)


@pytest.mark.parametrize('file', ['_CHECKPOINT_METADATA', 'digests/metadata'])
def test_metadata_nested_without_end(saved, tmp_path, file):
  folder = shutil.copytree(saved, tmp_path / 'checkpoints')
  for step in '12':
    (folder / step / file).write_text('[' * 10**5, encoding='utf-8')

  def load():
    with contextlib.closing(Checkpoints(folder, read_only=True)) as opened:
      opened.load_weights(abstract(make_state(1)['weights']), lambda line: None)

  with pytest.raises(CheckpointError) as e:
    load()
  assert len(str(e.value)) < 400 and str(tmp_path) in str(e.value)


def test_a_checkpoint_without_digests_is_said_not_to_be_verified(
  saved, tmp_path
):
  copy = shutil.copytree(saved, tmp_path / 'checkpoints')
  shutil.rmtree(copy / '2' / 'digests')
  said = []
  step, state, _ = Checkpoints(copy).restore(
    abstract(make_state(1)), said.append
  )
  assert step == 2 and bits(state) == bits(make_state(2))
  assert said == [UNVERIFIED]


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('field', ['weights', 'opt_state'])
def test_values_not_finite_are_not_saved(tmp_path, field, value):
  state = make_state(2)
  array, *rest = state[field]
  state[field] = (array.at[1].set(value), *rest)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, make_state(1), position(1))
  with pytest.raises(
    NotFiniteError,
    match=rf'^step 2 is not saved: 1 of 4 arrays \({field}\.0\) are not finite',
  ):
    checkpoints.save(2, state, position(2))
  checkpoints.wait()
  assert checkpoints.steps() == [1]


def test_saved_values_not_finite_are_fallen_back_from(tmp_path, monkeypatch):
  from trax_hier.training import checkpoints as module

  bad = make_state(2)
  bad['weights'] = (bad['weights'][0].at[0].set(np.nan), bad['weights'][1])
  with monkeypatch.context() as patch:
    patch.setattr(module, 'not_finite_arrays', lambda summaries: [])
    save(tmp_path, {1: make_state(1), 2: bad})
  said = []
  checkpoints = Checkpoints(tmp_path, read_only=True)
  weights = abstract(make_state(1)['weights'])
  assert checkpoints.load_weights(weights, said.append)[0] == 1
  assert said == [
    'checkpoint 2 cannot be loaded: 1 of 2 arrays (weights.0) are not finite',
    'falling back to checkpoint 1',
  ]
  with pytest.raises(CheckpointError, match='are not finite'):
    checkpoints.load_weights(weights, print, step=2)


@pytest.mark.parametrize(
  'losses, kept',
  [
    ([3, 5, 6, 7, 8], [1, 4, 5]),
    ([3, 5, 6, 7, np.nan], [1, 4, 5]),
    ([2, 9, np.nan, 8, 7, 6, 5], [1, 6, 7]),
    ([np.nan, 4, np.inf, 5, 6], [2, 4, 5]),
    ([np.nan, np.nan, np.nan], [2, 3]),
    ([-np.inf, 4, 5, 6], [2, 3, 4]),
  ],
)
def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path, losses, kept):
  state = {'weights': jnp.ones(3)}
  checkpoints = Checkpoints(tmp_path, keep=2)
  for step, loss in enumerate(losses, 1):
    checkpoints.evaluated(step, loss)
    checkpoints.save(step, state, {})
  checkpoints.wait()
  assert checkpoints.steps() == kept

"""Checkpoints: exact round trips, fallback from damage, retention."""

import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from trax_hier.training.checkpoints import (
  CheckpointError,
  Checkpoints,
  named_leaves,
)


def make_state(seed=0, width=300):
  """A tree like those of trax, with markers, empty tuples and integers."""
  rng = np.random.default_rng(seed)
  return (
    jnp.asarray(rng.normal(size=(width, 7)), jnp.float32),
    (),
    ({'__marker_for_cached_weights_': ()}, jnp.asarray(3, jnp.int32)),
    ((jnp.asarray(rng.normal(size=5), jnp.bfloat16),),),
  )


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def open_and_save(folder, steps, keep=10, losses=None):
  checkpoints = Checkpoints(folder, keep)
  for step in steps:
    checkpoints.save(step, make_state(step), {'step': step})
    if losses and step in losses:
      checkpoints.evaluated(step, losses[step])
  checkpoints.wait()
  return checkpoints


def damage(folder, step):
  """Cuts the data files of a checkpoint in half."""
  files = [f for f in (folder / str(step)).rglob('*') if f.stat().st_size > 500]
  files = [f for f in files if f.is_file() and f.parent.name == 'd']
  assert files
  for file in files:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def assert_trees_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def test_a_failed_save_raises_and_leaves_older_checkpoints(tmp_path):
  checkpoints = open_and_save(tmp_path, [1])
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  large = jnp.asarray(np.random.default_rng(0).normal(size=500_000))
  resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
  try:
    with pytest.raises(
      CheckpointError,
      match=r'cannot be written to .*; last complete checkpoint: step 1',
    ):
      checkpoints.save(2, (large,), {'step': 2})
      checkpoints.wait()
    checkpoints.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  again = Checkpoints(tmp_path)
  assert again.steps() == [1]
  step, state, _ = again.restore(abstract(make_state()), print)
  assert step == 1
  assert_trees_equal(state, make_state(1))
  again.save(2, (large,), {'step': 2})
  again.wait()
  assert again.steps() == [1, 2]


def test_leaves_are_named_by_path():
  assert list(named_leaves(make_state())) == ['0', '2.1', '3.0.0']


def test_the_newest_checkpoint_is_restored_exactly(tmp_path):
  open_and_save(tmp_path, [1, 2]).close()
  step, state, position = Checkpoints(tmp_path).restore(
    abstract(make_state()), pytest.fail
  )
  assert (step, position) == (2, {'step': 2})
  assert_trees_equal(state, make_state(2))


def test_restore_without_checkpoints_returns_none(tmp_path):
  assert Checkpoints(tmp_path).restore(abstract(make_state()), print) is None


def test_later_steps_do_not_change_a_pending_save(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  state = make_state()
  expected = jax.device_get(jax.tree.map(jnp.copy, state))
  update = jax.jit(
    lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0
  )
  checkpoints.save(1, state, {})
  for _ in range(20):
    state = update(state)
  checkpoints.close()
  _, restored, _ = Checkpoints(tmp_path).restore(abstract(state), pytest.fail)
  assert_trees_equal(restored, expected)


def test_a_damaged_newest_checkpoint_falls_back_and_is_printed(tmp_path):
  open_and_save(tmp_path, [1, 2, 3]).close()
  damage(tmp_path, 3)
  said = []
  checkpoints = Checkpoints(tmp_path)
  step, state, _ = checkpoints.restore(abstract(make_state()), said.append)
  assert step == 2
  assert_trees_equal(state, make_state(2))
  assert 'checkpoint 3 cannot be loaded' in said[0]
  assert said[-1] == 'falling back to checkpoint 2'
  assert checkpoints.steps() == [1, 2]
  assert (tmp_path.with_name(f'{tmp_path.name}_broken') / '3').is_dir()
  # Step 3 can be saved again.
  checkpoints.save(3, make_state(3), {'step': 3})
  checkpoints.close()
  step, state, _ = Checkpoints(tmp_path).restore(abstract(state), pytest.fail)
  assert step == 3


def test_damage_to_all_checkpoints_is_an_error(tmp_path):
  open_and_save(tmp_path, [1, 2]).close()
  damage(tmp_path, 1)
  damage(tmp_path, 2)
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(CheckpointError, match=r'none of the checkpoints in'):
    checkpoints.restore(abstract(make_state()), print)
  assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize(
  'other',
  [
    lambda s: (s[0][:100], *s[1:]),
    lambda s: (s[0].astype(jnp.bfloat16), *s[1:]),
    lambda s: s[:3],
    lambda s: (*s, s[0]),
  ],
)
def test_another_model_does_not_load(tmp_path, other):
  open_and_save(tmp_path, [1]).close()
  with pytest.raises(
    CheckpointError, match=r'checkpoint 1 in .* belongs to another model'
  ):
    Checkpoints(tmp_path).restore(abstract(other(make_state())), print)


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
  losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 2.5}
  checkpoints = open_and_save(tmp_path, losses, keep=2, losses=losses)
  assert checkpoints.steps() == [2, 4, 5]
  checkpoints.close()
  # A resumed run knows the losses of its log.
  checkpoints = Checkpoints(tmp_path, keep=2)
  for step, loss in losses.items():
    checkpoints.evaluated(step, loss)
  checkpoints.save(6, make_state(6), {'step': 6})
  assert checkpoints.steps() == [2, 5, 6]
  checkpoints.evaluated(6, 0.5)
  checkpoints.save(7, make_state(7), {'step': 7})
  checkpoints.save(8, make_state(8), {'step': 8})
  checkpoints.save(9, make_state(9), {'step': 9})
  assert checkpoints.steps() == [6, 8, 9]


def test_losses_of_different_coverage_are_not_compared(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1)
  for step, loss, coverage in (
    (1, 2.0, 1.0),
    (2, 3.0, 1.0),
    (3, 0.2, 0.5),
    (4, 0.3, 0.5),
    (5, 2.5, 1.0),
  ):
    checkpoints.save(step, make_state(step), {'step': step})
    checkpoints.evaluated(step, loss, coverage)
  checkpoints.save(6, make_state(6), {'step': 6})
  checkpoints.wait()
  assert checkpoints.steps() == [1, 3, 6]


def test_without_losses_only_the_newest_checkpoints_are_kept(tmp_path):
  assert open_and_save(tmp_path, range(1, 6), keep=2).steps() == [4, 5]


# Loading only the weights -----------------------------------------------------


def save_runs(folder, steps, opt_state=()):
  """Saves checkpoints of weights and optimizer state."""
  checkpoints = Checkpoints(folder, keep=10)
  for step in steps:
    state = {'weights': make_state(step), 'opt_state': opt_state}
    checkpoints.save(step, state, {'step': step})
  checkpoints.close()


def listing(folder):
  """All paths in a folder, with size and time of modification."""
  return {
    str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime)
    for path in folder.rglob('*')
  }


def test_weights_load_without_optimizer_state(tmp_path):
  save_runs(tmp_path, [1, 2, 3], opt_state=(jnp.ones(7), jnp.ones((2, 3))))
  weights = abstract(make_state())
  reader = Checkpoints(tmp_path, read_only=True)
  step, found = reader.load_weights(weights, pytest.fail)
  assert step == 3
  assert_trees_equal(found, make_state(3))
  step, found = reader.load_weights(weights, pytest.fail, step=1)
  assert step == 1
  assert_trees_equal(found, make_state(1))


def test_read_only_does_not_change_the_folder(tmp_path):
  folder = tmp_path / 'checkpoints'
  save_runs(folder, [1, 2])
  damage(folder, 2)
  # Orbax gives this name to a checkpoint that is being written.
  shutil.copytree(folder / '1', folder / '3.orbax-checkpoint-tmp')
  before = listing(tmp_path)
  said = []
  reader = Checkpoints(folder, read_only=True)
  assert reader.steps() == [1, 2]
  step, weights = reader.load_weights(abstract(make_state()), said.append)
  reader.close()
  assert step == 1
  assert_trees_equal(weights, make_state(1))
  assert 'checkpoint 2 cannot be loaded' in said[0]
  assert said[1:] == ['falling back to checkpoint 1']
  assert listing(tmp_path) == before


def test_errors_of_loading_weights(tmp_path):
  weights = abstract(make_state())
  reader = Checkpoints(tmp_path / 'none', read_only=True)
  with pytest.raises(CheckpointError, match=r'there are no checkpoints in '):
    reader.load_weights(weights, pytest.fail)
  assert not (tmp_path / 'none').exists()
  save_runs(tmp_path, [10, 20])
  reader = Checkpoints(tmp_path, read_only=True)
  with pytest.raises(ValueError, match=r'step = 15: .* these steps: 10, 20$'):
    reader.load_weights(weights, pytest.fail, step=15)
  with pytest.raises(CheckpointError, match=r'20 .* another model.*weights'):
    reader.load_weights(weights[:3], pytest.fail)
  damage(tmp_path, 20)
  with pytest.raises(CheckpointError, match='checkpoint 20 cannot be loaded'):
    reader.load_weights(weights, pytest.fail, step=20)
  damage(tmp_path, 10)
  with pytest.raises(CheckpointError, match='none of the checkpoints in'):
    reader.load_weights(weights, print)


def test_saving_does_not_ask_for_preemption(tmp_path, monkeypatch):
  def asked(step):
    pytest.fail(f'Orbax asks JAX at step {step}')

  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', asked)
  open_and_save(tmp_path, [1]).close()

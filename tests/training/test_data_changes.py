"""Data that have changed between a run and its resumption."""

import json

import jax
import numpy as np
import pytest
import toy_training

from trax_hier.training import CheckpointError, data_changes
from trax_hier.training.data_error import DataError


class Marked(toy_training.Data):
  """Toy data with a fingerprint."""

  def __init__(self, mark):
    super().__init__()
    self._mark = mark

  def fingerprint(self):
    return {'train': f'9 bytes, hash {self._mark}', 'valid': '1 byte'}


# Pairs of data sets before and after a change.
_CHANGED = {
  'fingerprint': (Marked(1), Marked(2)),
  'batches': (toy_training.Data(), toy_training.Data(length=5)),
  'held-out batches': (toy_training.Data(), toy_training.Data(n_eval=2)),
}


@pytest.mark.parametrize('kind', _CHANGED)
def test_changed_data_are_refused_unless_accepted(tmp_path, capsys, kind):
  before, after = _CHANGED[kind]
  toy_training.run(tmp_path, 2, data=before)
  with pytest.raises(
    CheckpointError, match=r'(?s)data have changed.* then, .* now\n.*--accept'
  ):
    toy_training.run(tmp_path, data=after)
  assert toy_training.run(tmp_path, 3, data=before).step == 3
  assert 'have changed' not in capsys.readouterr().out
  result = toy_training.run(tmp_path, data=after, accept_changes=True)
  assert result.step == 4
  assert 'data have changed since the checkpoints' in capsys.readouterr().out
  # The checkpoint is of the new data.
  assert toy_training.run(tmp_path, 5, data=after).step == 5


def test_checkpoints_without_a_fingerprint_resume(
  tmp_path, capsys, monkeypatch
):
  """The first resumption says that nothing can be compared."""
  from trax_hier.training import run

  save = run.Checkpoints.save

  def save_old(self, step, state, position):
    del position['data']
    save(self, step, state, position)

  monkeypatch.setattr(run.Checkpoints, 'save', save_old)
  toy_training.run(tmp_path, 2)
  monkeypatch.setattr(run.Checkpoints, 'save', save)
  said = 'checkpoint has no fingerprint of its data'
  for steps, n in ((3, 1), (4, 0)):
    capsys.readouterr()
    assert toy_training.run(tmp_path, steps).step == steps
    assert capsys.readouterr().out.count(said) == n


def test_data_sets_with_few_batches():
  class Short(toy_training.Data):
    def train_batch(self, step, shard=0, n_shards=1):
      if step > 5:
        raise IndexError(step)
      return super().train_batch(step)

  found = data_changes.fingerprint(Short())
  assert found['train'].endswith('of 2 batches')
  assert found != data_changes.fingerprint(toy_training.Data())
  assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize('here', [{'train': '1'}, {'train': '2'}, {}])
def test_hosts_agree_on_the_fingerprint(monkeypatch, here):
  first = {'train': '1'}
  text = np.frombuffer(json.dumps(first).encode(), np.uint8)

  def of_first(x):  # The number of bytes, then the bytes.
    if x.ndim == 0:
      return np.int32(len(text))
    assert x.shape == text.shape
    return text

  utils = data_changes.multihost_utils
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(utils, 'broadcast_one_to_all', of_first)
  monkeypatch.setattr(
    utils, 'process_allgather', lambda x: np.array([False, bool(x)])
  )
  data = toy_training.Data()
  data.fingerprint = lambda: here
  data.train_batch = None  # Only the first host hashes batches.
  if here in (first, {}):
    assert data_changes.fingerprint(data) == first
  else:
    with pytest.raises(DataError, match='process 1 has other data'):
      data_changes.fingerprint(data)

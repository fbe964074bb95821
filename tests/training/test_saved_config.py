"""The configuration of a run, saved and compared when the run resumes."""

import pytest
import toy_training

from trax_hier.training import CheckpointError
from trax_hier.training.saved_config import MAY_CHANGE


@pytest.mark.parametrize('damage', ['', 'no gin (', None])
def test_a_run_with_a_missing_or_damaged_config_does_not_resume(
  tmp_path, damage
):
  toy_training.run(tmp_path, 2)
  file = tmp_path / 'config.gin'
  file.unlink()
  if damage is not None:
    file.write_text(damage)
  with pytest.raises(CheckpointError, match=r'missing or damaged.*--accept'):
    toy_training.run(tmp_path)
  assert toy_training.run(tmp_path, accept_changes=True).step == 4


def test_parameters_of_logging_may_change_when_a_run_resumes():
  names = {'look_every', 'profile_steps', 'wandb'}
  assert {f'train.{name}' for name in names} <= MAY_CHANGE

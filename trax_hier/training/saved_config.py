"""`config.gin` of a run: the configuration that produced its checkpoints."""

import os
from pathlib import Path

from trax_hier import config
from trax_hier.training.checkpoints import CheckpointError

# Parameters that may change when a run resumes: later losses do not depend on
# them (on `mesh` and `loss_chunk` only up to rounding).
MAY_CHANGE = {
  f'train.{name}'
  for name in (
    'steps',
    'eval_every',
    'eval_batches',
    'checkpoint_every',
    'checkpoint_minutes',
    'log_every',
    'keep_checkpoints',
    'init_from',
    'mesh',
    'loss_chunk',
    'look_every',
    'profile_steps',
    'wandb',
  )
}
# Which held-out batches are evaluated.
MAY_CHANGE |= {
  f'{name}.test_as_valid'
  for name in ('DocumentLanes', 'ImageBytes', 'PaddedDocuments', 'TextPairs')
}


def check_unchanged(file: Path) -> None:
  """Compares the saved configuration with the present one.

  Raises:
    CheckpointError: if the file cannot be read, or a parameter that is not in
      `MAY_CHANGE` differs.
  """
  try:
    saved = file.read_text('utf-8')
    changes = config.differences(saved, MAY_CHANGE)
  except (OSError, ValueError):
    saved = ''
  if not saved.strip():
    raise CheckpointError(
      f'{file} is missing or damaged, so changes since its checkpoints cannot '
      'be listed. To resume anyway, add --accept_changes'
    )
  if changes:
    lines = [
      f'\n  {name}: {then or "not set"} then, {now or "not set"} now'
      for name, (then, now) in changes.items()
    ]
    raise CheckpointError(
      f'the configuration has changed since the checkpoints in {file.parent}:'
      f'{"".join(lines)}\nTo resume with it anyway, add --accept_changes, or '
      'use another output_dir'
    )


def save_config(file: Path) -> None:
  """Writes the operative configuration atomically."""
  text = config.operative_text()
  temporary = file.with_suffix('.tmp')
  with temporary.open('w', encoding='utf-8') as opened:
    opened.write(text)
    opened.flush()
    os.fsync(opened.fileno())
  temporary.replace(file)

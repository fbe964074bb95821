"""The command import_config: the file it writes, and what it says."""

from pathlib import Path

import pytest

OLD = Path(__file__).parents[1] / 'translation/old'
SMALL = (
  'HourglassLM.d_model=16',
  'HourglassLM.d_ff=32',
  'HourglassLM.n_heads=2',
  "HourglassLM.hierarchy='1@3'",
  'HourglassLM.vanilla_layers=(1, 1)',
)


def flags(*bindings):
  return [f'--config={binding}' for binding in bindings]


def test_writes_a_file_that_trains(program, tmp_path):
  old, new = OLD / 'hourglass_bytes.gin', tmp_path / 'new.gin'
  code, out, err = program(
    'import_config', old, f'--output={new}', *flags(*SMALL)
  )
  assert (code, err) == (0, '')
  first, *rest = out.splitlines()
  n = first.removeprefix(f'{new}: HourglassLM, ').removesuffix(' parameters')
  assert f'# Parameters: {n}\n' in new.read_text()
  assert 'yours to decide: DATA' in rest
  (differs,) = (line for line in rest if line.startswith('differs'))
  assert differs.startswith('differs: train.checkpoints_at: ')
  code, out, _ = program(
    'describe',
    f'--config_file={new}',
    "--config=DATA = ''",
    '--batch=1,9',
    '--no_compile',
  )
  assert code == 0
  assert n in out


def test_only_writes_new_files(program, tmp_path):
  new = tmp_path / 'new.gin'
  new.write_text('mine')
  code, _, err = program(
    'import_config', OLD / 'hourglass_bytes.gin', f'--output={new}'
  )
  assert code == 2
  assert 'exists already' in err
  assert new.read_text() == 'mine'


@pytest.mark.parametrize(
  'old, message',
  [
    ('none.gin', 'there is no gin file'),
    ('batcher.buckets = (\n', 'syntax error'),
    ("include 'other.gin'", "there is no gin file 'other.gin'"),
    ('TextFiles.batch_size = 3', 'already a configuration of trax_hier'),
    ('import trax.models\nFoo.bar = 3', 'no binding chooses the model'),
    ('Foo.bar = 3', 'not a configuration of Trax or meliad'),
    ('train.model = @trax.models.BERT', '@BERT of Trax has no counterpart'),
    (
      'train.model = @trax.models.HourglassLM\nHourglassLM.vocab_size = 2\n'
      "HourglassLM.hierarchy = '2'",
      'its model cannot be built',
    ),
  ],
)
def test_faults(old, message, program, tmp_path):
  file = tmp_path / 'old.gin'
  if not old.endswith('.gin'):
    file.write_text(old)
  code, out, err = program(
    'import_config', file, f'--output={tmp_path / "new.gin"}'
  )
  assert (code, out) == (2, '')
  assert message in err
  assert err.count('\n') == 1


def test_a_rejected_translation_may_be_tried_again(program, tmp_path):
  old, new = OLD / 'hourglass_bytes.gin', tmp_path / 'new.gin'
  odd = "HourglassLM.hierarchy = '2'"
  for _ in range(2):
    code, _, err = program(
      'import_config', old, f'--output={new}', *flags(*SMALL, odd)
    )
    assert code == 2
    assert f'is kept as {new}.rejected: its model cannot be built' in err
    assert f'{new}.rejected:' in err.partition('built')[2]
    assert [p.name for p in tmp_path.iterdir()] == ['new.gin.rejected']
  code, _, _ = program('import_config', old, f'--output={new}', *flags(*SMALL))
  assert code == 0
  assert [p.name for p in tmp_path.iterdir()] == ['new.gin']


@pytest.mark.parametrize('command', ['train', 'describe'])
@pytest.mark.parametrize(
  'files, owner',
  [
    (['hourglass_bytes.gin'], 'Trax'),
    (['sparse_words.gin'], 'Trax'),
    (['segments_base.gin', 'segments_trainer.gin'], 'meliad'),
  ],
)
def test_other_commands_name_this_one(command, files, owner, program, tmp_path):
  paths = [str(OLD / file) for file in files]
  output = [f'--output_dir={tmp_path}'] * (command == 'train')
  code, _, err = program(
    command, *(f'--config_file={path}' for path in paths), *output
  )
  assert code == 2
  given = ' '.join(paths)
  assert f'{given}: a configuration of {owner}; translate it by' in err
  assert f'trax-hier import_config {given} --output=new.gin' in err
  assert err.count('\n') == 1

"""metrics.jsonl: damaged lines are skipped, counted and kept."""

import math

import pytest

from trax_hier.training.logging.jsonl import JsonLines, read_metrics

GOOD = [b'{"kind": "train", "step": %d, "loss": 2.5}' % n for n in range(1, 6)]
BAD = [
  b'null',
  b'{}',
  b'',
  b'[1, 2]',
  b'"text"',
  b'3',
  b'{"kind": "train"}',
  b'{"step": 3, "loss": 1.0}',
  b'{"kind": 3, "step": 3}',
  b'{"kind": "train", "step": "3"}',
  b'{"kind": "train", "step": 3.5}',
  b'{"kind": "train", "step": true}',
  b'{"kind": "train", "step": -1}',
  b'{"kind": "train", "step": 3, "loss": "high"}',
  b'{"kind": "train", "step": 3, "lo',
  b'\xff\xfe{"kind"',
  b'\x00' * 50,
  b'[' * 100_000,
  b'{"kind": "train", "step": ' + b'9' * 5000 + b'}',
]


def write(folder, lines, end=b'\n'):
  (folder / 'metrics.jsonl').write_bytes(b'\n'.join(lines) + end)


@pytest.mark.parametrize('bad', BAD, ids=lambda bad: repr(bad[:40]))
def test_a_bad_line_loses_only_itself(tmp_path, bad):
  write(tmp_path, [*GOOD[:2], bad, *GOOD[2:], bad])
  said = []
  found = read_metrics(tmp_path, said.append)
  assert [x['step'] for x in found] == [1, 2, 3, 4, 5]
  assert said == [
    f'{tmp_path}/metrics.jsonl: 2 of 7 lines are not metrics and are skipped, '
    'the first is line 3'
  ]
  # A run that resumes after step 4 keeps what it cannot read.
  JsonLines(tmp_path, last_step=4).close()
  kept = (tmp_path / 'metrics.jsonl').read_bytes()
  assert kept == b'\n'.join([*GOOD[:2], bad, *GOOD[2:4], bad, b''])


def test_an_incomplete_last_line_is_normal(tmp_path):
  write(tmp_path, [*GOOD[:2], GOOD[2][:20]], end=b'')
  assert len(read_metrics(tmp_path, pytest.fail)) == 2
  log = JsonLines(tmp_path, last_step=2)
  log.scalars('train', 3, {'loss': math.nan})
  log.close()
  assert b'NaN' not in (tmp_path / 'metrics.jsonl').read_bytes()
  assert math.isnan(read_metrics(tmp_path, pytest.fail)[2]['loss'])


def test_nothing_is_rewritten_without_later_steps(tmp_path):
  write(tmp_path, GOOD)
  before = (tmp_path / 'metrics.jsonl').stat()
  JsonLines(tmp_path, last_step=5).close()
  assert (tmp_path / 'metrics.jsonl').stat() == before


def test_messages_go_to_standard_error(tmp_path, capsys):
  write(tmp_path, [b'null'])
  assert read_metrics(tmp_path) == []
  assert 'line 1' in capsys.readouterr().err

"""The metrics log of a run and its metrics.jsonl."""

import json

import numpy as np

from trax_hier.training import read_metrics
from trax_hier.training.logging.metrics_log import MetricsLog


def test_a_disabled_log_writes_nothing(tmp_path):
  log = MetricsLog(tmp_path, 0, enabled=False, wandb='never imported')
  log.write('train', 1, {'loss': 1})
  log.text('probe', 1, 'sample', 'x')
  log.histogram('probe', 1, 'gate', np.ones(1), np.ones(2))
  log.flush()
  log.close()
  assert not list(tmp_path.iterdir())


def test_a_line_without_newline_is_kept(tmp_path):
  with open(tmp_path / 'metrics.jsonl', 'w') as file:
    json.dump({'kind': 'train', 'step': 1, 'loss': 2}, file)
  MetricsLog(tmp_path, 1).close()
  assert read_metrics(tmp_path) == [{'kind': 'train', 'step': 1, 'loss': 2}]


def test_a_truncated_line_is_dropped(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(
    '{"kind": "train", "step": 1, "loss": 2}\n{"kind": "tra'
  )
  log = MetricsLog(tmp_path, 1)
  log.write('train', 2, {'loss': 1.0})
  log.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2]


def test_kind_look_of_old_logs_is_read_as_probe(tmp_path):
  line = '{"kind": "look", "step": 1, "entropy": 0.5}\n'
  (tmp_path / 'metrics.jsonl').write_text(line)
  expected = [{'kind': 'probe', 'step': 1, 'entropy': 0.5}]
  assert read_metrics(tmp_path) == expected
  MetricsLog(tmp_path, 1).close()
  assert read_metrics(tmp_path) == expected

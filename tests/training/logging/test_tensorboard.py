"""TensorBoard event files: reading them back, and full disks."""

import numpy as np
import pytest
import toy_training
from event_files import events, shown
from tensorboardX import record_writer

from trax_hier.training import read_metrics
from trax_hier.training.logging.metrics_log import MetricsLog


def test_events_read_back_without_duplicates_after_resuming(tmp_path):
  edges = np.array([0.0, 0.5, 1.0])
  log = MetricsLog(tmp_path, 0)
  for step in (1, 2, 3):
    log.write('train', step, {'loss': step})
  log.histogram('probe', 3, 'gate', np.array([3, 1]), edges)
  log.close()
  first = events(tmp_path)
  assert first[0].file_version == 'brain.Event:2'
  assert abs(first[-1].wall_time - first[0].wall_time) < 60
  # Resumes within the same second, after a crash that lost step 3.
  log = MetricsLog(tmp_path, 2)
  log.write('train', 3, {'loss': 30})
  log.text('probe', 3, 'sample', 'one *two*\n\nthree')
  log.close()
  found = shown(tmp_path)
  losses = {
    step: v.simple_value
    for (tag, step), v in found.items()
    if tag == 'train/loss'
  }
  assert losses == {1: 1, 2: 2, 3: 30}
  assert ('probe/gate', 3) not in found
  (histogram,) = (
    v.histo for e in first for v in e.summary.value if v.tag == 'probe/gate'
  )
  assert list(histogram.bucket) == [3, 1]
  assert list(histogram.bucket_limit) == [0.5, 1]
  assert (histogram.min, histogram.max, histogram.num) == (0, 1, 4)
  assert histogram.sum == 3 * 0.25 + 0.75
  text = found['probe/sample/text_summary', 3]
  assert text.metadata.plugin_data.plugin_name == 'text'
  # Markdown shows indented lines verbatim, as code.
  (shown_text,) = text.tensor.string_val
  assert shown_text.decode() == '    one *two*\n    \n    three'


def test_a_full_disk_raises_when_the_log_opens(tmp_path, monkeypatch):
  monkeypatch.setattr(
    record_writer,
    'open_file',
    lambda path: open('/dev/full', 'wb'),  # noqa: SIM115
  )
  with pytest.raises(OSError, match='No space left'):
    MetricsLog(tmp_path, 0)


def test_a_disk_that_fills_up_stops_the_run(tmp_path, monkeypatch):
  class Full:
    """A file on a disk that is full at the second flush."""

    def __init__(self, path):
      self._file = open(path, 'wb')  # noqa: SIM115
      self._full = False

    def write(self, data):
      self._file.write(data)

    def flush(self):
      if self._full:
        raise OSError(28, 'No space left on device')
      self._full = True

    def close(self):
      self._file.close()

  monkeypatch.setattr(record_writer, 'open_file', Full)
  with pytest.raises(OSError, match='No space left'):
    toy_training.run(tmp_path, 4)
  # Two steps; the checkpoint before the evaluation flushes.
  assert len(read_metrics(tmp_path)) == 2

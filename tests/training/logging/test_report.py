"""What a run reports of its steps."""

import types

import numpy as np
import pytest

from trax_hier.training.logging import report


class Log:
  """Keeps what is written."""

  def __init__(self):
    self.lines = []

  def write(self, kind, step, values):
    self.lines.append((kind, step, dict(values)))


class Console:
  """Keeps the progress lines; each step is due."""

  def __init__(self):
    self.lines = []

  def due(self, step):
    return True

  def update(self, step, text):
    self.lines.append(text)

  def paused(self, seconds):
    self.seconds = seconds


@pytest.fixture
def clock(monkeypatch):
  clock = types.SimpleNamespace(now=0.0)
  clock.perf_counter = lambda: clock.now
  monkeypatch.setattr(report, 'time', clock)
  return clock


@pytest.mark.parametrize('first', [1, 101])
def test_speeds_count_from_the_first_step(clock, first):
  log, console = Log(), Console()
  names = 'loss', 'accuracy'
  reporter = report.Reporter(
    log, console, names, 'byte', 100, 2, 1000.0, 8.0, lambda: 2_500_000_000
  )
  for step in range(first, first + 4):
    clock.now += 60 if step == first else 0.5  # The first step compiles.
    reporter.step(step, np.array([2.0, 0.5]))
    if step == first + 1:
      with reporter.pause():
        clock.now += 30
  speeds = [line.get('tokens_per_second') for _, _, line in log.lines]
  assert [step for _, step, _ in log.lines] == [first + 1, first + 3]
  assert speeds == [pytest.approx(200)] * 2
  assert log.lines[0][2]['mfu'] == pytest.approx(0.2)
  assert console.seconds == 30
  texts = [line.partition(' bits per byte, ')[2] for line in console.lines]
  memory = 'peak memory 2.5 GB'
  assert texts[0] == f'{first / 8:.2f} epochs, {memory}'
  assert texts[3] == (
    f'200 tokens/s, MFU 20.0%, {(first + 3) / 8:.2f} epochs, {memory}'
  )


def test_what_is_not_known_is_left_out(clock):
  log, console = Log(), Console()
  reporter = report.Reporter(log, console, ('loss',), 'token', 100, 1)
  reporter.step(1, np.array([0.0]))
  assert console.lines == ['loss 0.0000, 0.0000 bits per token']
  assert log.lines == [('train', 1, {'loss': 0.0, 'bits_per_token': 0.0})]

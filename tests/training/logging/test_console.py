"""Console output of a run."""

import pytest

from trax_hier.training.logging.console import Console, format_duration


def test_progress_bar_on_a_terminal(monkeypatch, capsys):
  monkeypatch.setenv('FORCE_COLOR', '1')
  console = Console(100)
  for step in (1, 50, 100):
    console.update(step, f'loss {step}')
  console.say('held-out')
  console.close()
  out = capsys.readouterr().out
  assert 'step 50/100' in out and 'left' in out and 'held-out' in out


@pytest.mark.parametrize(
  'seconds, text',
  [
    (0.4, '0s'),
    (59.6, '1m 00s'),
    (200, '3m 20s'),
    (18420, '5h 07m'),
    (183600, '2d 03h'),
  ],
)
def test_durations(seconds, text):
  assert format_duration(seconds) == text

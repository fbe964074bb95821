"""Console output of a run."""

import types

import pytest

from trax_hier.training.logging import console, display


@pytest.fixture
def clock(monkeypatch):
  """A clock that tests move."""
  clock = types.SimpleNamespace(now=100.0)
  clock.monotonic = lambda: clock.now
  monkeypatch.setattr(display, 'time', clock)
  monkeypatch.setattr(console, 'time', clock)
  return clock


def test_progress_bar_on_a_terminal(monkeypatch, capsys):
  monkeypatch.setenv('FORCE_COLOR', '1')
  screen = console.Console(100)
  with screen.doing('compiling'):
    pass
  for step in (1, 50, 100):
    screen.update(step, f'loss {step}')
    with screen.doing('evaluating'):
      screen.say(f'held-out {step}')
  screen.close()
  out = capsys.readouterr().out
  assert 'compiling ... 0s' in out and 'evaluating ... 0s' in out
  assert 'step 50/100' in out and 'left' in out and 'held-out 50' in out
  *_, bar, text = out.splitlines()
  assert 'step 100/100' in bar and text == 'loss 100'


def test_plain_lines(clock, capsys):
  screen = console.Console(100)
  clock.now += 40
  screen.update(1, 'loss 5')
  clock.now += 10
  assert not screen.due(11)
  screen.paused(30)
  clock.now += 30 + 5
  assert screen.due(16)
  screen.update(16, 'loss 4')
  screen.paused(3)
  clock.now += 18
  screen.update(31, 'loss 3')
  screen.update(100, 'loss 2')
  assert capsys.readouterr().out.splitlines() == [
    'step 1/100: loss 5, 40s elapsed',
    # 15 s for 15 steps, without the pause.
    'step 16/100: loss 4, 1m 25s elapsed, 1m 24s left',
    # Of the pauses, only the longest does not count.
    'step 31/100: loss 3, 1m 43s elapsed, 1m 16s left',
    'step 100/100: loss 2, 1m 43s elapsed',
  ]


def test_activities_as_plain_lines(clock, capsys):
  screen = display.Display(stderr=True)
  with screen.doing('compiling', 'compiled'):
    clock.now += 70
  for _ in range(2):
    with screen.doing('evaluating') as count:
      for i in range(20):
        count(i, 20)
        clock.now += 30 if i == 0 else 2
  out, err = capsys.readouterr()
  evaluations = [
    'evaluating: 1 of 20 ... 30s',
    'evaluating: 9 of 20, 22s left ... 46s',
    'evaluating: 17 of 20, 6s left ... 1m 02s',
  ]
  assert out == ''
  assert err.splitlines() == [
    'compiling ...',
    'compiled in 1m 10s',
    'evaluating ...',
    *evaluations,
    *evaluations,
  ]


def test_an_activity_that_fails_is_not_done(capsys):
  screen = display.Display()
  with pytest.raises(ValueError), screen.doing('compiling', 'compiled'):
    raise ValueError
  assert capsys.readouterr().out == 'compiling ...\n'


def test_a_quiet_display_prints_nothing(capsys):
  screen = display.Display(enabled=False)
  with screen.doing('compiling', 'compiled'):
    screen.say('a message')
  assert capsys.readouterr() == ('', '')


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
  assert display.format_duration(seconds) == text

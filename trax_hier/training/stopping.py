"""Signals: on Ctrl-C, SIGTERM or SIGHUP, a run saves a checkpoint and exits."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Stopped(Exception):
  """A signal has stopped the run, after a checkpoint was saved.

  Attributes:
    signal: Number of the signal.
    step: Step of the checkpoint; 0 if the run had not done a step.
  """

  def __init__(self, signal_: int, step: int):
    """Takes the number of the signal and the step of the checkpoint."""
    self.signal, self.step = signal_, step
    name = signal.Signals(signal_).name
    cause = 'interrupted' if name == 'SIGINT' else f'received {name}'
    saved = f'checkpoint {step} is saved' if step else 'no step was done yet'
    super().__init__(f'{cause}: {saved}')


@contextlib.contextmanager
def listen_for_signals() -> Iterator[Callable[[], int | None]]:
  """Yields a function that returns the signal that asks to stop, or None.

  A second Ctrl-C finds the previous handler again, Python's KeyboardInterrupt.
  A signal that the program ignores, as under `nohup`, stays ignored. Outside
  the main thread, where Python allows no handlers, nothing asks to stop.

  Several hosts receive a signal at different times; JAX's coordinator chooses
  one call of the function for all. So all hosts must call it equally often.
  """
  received = []
  many_hosts = jax.process_count() > 1

  def handle(number, frame):
    del frame
    received.append(number)
    if number == signal.SIGINT:
      signal.signal(number, previous[number])
    if many_hosts:  # JAX's coordinator listens for SIGTERM only, in C++.
      os.kill(os.getpid(), signal.SIGTERM)

  calls = itertools.count(1)

  def agreed():
    if not multihost_utils.reached_preemption_sync_point(next(calls)):
      return None
    return received[0] if received else signal.SIGTERM

  previous = {}
  if threading.current_thread() is threading.main_thread():
    for number in _SIGNALS:
      left_to_jax = many_hosts and number == signal.SIGTERM
      if not left_to_jax and signal.getsignal(number) != signal.SIG_IGN:
        previous[number] = signal.signal(number, handle)
  try:
    yield agreed if many_hosts else lambda: next(iter(received), None)
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)

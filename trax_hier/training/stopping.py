"""Preemption: on SIGTERM, a run saves a checkpoint and exits."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
  """The run received SIGTERM and has saved a checkpoint."""


@contextlib.contextmanager
def listen_for_sigterm() -> Iterator[Callable[[int], bool]]:
  """Yields a function, step -> whether SIGTERM asks to stop after it.

  Several hosts receive the signal at different times; JAX's coordinator chooses
  one step for all. With one host, the function returns False outside the main
  thread, where Python allows no signal handler.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  received = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False
    return
  previous = signal.signal(signal.SIGTERM, lambda *_: received.set())
  try:
    yield lambda step: received.is_set()
  finally:
    signal.signal(signal.SIGTERM, previous)

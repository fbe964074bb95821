"""SIGTERM, by which a scheduler takes a machine back: save, then leave."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
  """The run was told to stop; what it had done is saved."""


@contextlib.contextmanager
def listen_for_sigterm() -> Iterator[Callable[[int], bool]]:
  """Yields a function of the step: whether the run is to stop after it.

  With several hosts, which are told at different moments, all get the same
  answer: JAX's coordinator chooses the step. Outside the main thread, where
  Python allows no handler, one host never stops.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  told = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False
    return
  before = signal.signal(signal.SIGTERM, lambda *_: told.set())
  try:
    yield lambda step: told.is_set()
  finally:
    signal.signal(signal.SIGTERM, before)

"""Profiles a few steps: a timeline of host and devices."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax


def check_profile_steps(steps: object) -> None:
  """Checks `train.profile_steps`.

  Raises:
    ValueError: if it is neither None nor two whole numbers of at least 1.
  """
  if steps is None:
    return
  fits = isinstance(steps, tuple | list) and len(steps) == 2
  if not fits or not all(type(n) is int and n >= 1 for n in steps):
    raise ValueError(
      'train.profile_steps must be None or (first, n), the first step and the '
      'number of steps, whole numbers of at least 1, such as (10, 5), got '
      f'{steps!r}'
    )


@contextlib.contextmanager
def profiling(
  folder: Path, steps: tuple[int, int] | None, say: Callable[[str], None]
) -> Iterator[Callable[[int, jax.Array | None], None]]:
  """Profiles some steps; yields a function to call before each step.

  The function takes the number of the step and the metrics (n_metrics,) of the
  previous step, or None if they were read already. It waits for the devices
  only when the profile ends.

  Args:
    folder: Folder of the profile; created if it does not exist.
    steps: First step and number of steps; steps after the last one of the run
      are ignored. None profiles no steps.
    say: Prints a line when the profile is written.
  """
  if steps is None:
    yield lambda step, pending: None
    return
  first, n = steps
  profiled = []

  def stop():
    jax.profiler.stop_trace()
    say(
      f'profile of steps {profiled[0]} to {profiled[-1]}: {folder} (open it '
      'with `xprof`, with the profile plugin of TensorBoard, or its '
      '*.trace.json.gz with ui.perfetto.dev)'
    )
    profiled.clear()

  def before(step, pending):
    if first <= step < first + n:
      if not profiled:
        jax.profiler.start_trace(str(folder))
      profiled.append(step)
    elif profiled:
      jax.block_until_ready(pending)
      stop()

  try:
    yield before
  finally:
    if profiled:
      stop()

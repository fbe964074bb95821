"""A profile of a few steps: what the devices and the host do, and when."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax


def check_profile_steps(steps: object) -> None:
  """Checks `train.profile_steps`.

  Raises:
    ValueError: if it is neither None nor two whole numbers, at least 1.
  """
  if steps is None:
    return
  fits = isinstance(steps, tuple | list) and len(steps) == 2
  if not fits or not all(type(n) is int and n >= 1 for n in steps):
    raise ValueError(
      'train.profile_steps must be None or (first, n), the first step and how '
      f'many, whole numbers, at least 1, such as (10, 5), got {steps!r}'
    )


@contextlib.contextmanager
def profiling(
  folder: Path, steps: tuple[int, int] | None, say: Callable[[str], None]
) -> Iterator[Callable[[int, jax.Array | None], None]]:
  """Yields a function to call before each step, which profiles some of them.

  The function takes the number of the step, and the metrics (n_metrics,) of the
  one before unless these have been read. It waits for the devices where the
  profile ends and nowhere else.

  Args:
    folder: gets the profile; made if need be.
    steps: the first step and how many, or None for no profile. Steps that the
      run does not come by are left out.
    say: gets a line when there is a profile.
  """
  if steps is None:
    yield lambda step, waiting: None
    return
  first, n = steps
  seen = []

  def stop():
    jax.profiler.stop_trace()
    say(
      f'profile of steps {seen[0]} to {seen[-1]}: {folder} (look at it by '
      '`xprof`, by TensorBoard with its profile plugin, or its *.trace.json.gz '
      'by ui.perfetto.dev)'
    )
    seen.clear()

  def before(step, waiting):
    if first <= step < first + n:
      if not seen:
        jax.profiler.start_trace(str(folder))
      seen.append(step)
    elif seen:
      jax.block_until_ready(waiting)
      stop()

  try:
    yield before
  finally:
    if seen:
      stop()

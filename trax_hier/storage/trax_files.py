"""Reads weights from Trax's files without executing code in them.

The files are unpacked by `trax_unpickler` in a process of its own, which limits
the memory and the time that a file can take.
"""

import io
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

from trax_hier.environment import expand_home
from trax_hier.storage import trax_unpickler
from trax_hier.storage.trax_unpickler import UnsafeFileError

__all__ = ['UnsafeFileError', 'read_trax_weights']

# Time limit; a slow disk reads and unpacks more bytes than that in a second.
_SECONDS, _BYTES_PER_SECOND = 300, 10**6


def read_trax_weights(file: str | Path) -> list[np.ndarray]:
  """Reads the weights that Trax saved, in the order of its layers.

  Args:
    file: `model.pkl.gz`, written by `Layer.save_to_file` or a `Loop`. If Trax
      put the weights into a second file, `model.weights.npy.gz`, that file must
      be in the same folder; `file` may also be the second file itself.

  Returns:
    Arrays in the shapes of Trax, such as (d_in, d_out) and (d_out,) for a dense
    layer; bfloat16 becomes float32.

  Raises:
    UnsafeFileError: The file names something other than arrays and containers.
    ValueError: The file is damaged or of another kind, unpacks to more bytes
      than its size allows, or takes too long.
  """
  file = expand_home(file)
  if not file.is_file():
    raise ValueError(f'{file}: no such file')
  arrays = _in_own_process(file)
  # Trax stores bfloat16 as uint16.
  return [
    x.view(ml_dtypes.bfloat16).astype(np.float32) if x.dtype == 'u2' else x
    for x in arrays
  ]


def _in_own_process(file: Path) -> list[np.ndarray]:
  """Runs `trax_unpickler` and reads the arrays that it writes."""
  seconds = _SECONDS + file.stat().st_size // _BYTES_PER_SECOND
  command = [sys.executable, '-I', trax_unpickler.__file__, file, str(seconds)]
  try:
    done = subprocess.run(
      command,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      # Each thread of a linear algebra library would reserve memory.
      env=os.environ | {'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'},
      timeout=seconds,
      check=False,
    )
    code, reason = done.returncode, done.stderr.decode(errors='replace')
  except subprocess.TimeoutExpired:
    code, reason = -1, ''
  if code == trax_unpickler.UNSAFE:
    raise UnsafeFileError(reason)
  if code:
    # A negative code: the process was ended by the system, or here.
    reason = reason or f'it takes more than {seconds} seconds, or much memory'
    raise ValueError(
      f'{file}: damaged, or not a weight file of Trax: {reason[-300:]}'
    )
  arrays, written = [], io.BytesIO(done.stdout)
  while written.tell() < len(done.stdout):
    arrays.append(np.lib.format.read_array(written, allow_pickle=False))
  return arrays

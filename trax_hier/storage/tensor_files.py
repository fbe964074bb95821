"""Saves and loads weights as safetensors, with a named tensor per array.

The metadata of the file hold the CRC-32 of each tensor; loading verifies them.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from trax_hier.compat import base
from trax_hier.storage.tensor_names import tensor_names
from trax_hier.training.digests import count_arrays

_DIGESTS = 'crc32'  # Key of the metadata.
# Bytes; a tensor takes about 200.
_MAX_HEADER = 2**25


def write_tensors(
  file: str | Path, layer: base.Layer, weights: Any, dtype: Any = jnp.float32
) -> None:
  """Writes weights; a stacked array is written as one tensor per block.

  Args:
    file: Path of the file, which is replaced if it exists.
    layer: The model in 'train' or 'eval' mode.
    weights: Arrays as nested tuples.
    dtype: float32 or bfloat16.

  Raises:
    ValueError: A tensor is not finite, or not in this type.
  """
  leaves = [np.asarray(x) for x in jax.tree.leaves(weights)]
  tensors = {
    name: np.require(leaves[at.leaf][at.index], dtype, 'C')
    for name, at in tensor_names(layer, weights).items()
  }
  _check_finite(f'the weights cannot be saved as {np.dtype(dtype)}', tensors)
  digests = {name: _digest(tensor) for name, tensor in tensors.items()}
  Path(file).touch()
  mode = Path(file).stat().st_mode
  safetensors.numpy.save_file(tensors, file, {_DIGESTS: json.dumps(digests)})
  # save_file makes the file readable by its owner only.
  Path(file).chmod(mode)


def read_tensors(
  file: str | Path, layer: base.Layer, shapes: Any, needs_digests: bool = False
) -> Any:
  """Reads weights as float32.

  Args:
    file: File written by `write_tensors`.
    layer: The model in 'train' or 'eval' mode.
    shapes: Shapes of the weights, as nested tuples.
    needs_digests: Whether a file without digests is damaged. Those of older
      versions have none.

  Returns:
    A tree of arrays like `shapes`.

  Raises:
    ValueError: A tensor is missing, unexpected, of another shape, or neither
      float32 nor bfloat16, not finite, or differs from its digest, or the
      file is not valid safetensors.
  """
  _check_header(file)
  names = tensor_names(layer, shapes)
  leaves = jax.tree.leaves(shapes)
  try:
    with safetensors.safe_open(file, 'numpy') as tensors:
      _check_names(file, tensors.keys(), names)
      for name, at in names.items():
        shape = leaves[at.leaf].shape[len(at.index) :]
        _check_tensor(file, name, shape, tensors.get_slice(name))
      # Allocated only now: the shapes of config.gin are those in the file.
      arrays = [np.empty(x.shape, np.float32) for x in leaves]
      digests = _read_digests(file, tensors.metadata(), names, needs_digests)
      damaged = []
      for name, at in names.items():
        tensor = tensors.get_slice(name)[...]
        arrays[at.leaf][at.index] = tensor
        if digests and digests[name] != _digest(tensor):
          damaged.append(name)
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{file}: cannot be read: {error}') from error
  if damaged:
    raise ValueError(
      f'{file}: damaged: {count_arrays(damaged, len(names))} differ from their '
      'digests'
    )
  _check_finite(file, {k: arrays[at.leaf][at.index] for k, at in names.items()})
  return jax.tree.unflatten(
    jax.tree.structure(shapes), [jnp.asarray(x) for x in arrays]
  )


def different_tensors(
  file: str | Path, layer: base.Layer, shapes: Any
) -> dict[str, tuple[str, str]]:
  """Compares the shapes in a file with those of a model.

  Args:
    file: File written by `write_tensors`.
    layer: The model in 'train' or 'eval' mode.
    shapes: Shapes of its weights, as nested tuples.

  Returns:
    {name: (shape in the file, shape in the model)} of those that differ, as
    text; 'none' if one of them has no such tensor.

  Raises:
    ValueError: The file is not valid safetensors.
  """
  _check_header(file)
  leaves = jax.tree.leaves(shapes)
  here = {
    name: str(list(leaves[at.leaf].shape[len(at.index) :]))
    for name, at in tensor_names(layer, shapes).items()
  }
  try:
    with safetensors.safe_open(file, 'numpy') as tensors:
      there = {
        name: str(tensors.get_slice(name).get_shape())
        for name in tensors.keys()  # noqa: SIM118
      }
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{file}: cannot be read: {error}') from error
  return {
    name: (there.get(name, 'none'), here.get(name, 'none'))
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name)
  }


def _check_header(file):
  """Checks the size of the header, which takes 20 times as much memory."""
  with open(file, 'rb') as opened:
    size = int.from_bytes(opened.read(8), 'little')
  if size > _MAX_HEADER:
    raise ValueError(
      f'{file}: damaged: its header has {size:,} bytes, more than '
      f'{_MAX_HEADER:,}'
    )


def _digest(tensor):
  # bfloat16 has no buffer that zlib can read.
  return zlib.crc32(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))


def _check_finite(problem, tensors):
  bad = [name for name, x in tensors.items() if not np.isfinite(x).all()]
  if bad:
    raise ValueError(
      f'{problem}: {count_arrays(bad, len(tensors))} are not finite'
    )


def _read_digests(file, metadata, names, is_needed):
  """The digests by tensor name; None if there are none and need not be."""
  text = (metadata or {}).get(_DIGESTS)
  if text is None and not is_needed:
    return None
  try:
    digests = json.loads(text or '')
    is_complete = names.keys() <= digests.keys()
  except (ValueError, AttributeError, RecursionError):
    is_complete = False
  if not is_complete:
    raise ValueError(f'{file}: damaged: the digests of tensors are missing')
  return digests


def _check_names(file, found, expected):
  different = sorted(set(found) ^ expected.keys())
  if different:
    name = different[0]
    problem = 'lacks the' if name in expected else 'has an unexpected'
    raise ValueError(
      f'{file}: {problem} tensor {name}; {len(different)} names differ from '
      'the model of config.gin'
    )


def _check_tensor(file, name, expected, tensor):
  """Checks the shape and the type of a tensor, without reading it."""
  shape, dtype = tensor.get_shape(), tensor.get_dtype()
  if shape != list(expected):
    raise ValueError(
      f'{file}: the tensor {name} has shape {shape}, but {list(expected)} in '
      'the model of config.gin'
    )
  if dtype not in ('F32', 'BF16'):
    raise ValueError(
      f'{file}: the tensor {name} has type {dtype}, not F32 or BF16'
    )

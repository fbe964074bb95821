"""Saves and loads weights as safetensors, with a named tensor per array."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from trax_hier.compat import base
from trax_hier.storage.tensor_names import Place, tensor_names


def write_tensors(
  file: str | Path, layer: base.Layer, weights: Any, dtype: Any = jnp.float32
) -> None:
  """Writes weights; a stacked array is written as one tensor per block.

  Args:
    file: Path of the file, which is replaced if it exists.
    layer: The model in 'train' or 'eval' mode.
    weights: Arrays as nested tuples.
    dtype: float32 or bfloat16.
  """
  leaves = [np.asarray(x) for x in jax.tree.leaves(weights)]
  tensors = {
    name: np.require(leaves[at.leaf][at.index], dtype, 'C')
    for name, at in tensor_names(layer, weights).items()
  }
  Path(file).touch()
  mode = Path(file).stat().st_mode
  safetensors.numpy.save_file(tensors, file)
  # save_file makes the file readable by its owner only.
  Path(file).chmod(mode)


def read_tensors(file: str | Path, layer: base.Layer, shapes: Any) -> Any:
  """Reads weights as float32.

  Args:
    file: File written by `write_tensors`.
    layer: The model in 'train' or 'eval' mode.
    shapes: Shapes of the weights, as nested tuples.

  Returns:
    A tree of arrays like `shapes`.

  Raises:
    ValueError: A tensor is missing, unexpected, of another shape, or neither
      float32 nor bfloat16, or the file is not valid safetensors.
  """
  names = tensor_names(layer, shapes)
  leaves = jax.tree.leaves(shapes)
  try:
    with safetensors.safe_open(file, 'numpy') as tensors:
      _check_names(file, tensors.keys(), names)
      arrays = [np.empty(x.shape, np.float32) for x in leaves]
      for name, at in names.items():
        _fill(file, name, arrays[at.leaf], at, tensors.get_slice(name))
  except safetensors.SafetensorError as error:
    raise ValueError(f'{file}: cannot be read: {error}') from error
  return jax.tree.unflatten(
    jax.tree.structure(shapes), [jnp.asarray(x) for x in arrays]
  )


def _check_names(file, found, expected):
  different = sorted(set(found) ^ expected.keys())
  if different:
    name = different[0]
    problem = 'lacks the' if name in expected else 'has an unexpected'
    raise ValueError(
      f'{file}: {problem} tensor {name}; {len(different)} names differ from '
      'the model of config.gin'
    )


def _fill(file, name, array, at: Place, tensor):
  """Copies a tensor into its place in an array."""
  shape, dtype = tensor.get_shape(), tensor.get_dtype()
  expected = list(array[at.index].shape)
  if shape != expected:
    raise ValueError(
      f'{file}: the tensor {name} has shape {shape}, but {expected} in the '
      'model of config.gin'
    )
  if dtype not in ('F32', 'BF16'):
    raise ValueError(
      f'{file}: the tensor {name} has type {dtype}, not F32 or BF16'
    )
  array[at.index] = tensor[...]

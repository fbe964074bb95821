"""The weights of a model in a file of safetensors, each array by its name."""

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
  """Writes weights; the arrays of a stack are written block by block.

  Args:
    file: is replaced if it is there.
    layer: the model, in 'train' or 'eval' mode.
    weights: as nested tuples of arrays.
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
  # It makes a file that only its owner may read.
  Path(file).chmod(mode)


def read_tensors(file: str | Path, layer: base.Layer, shapes: Any) -> Any:
  """Reads weights back, as float32.

  Args:
    file: as `write_tensors` makes it.
    layer: the model, in 'train' or 'eval' mode.
    shapes: those of its weights, as nested tuples.

  Returns:
    A tree of arrays like `shapes`.

  Raises:
    ValueError: naming a tensor that lacks, is too many, or has another shape or
      a type other than float32 and bfloat16; or the file is none of its kind.
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


def _check_names(file, there, wanted):
  different = sorted(set(there) ^ wanted.keys())
  if different:
    name = different[0]
    what = 'lacks the tensor' if name in wanted else 'has a further tensor'
    raise ValueError(
      f'{file}: {what} {name}, one of {len(different)} in which it differs '
      'from the model of config.gin'
    )


def _fill(file, name, array, at: Place, tensor):
  """Puts a tensor in its place in an array."""
  shape, dtype = tensor.get_shape(), tensor.get_dtype()
  wanted = list(array[at.index].shape)
  if shape != wanted:
    raise ValueError(
      f'{file}: the tensor {name} has shape {shape}, in the model of '
      f'config.gin {wanted}'
    )
  if dtype not in ('F32', 'BF16'):
    raise ValueError(
      f'{file}: the tensor {name} is of type {dtype}, not F32 or BF16'
    )
  array[at.index] = tensor[...]

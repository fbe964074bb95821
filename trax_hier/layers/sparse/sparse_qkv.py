"""Sparse QKV: projections with few parameters, in modules of the width.

The width d is split into S modules of width M = d / S. A multiplicative dense
layer mixes all inputs into every output with d S + d M weights; convolutions
over neighboring modules and the last tokens then compute queries, keys and
values.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 3.2
and its published code.

Letters: b batch, l length, d d_model.
"""

import jax.numpy as jnp

from trax_hier.compat import tl
from trax_hier.config import configurable
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.sparse.modular_conv import (
  Convolution,
  ModularConv,
  masked_past_inputs,
)
from trax_hier.layers.sparse.multiplicative_dense import (
  MultiplicativeDense,
  check_modules,
)


@configurable(module='trax_hier.layers', denylist=['masked', 'carry'])
def SparseDense(
  d_out: int,
  n_modules: int = 16,
  kernel_size: int = 3,
  length_kernel_size: int = 3,
  mode: str = 'train',
  masked: bool = False,
  carry: bool = False,
):
  """`MultiplicativeDense`, then `ModularConv`: (b, l, d) -> (b, l, d_out).

  Arguments as in `ModularConv`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(SparseDense(64, n_modules=8), (2, 12, 64)).text(0))
    layer             parameters   in            out
    SparseDense ...        1,672   (2, 12, 64)   (2, 12, 64)
  """
  check_modules('SparseDense', n_modules, d_out)
  return tl.Serial(
    MultiplicativeDense(d_out, n_modules),
    ModularConv(
      d_out, n_modules, kernel_size, length_kernel_size, mode, masked, carry
    ),
  )


@configurable(module='trax_hier.layers', denylist=['masked', 'carry'])
def SparseQKV(
  d_out: int,
  n_modules: int = 16,
  length_kernel_size: int = 3,
  share_qk: bool = False,
  v_concat: bool = False,
  mode: str = 'train',
  masked: bool = False,
  carry: bool = False,
):
  """Queries, keys and values: (b, l, d) -> three of (b, l, d_out).

  All three are convolutions of one `MultiplicativeDense` layer's output. The
  kernels span three modules for queries and keys, and one for values.

  Args:
    d_out: Width of each output, and of the input.
    n_modules: Number of modules; divides d_out.
    length_kernel_size: Size of the kernels in tokens.
    share_qk: Whether the queries are also the keys.
    v_concat: Whether the convolution for values also takes the layer's input,
      concatenated module by module. (The published code can also concatenate
      whole vectors, which mixes modules: a mistake that it keeps for old
      checkpoints. That option is not supported here.)
    mode: 'train', 'eval' or 'predict'.
    masked: As in `ModularConv`.
    carry: As in `ModularConv`.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> tree(SparseQKV(64, n_modules=8), (2, 12, 64)).outputs
    ((2, 12, 64), (2, 12, 64), (2, 12, 64))
  """
  check_modules('SparseQKV', n_modules, d_out)
  check_arguments('SparseQKV', length_kernel_size=length_kernel_size)

  def convolution(kernel_size):
    return Convolution(d_out, n_modules, kernel_size, length_kernel_size)

  def past():
    return masked_past_inputs(length_kernel_size - 1, masked, mode, carry)

  def concatenate(z, x):
    modules = [y.reshape(*y.shape[:2], n_modules, -1) for y in (z, x)]
    return jnp.concatenate(modules, axis=-1).reshape(*x.shape[:2], -1)

  if v_concat:
    inputs = tl.Serial(  # x
      tl.Branch(MultiplicativeDense(d_out, n_modules), None),  # z, x
      tl.Branch(
        tl.Select([0], n_in=2), tl.Fn('ConcatenateModules', concatenate)
      ),  # z, input for values
      tl.Select([0, 2, 1, 2]) if masked else [],
      tl.Parallel(past(), past()),
    )
  else:
    inputs = tl.Serial(  # x
      MultiplicativeDense(d_out, n_modules),
      past(),
      tl.Dup(),  # z, input for values
    )
  n = 1 if share_qk else 2
  return tl.Serial(  # x[, mask]
    inputs,
    tl.Select([0] * n + [1]),
    tl.Parallel(*[convolution(3) for _ in range(n)], convolution(1)),
    tl.Select([0, 0, 1] if share_qk else [0, 1, 2]),  # q, k, v
  )

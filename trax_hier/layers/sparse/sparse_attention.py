"""Self-attention and cross-attention with sparse projections.

Source: Sparse is Enough in Scaling Transformers (arXiv 2111.12763), section 3.2
and its published code.

Letters: b batch, l and m lengths, d d_model.
"""

import functools
from collections.abc import Callable

from trax_hier.compat import base
from trax_hier.config import configurable
from trax_hier.layers.attention.causal_attention import SelfAttention
from trax_hier.layers.attention.cross_attention import CrossAttention
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.carry import check_carries
from trax_hier.layers.base.dense import NoProjection
from trax_hier.layers.base.slots import PROJECTION, build_part
from trax_hier.layers.sparse.multiplicative_dense import check_modules
from trax_hier.layers.sparse.sparse_qkv import SparseDense, SparseQKV


@configurable(module='trax_hier.layers', denylist=['masked', 'carry'])
def SparseAttention(
  d_model: int,
  n_heads: int = 8,
  n_modules: int = 16,
  length_kernel_size: int = 3,
  share_qk: bool = False,
  v_concat: bool = False,
  output: Callable[..., base.Layer] = NoProjection,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
  masked: bool = False,
  window: int | None = None,
  d_head: int | None = None,
  carry: bool = False,
):
  """Causal self-attention with sparse projections: (b, l, d) -> (b, l, d).

  This is `SelfAttention` with `SparseQKV`.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model.
    n_modules: Number of modules; divides d_model and may differ from n_heads.
    length_kernel_size: Kernel size in tokens of `SparseQKV` and the output.
    share_qk: As in `SparseQKV`.
    v_concat: As in `SparseQKV`.
    output: Factory of the output projection: @NoProjection, as in the paper,
      @MultiplicativeDense, @ModularConv, @SparseDense or @Dense, with the same
      n_modules.
    dropout: Dropout rate of the attention weights.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens of the cache in predict mode.
    stride: Distance in tokens between neighboring positions.
    positions: Position scheme; None means `NoPositions()`.
    masked: Whether the layer takes a second input, mask (b, l) bool. Rows where
      it is False must be the first rows; they are treated as absent.
    window: As in `SelfAttention`; None means `SelfAttention.window`.
    d_head: Width of a head; None means d_model / n_heads.
    carry: As in `SelfAttention`.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = SparseAttention(64, n_heads=4, n_modules=8)
    >>> print(tree(layer, (2, 12, 64)).text(0))
    layer               parameters   in            out
    SelfAttention ...        2,456   (2, 12, 64)   (2, 12, 64)
  """
  check_modules('SparseAttention', n_modules, d_model)
  modules = dict(n_modules=n_modules, length_kernel_size=length_kernel_size)
  check_carries(
    'SparseAttention.output',
    output,
    d_model=n_heads * d_head if d_head else d_model,
    d_out=d_model,
    mode=mode,
    carry=carry,
    **modules,
  )
  return SelfAttention(
    d_model,
    n_heads,
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    stride=stride,
    positions=positions,
    qkv=functools.partial(
      SparseQKV, share_qk=share_qk, v_concat=v_concat, **modules
    ),
    output=_with_dimensions('SparseAttention.output', output, **modules),
    masked=masked,
    d_head=d_head,
    carry=carry,
    # An explicit None would override the gin binding of SelfAttention.window.
    **({} if window is None else dict(window=window)),
  )


@configurable(module='trax_hier.layers')
def SparseCrossAttention(
  d_model: int,
  n_heads: int = 8,
  n_modules: int = 16,
  length_kernel_size: int = 3,
  output: Callable[..., base.Layer] = NoProjection,
  dropout: float = 0.0,
  mode: str = 'train',
):
  """`CrossAttention` whose queries are projected by `SparseDense`.

  x (b, l, d), context (b, m, d), mask (b, m) bool -> (b, l, d). The projections
  to keys and values, which decoding runs once, stay dense. Arguments as in
  `SparseAttention`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> from trax_hier.compat import ShapeDtype
    >>> layer = SparseCrossAttention(8, n_heads=4, n_modules=2)
    >>> mask = ShapeDtype((2, 5), bool)
    >>> print(tree(layer, (2, 12, 8), (2, 5, 8), mask).text(0))
    layer                parameters   in                            out
    CrossAttention ...          348   (2, 12, 8) (2, 5, 8) (2, 5)   (2, 12, 8)
  """
  check_modules('SparseCrossAttention', n_modules, d_model)
  modules = dict(n_modules=n_modules, length_kernel_size=length_kernel_size)
  return CrossAttention(
    d_model,
    n_heads,
    dropout=dropout,
    mode=mode,
    query=functools.partial(SparseDense, **modules),
    output=_with_dimensions('SparseCrossAttention.output', output, **modules),
  )


def _with_dimensions(binding, factory, **modules):
  """A factory that passes on those of `modules` that `factory` declares."""

  return lambda d_out, mode, masked=False, carry=False: build_part(
    binding,
    factory,
    PROJECTION,
    d_out=d_out,
    mode=mode,
    masked=masked,
    carry=carry,
    **modules,
  )

"""Retina attention: near tokens one by one, farther tokens in larger blocks.

Letters: b batch, l length, d d_model, w window.
"""

from collections.abc import Callable, Sequence

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.carry import refuse_carry
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.slots import SHORTEN, build_part
from trax_hier.layers.hierarchy.scale_attention import scale_attention
from trax_hier.layers.hierarchy.scales import Pyramid, check_scales
from trax_hier.layers.hierarchy.shorten import AverageShorten


@configurable(module='trax_hier.layers', denylist=['carry'])
def RetinaAttention(
  d_model: int,
  n_heads: int = 8,
  scales: tuple[int, ...] = (1, 4, 16),
  window: int = 64,
  pool: Callable[..., base.Layer] = AverageShorten,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
  d_head: int | None = None,
  carry: bool = False,
):
  """Self-attention, coarser for distant tokens: (b, l, d) -> (b, l, d).

  The sequence is cut into windows of w tokens. A query attends to the tokens of
  the window before its own, and of its own window up to itself. It attends to
  the S windows before these as w blocks of the next scale S, and so on; the
  last scale covers all remaining tokens. The keys of a query cover each token
  up to the query exactly once; a query has at most 2 w + l / S_1 keys.

  More scores are computed than used; the mask hides the others. For each query
  and scale, scores are computed from the far end of the scale's band to the
  query: 2 w for tokens, w (1 + 2 / S_1) for the next scale, .., and l / S for
  the last. A predict call with many tokens computes the scores of all its keys
  for all its queries.

  With average pooling, the weights are the same as in `SelfAttention`, except
  that a position scheme with weights has separate weights for each scale.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model unless d_head is set.
    scales: Positions per block at each scale, (1, S_1, ..).
    window: w in positions, a multiple of every scale.
    pool: Factory of the shortening from one scale to the next:
      `AverageShorten`, `LinearShorten` or `AttentionShorten`.
    dropout: Dropout rate of the attention weights.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens in predict mode. The caches hold 2 w positions
      and the blocks that later queries can still attend to.
    stride: Distance in tokens between neighboring positions.
    positions: Position scheme; None means `NoPositions()`.
    d_head: Width of a head; None means d_model / n_heads.
    carry: Must be False, except in predict mode.

  Raises:
    ValueError: an argument is out of its range.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> retina = RetinaAttention(8, n_heads=2, scales=(1, 2, 4), window=4)
    >>> print(tree(retina, (2, 16, 8)).text(depth=0))
    layer                 parameters   in           out
    RetinaAttention ...          288   (2, 16, 8)   (2, 16, 8)

  Source: Multi-scale Transformer Language Models (arXiv 2005.00581), the retina
  model. The paper leaves two details open, which are reconstructed here: fixed
  windows instead of a band that slides with the query, and the extent of each
  scale's band.
  """
  check_arguments('RetinaAttention', mode=mode)
  check_retina('RetinaAttention', scales, window)
  refuse_carry('RetinaAttention', carry, mode, 'has no memory')

  def shorten(j):
    k = scales[j] // scales[j - 1]
    return build_part(
      'RetinaAttention.pool',
      pool,
      SHORTEN.of(f'x -> x/{k}'),
      shorten_factor=k,
      d_model=d_model,
      n_heads=n_heads,
      dropout=dropout,
      mode=mode,
      max_len=max_len,
      stride=scales[j - 1] * stride,
      positions=positions,
    )

  return tl.Serial(  # x
    Pyramid(scales, shorten, lambda j: tl.Serial(), mode),  # x, rows
    scale_attention(
      d_model,
      n_heads,
      scales,
      window,
      stride,
      key_layers=lambda: [],
      dropout=dropout,
      mode=mode,
      max_len=max_len,
      positions=positions or NoPositions(),
      d_head=d_head,
    ),
  )


def check_retina(name: str, scales: Sequence[int], window: int) -> None:
  """Raises ValueError unless scales are valid and divide the window."""
  check_scales(name, scales)
  if window < 1 or window % scales[-1]:
    raise ValueError(
      f'{name}.window = {window} must be a positive multiple of every scale in '
      f'{name}.scales = {scales}'
    )

"""Attention of tokens to several scales: the layers around `AttendToScales`.

`RetinaAttention` and `AttentionAggregation` share these: projections to heads,
the cache of the tokens' keys and values, and the output projection. The
position of a block is that of its first token; all positions are in tokens.

Letters: b batch, h heads, l length, m rows, d d_model.
"""

import itertools

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.layers.attention.cache import KeyValueCache
from trax_hier.layers.attention.heads import Heads, MergeHeads
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.hierarchy.attend_to_scales import AttendToScales
from trax_hier.layers.hierarchy.groups import as_tuple


def scale_attention(
  d_model,
  n_heads,
  scales,
  window,
  stride,
  key_layers,
  dropout,
  mode,
  max_len,
  positions,
  d_head=None,
):
  """Attention of x to itself and to the rows of each further scale.

  x (b, l, d), rows (b, l / S, d) -> (b, l, d). Arguments are as in
  `RetinaAttention`, except that `window` may be None, for no window, and that
  `key_layers` makes a list of layers for the keys of a scale, (b, h, m, d_head)
  -> same.
  """
  n = len(scales)
  n_rows = -(-max_len // stride)
  rotate_q, rotate_k = (positions.rotate(stride, mode) for _ in range(2))
  n_cached = 2 * window if window and n > 1 else None
  keys = [tl.Serial(*key_layers(), *rotate_k)]
  keys += [tl.Serial(*key_layers()) for _ in scales[1:]]
  return tl.Serial(  # x, rows
    tl.Branch(
      tl.Serial(
        tl.Select([0], n_in=n), Heads(d_model, n_heads, rotate_q, d_head=d_head)
      ),
      Together(Heads(d_model, n_heads, [], [], d_head=d_head), n),
    ),  # q, then k and v of each scale
    tl.Parallel(None, *[x for layer in keys for x in (layer, None)]),
    tl.Parallel(None, KeyValueCache(n_rows, n_cached, mode)),
    AttendToScales(scales, window, stride, positions, dropout, mode, n_rows),
    MergeHeads(),
    Dense(d_model),
  )


class Together(base.Layer):
  """Concatenates n sequences by length, applies a layer, and splits.

  n inputs (b, .., d) -> for each input the outputs of the layer, with rows on
  the second-to-last axis.

  Args:
    layer: A layer with one input that maps each row independently.
    n: Number of sequences.
  """

  keeps_documents_apart = True

  def __init__(self, layer: base.Layer, n: int):
    super().__init__(n_in=n, n_out=n * layer.n_out)
    self._sublayers = (layer,)
    self._weights = (None,)
    self._state = (None,)

  def init_weights_and_state(self, input_signature):
    (layer,) = self.sublayers
    first = as_tuple(input_signature)[0]
    weights, state = layer.init(first, use_cache=True)
    self.weights, self.state = (weights,), (state,)

  def forward(self, inputs):
    (layer,), (weights,), (state,) = self.sublayers, self.weights, self.state
    inputs = as_tuple(inputs)
    *ends, _ = itertools.accumulate(x.shape[1] for x in inputs)
    joined = jnp.concatenate(inputs, axis=1)
    y, state = layer.pure_fn(joined, weights, state, self.rng, use_cache=True)
    self.state = (state,)
    splits = [jnp.split(x, ends, axis=-2) for x in as_tuple(y)]
    outputs = [x for rows in zip(*splits, strict=True) for x in rows]
    return outputs if self.n_out > 1 else outputs[0]

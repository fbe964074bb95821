"""Samples the noise spans of span corruption."""

import numpy as np

from trax_hier.data.hashing import hash64

_KEPT, _NOISE = 0, 1  # tags for the two uses of a row's key


def length_mask(lengths: np.ndarray, width: int) -> np.ndarray:
  """Returns (b, width) bool, True in the first (b,) `lengths` of each row."""
  return np.arange(width) < lengths[:, None]


def noise_mask(
  keys: np.ndarray,
  begin: np.ndarray,
  end: np.ndarray,
  n_noise: np.ndarray,
  n_spans: np.ndarray,
  width: int,
) -> np.ndarray:
  """Samples which tokens are noise.

  Kept and noise spans alternate, beginning with a kept one.

  Args:
    keys: Random key of each row, (b,) uint64.
    begin: Position of the first token of a row that may be noise, (b,).
    end: Position after the last token of a row that may be noise, (b,).
    n_noise: Number of noise tokens in a row, (b,).
    n_spans: Number of noise spans in a row, (b,); 0 in a row without noise.
    width: Tokens in a row.

  Returns:
    (b, width) bool.
  """
  lengths = np.stack(
    (
      _partition(hash64(keys, _KEPT), end - begin - n_noise, n_spans),
      _partition(hash64(keys, _NOISE), n_noise, n_spans),
    ),
    axis=-1,
  ).reshape(len(keys), -1)
  # Spans of length 0 are last: they toggle at `end`, which the mask excludes.
  edges = begin[:, None] + lengths.cumsum(axis=1)
  toggles = np.zeros((len(keys), width + 1), np.bool_)
  np.put_along_axis(toggles, edges, True, axis=1)
  is_noise = np.logical_xor.accumulate(toggles[:, :width], axis=1)
  return is_noise & (np.arange(width) < end[:, None])


def _partition(keys, n, n_parts):
  """Samples partitions of (b,) n into (b,) n_parts positive parts, uniformly.

  Returns:
    (b, p) int64, where p is the largest n_parts, at least 1. Rows with fewer
    parts are padded with 0. With n_parts = 0, a row has one part, n.
  """
  n_cuts = np.maximum(n_parts - 1, 0)
  scores = hash64(keys[:, None], np.arange(n.max()))
  scores[np.arange(n.max()) >= n[:, None] - 1] = np.iinfo(np.uint64).max
  # Stable, so that ties have the same order on every machine.
  order = np.argsort(scores, axis=1, kind='stable')[:, : n_cuts.max()]
  is_cut = length_mask(n_cuts, n_cuts.max())
  cuts = np.sort(np.where(is_cut, order + 1, n[:, None]), axis=1)
  cuts = np.concatenate((cuts, n[:, None]), axis=1)
  return np.diff(cuts, axis=1, prepend=0)

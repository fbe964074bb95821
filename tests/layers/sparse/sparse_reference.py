"""Sparse projections in plain numpy."""

import numpy as np


def multiplicative(x, gates, kernel, bias=0.0):
  """The output of a multiplicative dense layer."""
  y = np.einsum('...i,si,im->...sm', x, gates, kernel)
  return y.reshape(*x.shape[:-1], -1) + bias


def convolution(x, kernel, bias, n_modules):
  """Convolution by a loop over all indices, zero-padded at the edges."""
  b, length, d = x.shape
  past, n_neighbors, _, width = kernel.shape
  x = x.reshape(b, length, n_modules, d // n_modules)
  y = np.tile(bias, (b, length, n_modules, 1)).astype(np.float64)
  for t in range(length):
    for module in range(n_modules):
      for i in range(past):
        for j in range(n_neighbors):
          before = t - (past - 1 - i)
          other = module + j - n_neighbors // 2
          if before >= 0 and 0 <= other < n_modules:
            y[:, t, module] += x[:, before, other] @ kernel[i, j]
  return y.reshape(b, length, n_modules * width)

"""Compares chunked losses on a mesh with whole ones on one device.

Prints JSON: the largest difference of metrics and weights after two steps.
"""

import json

import jax
import test_loss

if __name__ == '__main__':
  data = test_loss.Tokens()
  gaps = []
  for model in (test_loss.MULTIPLICATIVE, test_loss.RECURRENT):
    whole = test_loss.train(model, data, mesh={'data': -1})
    mesh = {'data': 2, 'fsdp': jax.device_count() // 2}
    parts = test_loss.train(model, data, mesh=mesh, loss_chunk=4)
    gaps.append(test_loss.gap(whole, parts))
  print(json.dumps({'gap': max(gaps)}))

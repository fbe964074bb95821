"""Trains the toy model; takes the arguments of `train` as one JSON object.

A further argument `process` is (coordinator, number of processes, index).
Exits with code 143 on SIGTERM.
"""

import functools
import json
import sys

import jax
import toy_training

from trax_hier.training import Adam, Stopped, mesh, train

if __name__ == '__main__':
  arguments = json.loads(sys.argv[1])
  if process := arguments.pop('process', None):
    jax.distributed.initialize(*process)
  mesh._SMALL = 1
  defaults = {
    'model': functools.partial(toy_training.Model, dropout=0.3, memory=True),
    'data': toy_training.Data(rows=16),
    'optimizer': functools.partial(Adam, 0.01),
    'eval_every': 30,
    'checkpoint_every': 20,
    'log_every': 1,
  }
  try:
    train(**(defaults | arguments))
  except Stopped as stopped:
    print(stopped)
    sys.exit(143)

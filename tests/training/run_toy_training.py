"""Runs a toy training in a process of its own: FOLDER STEPS [PARTS]."""

import functools
import sys

import toy_training as toy

from trax_hier.training import Adam, train

if __name__ == '__main__':
  folder, steps, *parts = sys.argv[1:]
  train(
    folder,
    functools.partial(toy.Model, dropout=0.3, memory=True),
    toy.Data(rows=16),
    functools.partial(Adam, 0.01),
    steps=int(steps),
    eval_every=30,
    checkpoint_every=20,
    log_every=1,
    accumulate_steps=int(*parts or [1]),
  )

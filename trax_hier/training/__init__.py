"""Training: schedules, optimizers, the jitted step, checkpoints, the loop."""

from trax_hier.training.checkpoints import CheckpointError
from trax_hier.training.logging.jsonl import read_metrics
from trax_hier.training.logging.report import NotFiniteError
from trax_hier.training.loop import TrainResult, train
from trax_hier.training.optimizers import SGD, Adafactor, Adam, Optimizer
from trax_hier.training.schedules import multifactor
from trax_hier.training.stopping import Stopped

__all__ = [
  'SGD',
  'Adafactor',
  'Adam',
  'CheckpointError',
  'NotFiniteError',
  'Optimizer',
  'Stopped',
  'TrainResult',
  'multifactor',
  'read_metrics',
  'train',
]

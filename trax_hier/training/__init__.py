"""Training: the loop and all that it uses.

* `loop`: `train`, which calls all others; `steps` are its steps.
* `run`: starts or resumes a run; `saved_config` refuses a changed
  configuration, `run_lock` refuses a second trainer, and `checkpoints` loads
  the newest checkpoint.
* `initial_weights`: the weights that a new run starts with, `init_from`.
* `build`, `state`: jitted functions and their state, split by `mesh`.
* `step`, `accumulate`: the training step and gradient accumulation.
* `optimizers`, `schedules`: optax optimizers and learning rates.
* `evaluate`: scores on held-out data.
* `intervals`, `stopping`: when to evaluate, save, probe and exit.
* `flops`, `utilization`, `profile`: measurements of speed.
* `logging`: metrics and progress.
"""

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

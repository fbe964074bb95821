"""Language models, composed of the layers."""

from trax_hier.models.block_recurrent import BlockRecurrentLM
from trax_hier.models.hourglass import HourglassLM
from trax_hier.models.multiscale import BottomUpLM, RetinaLM, TopDownLM
from trax_hier.models.scaling_transformer import (
  ScalingTransformer,
  ScalingTransformerLM,
)
from trax_hier.models.terraformer import ReversibleLM, Terraformer
from trax_hier.models.transformer import TransformerLM

__all__ = [
  'BlockRecurrentLM',
  'BottomUpLM',
  'HourglassLM',
  'RetinaLM',
  'ReversibleLM',
  'ScalingTransformer',
  'ScalingTransformerLM',
  'Terraformer',
  'TopDownLM',
  'TransformerLM',
]

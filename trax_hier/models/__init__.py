"""Language models and encoder-decoders, built from `trax_hier.layers`."""

from trax_hier.models.block_recurrent import BlockRecurrentLM
from trax_hier.models.bottom_up import BottomUpLM
from trax_hier.models.hourglass import HourglassLM
from trax_hier.models.retina import RetinaLM
from trax_hier.models.scaling_transformer import (
  ScalingTransformer,
  ScalingTransformerLM,
)
from trax_hier.models.terraformer import ReversibleLM, Terraformer
from trax_hier.models.top_down import TopDownLM
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

"""Layer combinators for long sequences; all of them plain Trax layers."""

from trax_hier.layers.attention import (
  Attend,
  CausalAttention,
  CrossAttention,
  Heads,
  MergeHeads,
  SelfAttention,
)
from trax_hier.layers.blocks import DecoderBlock, PreNormResidual
from trax_hier.layers.build import build
from trax_hier.layers.cache import KeyValueCache
from trax_hier.layers.decoding import (
  PRECISIONS,
  decoding_state,
  decoding_weights,
)
from trax_hier.layers.dense import Dense
from trax_hier.layers.dot_product import DotProductAttention
from trax_hier.layers.feed_forward import FeedForward, Gelu
from trax_hier.layers.lsh import LSHAttention
from trax_hier.layers.normalization import LayerNorm
from trax_hier.layers.positions import (
  NoPositions,
  RelativePositions,
  RotaryPositions,
  T5Positions,
)
from trax_hier.layers.shorten import (
  AttentionShorten,
  AverageShorten,
  LinearShorten,
)
from trax_hier.layers.shortened_stack import ShortenedStack
from trax_hier.layers.stacking import (
  Once,
  RandomChoice,
  Remat,
  Repeat,
  ShareWeights,
)
from trax_hier.layers.upsample import (
  AttentionUpsample,
  LinearUpsample,
  RepeatUpsample,
  Upsample,
  ZeroUpsample,
)

__all__ = [
  'PRECISIONS',
  'Attend',
  'AttentionShorten',
  'AttentionUpsample',
  'AverageShorten',
  'CausalAttention',
  'CrossAttention',
  'DecoderBlock',
  'Dense',
  'DotProductAttention',
  'FeedForward',
  'Gelu',
  'Heads',
  'KeyValueCache',
  'LSHAttention',
  'LayerNorm',
  'LinearShorten',
  'LinearUpsample',
  'MergeHeads',
  'NoPositions',
  'Once',
  'PreNormResidual',
  'RandomChoice',
  'RelativePositions',
  'Remat',
  'Repeat',
  'RepeatUpsample',
  'RotaryPositions',
  'SelfAttention',
  'ShareWeights',
  'ShortenedStack',
  'T5Positions',
  'Upsample',
  'ZeroUpsample',
  'build',
  'decoding_state',
  'decoding_weights',
]

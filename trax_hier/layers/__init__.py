"""Layer combinators for long sequences; all of them plain Trax layers."""

from trax_hier.layers.attention.attention import (
  Attend,
  CausalAttention,
  CrossAttention,
  DenseQKV,
  EncoderAttention,
  Heads,
  MergeHeads,
  SelfAttention,
)
from trax_hier.layers.attention.cache import KeyValueCache, PastInputs, PastRows
from trax_hier.layers.attention.dot_product import DotProductAttention
from trax_hier.layers.attention.lsh_attention import LSHAttention
from trax_hier.layers.attention.positions import (
  LearnedPositions,
  NoPositions,
  RelativePositions,
  RotaryPositions,
  T5Positions,
  longest_sequence,
)
from trax_hier.layers.attention.prefix import (
  AlignRight,
  CloseGaps,
  Prefixed,
  has_prefix,
)
from trax_hier.layers.attention.sliding_attention import SlidingAttention
from trax_hier.layers.base.build import build
from trax_hier.layers.base.dense import Dense, Linear, NoProjection
from trax_hier.layers.base.feed_forward import (
  FeedForward,
  Gelu,
  Relu,
  ReluFeedForward,
)
from trax_hier.layers.base.memory import Lanes, Memory, ShiftRight
from trax_hier.layers.base.normalization import LayerNorm, RMSNorm
from trax_hier.layers.base.stacking import (
  Once,
  RandomChoice,
  Remat,
  Repeat,
  ShareWeights,
)
from trax_hier.layers.blocks import (
  DecoderBlock,
  EncoderBlock,
  EncoderDecoderBlock,
  PreNormResidual,
)
from trax_hier.layers.decoding import (
  PRECISIONS,
  decoding_state,
  decoding_weights,
)
from trax_hier.layers.hierarchy.retina_attention import (
  AttentionAggregation,
  ConcatAggregation,
  RetinaAttention,
)
from trax_hier.layers.hierarchy.scales import (
  Coarse,
  ConcatDense,
  Latest,
  Pyramid,
  Sum,
)
from trax_hier.layers.hierarchy.shorten import (
  AttentionShorten,
  AverageShorten,
  LinearShorten,
)
from trax_hier.layers.hierarchy.shortened_stack import ShortenedStack
from trax_hier.layers.hierarchy.upsample import (
  AttentionUpsample,
  LinearUpsample,
  RepeatUpsample,
  Upsample,
  ZeroUpsample,
)
from trax_hier.layers.recurrent.block_recurrent_cell import BlockRecurrentCell
from trax_hier.layers.recurrent.feedback_stack import FeedbackStack
from trax_hier.layers.recurrent.gates import FixedGate, LSTMGate
from trax_hier.layers.recurrent.sru import SRU, SRUBranch
from trax_hier.layers.reversible import ReversibleRepeat
from trax_hier.layers.sparse.sparse_ff import SparseFF
from trax_hier.layers.sparse.sparse_qkv import (
  ModularConv,
  MultiplicativeDense,
  SparseAttention,
  SparseCrossAttention,
  SparseDense,
  SparseQKV,
)

__all__ = [
  'PRECISIONS',
  'SRU',
  'AlignRight',
  'Attend',
  'AttentionAggregation',
  'AttentionShorten',
  'AttentionUpsample',
  'AverageShorten',
  'BlockRecurrentCell',
  'CausalAttention',
  'CloseGaps',
  'Coarse',
  'ConcatAggregation',
  'ConcatDense',
  'CrossAttention',
  'DecoderBlock',
  'Dense',
  'DenseQKV',
  'DotProductAttention',
  'EncoderAttention',
  'EncoderBlock',
  'EncoderDecoderBlock',
  'FeedForward',
  'FeedbackStack',
  'FixedGate',
  'Gelu',
  'Heads',
  'KeyValueCache',
  'LSHAttention',
  'LSTMGate',
  'Lanes',
  'Latest',
  'LayerNorm',
  'LearnedPositions',
  'Linear',
  'LinearShorten',
  'LinearUpsample',
  'Memory',
  'MergeHeads',
  'ModularConv',
  'MultiplicativeDense',
  'NoPositions',
  'NoProjection',
  'Once',
  'PastInputs',
  'PastRows',
  'PreNormResidual',
  'Prefixed',
  'Pyramid',
  'RMSNorm',
  'RandomChoice',
  'RelativePositions',
  'Relu',
  'ReluFeedForward',
  'Remat',
  'Repeat',
  'RepeatUpsample',
  'RetinaAttention',
  'ReversibleRepeat',
  'RotaryPositions',
  'SRUBranch',
  'SelfAttention',
  'ShareWeights',
  'ShiftRight',
  'ShortenedStack',
  'SlidingAttention',
  'SparseAttention',
  'SparseCrossAttention',
  'SparseDense',
  'SparseFF',
  'SparseQKV',
  'Sum',
  'T5Positions',
  'Upsample',
  'ZeroUpsample',
  'build',
  'decoding_state',
  'decoding_weights',
  'has_prefix',
  'longest_sequence',
]

"""Layers and combinators for long sequences; all are plain Trax layers."""

from trax_hier.layers.attention.cache import KeyValueCache, PastInputs, PastRows
from trax_hier.layers.attention.causal_attention import (
  Attend,
  CausalAttention,
  DenseQKV,
  SelfAttention,
)
from trax_hier.layers.attention.cross_attention import (
  CrossAttention,
  EncoderAttention,
)
from trax_hier.layers.attention.dot_product import DotProductAttention
from trax_hier.layers.attention.fixed_base_positions import FixedBasePositions
from trax_hier.layers.attention.heads import Heads, MergeHeads
from trax_hier.layers.attention.learned_positions import (
  LearnedPositions,
  longest_sequence,
)
from trax_hier.layers.attention.lsh_attention import LSHAttention
from trax_hier.layers.attention.memorizing_attention import MemorizingAttention
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.attention.prefix import (
  AlignRight,
  CloseGaps,
  Prefixed,
  has_prefix,
)
from trax_hier.layers.attention.relative_positions import RelativePositions
from trax_hier.layers.attention.rotary_positions import RotaryPositions
from trax_hier.layers.attention.sliding_attention import SlidingAttention
from trax_hier.layers.attention.t5_positions import T5Positions
from trax_hier.layers.base.auxiliary import AuxiliaryLoss, Metrics
from trax_hier.layers.base.build import build
from trax_hier.layers.base.dense import Dense, Linear, NoProjection
from trax_hier.layers.base.documents import ReadsDocuments
from trax_hier.layers.base.feed_forward import (
  FeedForward,
  Gelu,
  Relu,
  ReluFeedForward,
  SwiGLU,
)
from trax_hier.layers.base.head import Head
from trax_hier.layers.base.memory import Lanes, Memory, ShiftRight
from trax_hier.layers.base.normalization import LayerNorm, RMSNorm
from trax_hier.layers.base.once import Once
from trax_hier.layers.base.random_choice import RandomChoice
from trax_hier.layers.base.remat import Remat
from trax_hier.layers.base.repeat import Repeat
from trax_hier.layers.base.sharing import ShareWeights
from trax_hier.layers.base.tied_logits import TiedLogits
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
from trax_hier.layers.hierarchy.aggregation import (
  AttentionAggregation,
  ConcatAggregation,
  ConcatDense,
  Sum,
)
from trax_hier.layers.hierarchy.boundary_rules import ByteRule, WordRule
from trax_hier.layers.hierarchy.dynamic_shorten import SegmentMean, TakeFirst
from trax_hier.layers.hierarchy.dynamic_stack import DynamicStack
from trax_hier.layers.hierarchy.dynamic_upsample import (
  AtBoundaries,
  PositionLinear,
  PreviousSegment,
  SmoothedHold,
)
from trax_hier.layers.hierarchy.retina_attention import RetinaAttention
from trax_hier.layers.hierarchy.routers import (
  BoundaryPredictor,
  FixedBoundaries,
  SimilarityRouter,
)
from trax_hier.layers.hierarchy.scales import Coarse, Latest, Pyramid
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
from trax_hier.layers.sparse.modular_conv import ModularConv
from trax_hier.layers.sparse.multiplicative_dense import MultiplicativeDense
from trax_hier.layers.sparse.sparse_attention import (
  SparseAttention,
  SparseCrossAttention,
)
from trax_hier.layers.sparse.sparse_ff import SparseFF
from trax_hier.layers.sparse.sparse_qkv import SparseDense, SparseQKV

__all__ = [
  'PRECISIONS',
  'SRU',
  'AlignRight',
  'AtBoundaries',
  'Attend',
  'AttentionAggregation',
  'AttentionShorten',
  'AttentionUpsample',
  'AuxiliaryLoss',
  'AverageShorten',
  'BlockRecurrentCell',
  'BoundaryPredictor',
  'ByteRule',
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
  'DynamicStack',
  'EncoderAttention',
  'EncoderBlock',
  'EncoderDecoderBlock',
  'FeedForward',
  'FeedbackStack',
  'FixedBasePositions',
  'FixedBoundaries',
  'FixedGate',
  'Gelu',
  'Head',
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
  'MemorizingAttention',
  'Memory',
  'MergeHeads',
  'Metrics',
  'ModularConv',
  'MultiplicativeDense',
  'NoPositions',
  'NoProjection',
  'Once',
  'PastInputs',
  'PastRows',
  'PositionLinear',
  'PreNormResidual',
  'Prefixed',
  'PreviousSegment',
  'Pyramid',
  'RMSNorm',
  'RandomChoice',
  'ReadsDocuments',
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
  'SegmentMean',
  'SelfAttention',
  'ShareWeights',
  'ShiftRight',
  'ShortenedStack',
  'SimilarityRouter',
  'SlidingAttention',
  'SmoothedHold',
  'SparseAttention',
  'SparseCrossAttention',
  'SparseDense',
  'SparseFF',
  'SparseQKV',
  'Sum',
  'SwiGLU',
  'T5Positions',
  'TakeFirst',
  'TiedLogits',
  'Upsample',
  'WordRule',
  'ZeroUpsample',
  'build',
  'decoding_state',
  'decoding_weights',
  'has_prefix',
  'longest_sequence',
]

"""Names of Trax and meliad, and what they are called here.

The only table of them: suggestions in error messages (`name_hints`), `foreign`
and the translation of files (package `translation`) read it. To add a name, add
a row.
"""

from collections.abc import Iterator

# {configurable: configurables here; () without counterpart}
_OF_MELIAD = {
  'AdafactorConfig': ('Adafactor',),
  'AdamConfig': ('Adam',),
  'BoundedALiBi': (),
  'DecoderStack': ('BlockRecurrentLM',),
  'DenseKVMemory': (),
  'FlaxAdafactorConfig': ('Adafactor',),
  'MelodiSequenceLayer': (),
  'MelodiStack': (),
  'MemTransformerBase': ('BlockRecurrentLM',),
  'MultiHeadMLP': (),
  'RecurrentMemoryLayer': (),
  'Trainer': ('train',),
  'TransformerBase': ('BlockRecurrentLM',),
  'TransformerLayer': ('SlidingAttention', 'BlockRecurrentCell'),
  'TransformerStack': ('BlockRecurrentLM',),
  'TransformerTaskConfig': ('DocumentLanes',),
  'lr_constant': ('multifactor',),
  'lr_cosine_decay': ('multifactor',),
  'lr_exponential_decay': ('multifactor',),
  'lr_linear_decay': ('multifactor',),
  'lr_rsqrt_decay': ('multifactor',),
  'lr_rsqrt_decay_std': ('multifactor',),
  'memory_on_tpu_factory': ('MemorizingAttention',),
}
_OF_TRAX = {
  # Models of Trax. Reformer2 is an older name of the Terraformer.
  'BERT': (),
  'BERTClassifierHead': (),
  'ConfigurableTerraformer': ('Terraformer',),
  'ConfigurableTransformer': ('ScalingTransformer',),
  'ConfigurableTransformerEncoder': (),
  'ConfigurableTransformerLM': ('ScalingTransformerLM',),
  'FunnelTransformerLM': (),
  'HourglassLM': ('HourglassLM',),
  'Reformer': (),
  'Reformer2': ('Terraformer',),
  'ReformerLM': (),
  'ReformerShortenLM': (),
  'RelformerLM': (),
  'Transformer': ('ScalingTransformer',),
  'Transformer2': (),
  'TransformerDecoder': (),
  'TransformerEncoder': (),
  'TransformerLM': ('TransformerLM',),
  # Layers of Trax.
  'Attention': ('EncoderAttention',),
  'AttentionResampling': ('AttentionShorten', 'AttentionUpsample'),
  'AveragePooling': ('AverageShorten',),
  'CausalAttention': ('SelfAttention',),
  'FastGelu': ('Gelu',),
  'ConvCausalAttention': (),
  'DotProductCausalAttention': ('SelfAttention',),
  'LSHSelfAttention': ('LSHAttention',),
  'LinearPooling': ('LinearShorten',),
  'LinearUpsampling': ('LinearUpsample',),
  'LowRankCausalAttention': (),
  'MixedLSHSelfAttention': (),
  'ModularCausalAttention': (),
  'MultiplicativeCausalAttention': (),
  'MultiplicativeConvCausalAttention': ('SparseAttention',),
  'MultiplicativeModularCausalAttention': (),
  'NaiveUpsampling': ('RepeatUpsample',),
  'NoUpsampling': ('ZeroUpsample',),
  'PureLSHSelfAttention': ('LSHAttention',),
  'PureLSHSelfAttentionWrapper': ('LSHAttention',),
  'RelativeAttentionWrapper': ('SelfAttention', 'RelativePositions'),
  # Data and training of Trax.
  'Momentum': ('SGD',),
  'RMSProp': ('Adam',),
  'SM3': ('Adafactor',),
  'batcher': ('TextFiles', 'PaddedDocuments', 'ImageBytes'),
  'data_streams': ('TextFiles', 'PaddedDocuments', 'ImageBytes'),
  'make_inputs': ('TextFiles', 'PaddedDocuments', 'SpanCorruption'),
}
CONFIGURABLES = _OF_TRAX | _OF_MELIAD
MELIAD_CONFIGURABLES = set(_OF_MELIAD)

_NO_BEST = 'the newest checkpoints and the one with the lowest loss are kept'
_BY_TIME = 'checkpoints are saved by time and before each evaluation'
# Parameters of `train`: {old: (new or '', why there is none or what differs)}
_TRAIN = {
  'additional_eval_streams': ('', 'there is one held-out set'),
  'additional_eval_tasks': ('', 'there is one held-out set'),
  'additional_train_tasks': ('', 'there is one data set'),
  'adasum': ('', 'gradients are averaged'),
  'callbacks': ('', 'there are no callbacks'),
  'checkpoint_highest': ('', _NO_BEST),
  'checkpoint_lowest': ('', _NO_BEST),
  'checkpoints_at': ('', _BY_TIME),
  'eval_frequency': ('train.eval_every', ''),
  'eval_steps': ('train.eval_batches', ''),
  'init_checkpoint': ('train.init_from', 'it takes a run, not a file of Trax'),
  'inputs': ('train.data', ''),
  'loss_chunk_size': ('train.loss_chunk', ''),
  'loss_fn': ('train.label_smoothing', 'the loss is the cross entropy'),
  'lr_schedule_fn': ('Adam.learning_rate', 'or that of another optimizer'),
  'metrics': ('', 'the metrics are loss, bits and accuracy'),
  'n_weights_shards': ('train.mesh', "as in {'fsdp': 8}"),
  'permanent_checkpoint_frequency': ('train.checkpoint_every', ''),
  'permanent_checkpoints_at': ('', _BY_TIME),
  'random_seed': ('train.seed', ''),
  'save_graphs': ('', 'no graphs are saved'),
  'trainer_class': ('', 'there is one trainer'),
  'use_loop': ('', 'there is one trainer'),
  'use_memory_efficient_trainer': ('', 'reversible models always save memory'),
}
_ATTENTION = 'SelfAttention is dense, SparseAttention has sparse projections'
_AXIAL = 'there are no axial positions'
_OFFSETS = 'positions start at 0'
_WIDTHS = 'the width is the same in all layers'
# Parameters of Trax's configurable Transformers; {0} is the model here.
_TRANSFORMER = {
  'attention_chunk_size': ('', 'memory is linear in the length anyway'),
  'attention_type': ('{0}.attention', _ATTENTION),
  'axial_pos_shape': ('{0}.positions', _AXIAL),
  'center_layernorm': ('{0}.norm', 'False is @RMSNorm'),
  'd_attention_key': ('', 'heads have d_model / n_heads'),
  'd_attention_value': ('', 'heads have d_model / n_heads'),
  'd_axial_pos_embs': ('', _AXIAL),
  'd_ff': ('{0}.d_ff', ''),
  'd_model': ('{0}.d_model', ''),
  'double_after_layer': ('', _WIDTHS),
  'dropout': ('{0}.dropout', ''),
  'dropout_shared_axes': ('', 'masks of dropout are not shared'),
  'enc_dec_attention_sparsity': ('{0}.cross_attention', ''),
  'encoder_attention_type': ('{0}.encoder_attention', ''),
  'encoder_decoder_attention_type': ('{0}.attention', _ATTENTION),
  'ff_activation': ('FeedForward.activation', ''),
  'ff_chunk_size': ('SparseFF.chunk_size', ''),
  'ff_dropout': ('', 'there is one rate of dropout'),
  'ff_sparsity': ('SparseFF.n_elements_in_block', ''),
  'ff_sparsity_type': ('', 'sparse feed-forward layers are 1 in N'),
  'ff_use_sru': ('{0}.recurrence', 'as in @SRUBranch'),
  'forget_dense': ('', 'there are no forgetting layers'),
  'half_before_layer': ('', _WIDTHS),
  'input_vocab_size': ('{0}.vocab_size', ''),
  'loss_d_lowrank': ('', 'there is no low-rank loss layer'),
  'loss_sparsity': ('MultiplicativeDense.n_modules', ''),
  'loss_sparsity_prob': ('', 'a sparse loss layer is always sparse'),
  'loss_sparsity_type': ('{0}.logits', ''),
  'max_len': ('LearnedPositions.n_positions', ''),
  'n_decoder_attention_layers': ('{0}.n_decoder_attentions', ''),
  'n_decoder_layers': ('{0}.n_decoder_layers', ''),
  'n_encoder_layers': ('{0}.n_encoder_layers', ''),
  'n_heads': ('{0}.n_heads', ''),
  'n_layers': ('{0}.n_layers', ''),
  'n_layers_forget': ('', 'there are no forgetting layers'),
  'output_vocab_size': ('', 'sources and targets share the vocabulary'),
  'pos_axial_shape': ('', _AXIAL),
  'pos_d_axial_embs': ('', _AXIAL),
  'pos_max_offset_to_add': ('', _OFFSETS),
  'pos_start_from_zero_prob': ('', _OFFSETS),
  'pos_type': ('{0}.positions', ''),
  'reversible_encoder': ('{0}.reversible_encoder', ''),
  'use_bfloat16': ('train.compute_dtype', "as 'bfloat16'"),
  'use_two_swaps_per_encoder_block': ('', 'the encoder swaps twice a block'),
  'vocab_size': ('{0}.vocab_size', ''),
}
# Parameters that only some of the models have.
_ONLY = {
  ('ScalingTransformerLM', 'TransformerLM'): {
    'attention_type',
    'n_layers',
    'vocab_size',
  },
  ('ScalingTransformer', 'Terraformer'): {
    'encoder_attention_type',
    'encoder_decoder_attention_type',
    'input_vocab_size',
    'n_decoder_layers',
    'n_encoder_layers',
    'output_vocab_size',
  },
  ('ScalingTransformer',): {'enc_dec_attention_sparsity'},
  ('Terraformer',): {
    'center_layernorm',
    'd_attention_key',
    'd_attention_value',
    'double_after_layer',
    'half_before_layer',
    'n_decoder_attention_layers',
    'n_layers_forget',
    'reversible_encoder',
    'use_two_swaps_per_encoder_block',
  },
}
_MODELS = {
  'ConfigurableTerraformer': 'Terraformer',
  'ConfigurableTransformer': 'ScalingTransformer',
  'ConfigurableTransformerLM': 'ScalingTransformerLM',
  'Reformer2': 'Terraformer',
  'Transformer': 'ScalingTransformer',
  'TransformerLM': 'TransformerLM',
}
_HOURGLASS = {
  'attention_downsampling_fn': ('AttentionShorten.pool', ''),
  'attention_upsampling_fn': ('AttentionUpsample.expand', ''),
  'downsampling_fn': ('HourglassLM.shorten', ''),
  'dropout_shared_axes': _TRANSFORMER['dropout_shared_axes'],
  'ff_activation': ('FeedForward.activation', ''),
  'middle_attn_type': ('HourglassLM.shortened_block', 'as @DecoderBlock'),
  'upsampling_fn': ('HourglassLM.upsample', ''),
  'vanilla_attn_type': ('HourglassLM.vanilla_block', 'as @DecoderBlock'),
}
_LSH = {
  'attention_dropout': ('', 'attention has the dropout of the model'),
  'chunk_len': ('LSHAttention.chunk_len', ''),
  'max_length_for_buckets': ('', 'the buckets depend on the length'),
  'n_hashes': ('LSHAttention.n_hashes', ''),
}
_SPARSE = {
  'length_kernel_size': ('SparseAttention.length_kernel_size', ''),
  'output_layer_type': ('SparseAttention.output', ''),
  'share_qk': ('SparseAttention.share_qk', ''),
  'sparsity': ('SparseAttention.n_modules', ''),
  'v_concat_type': ('SparseAttention.v_concat', ''),
}
_ADAM = {
  'clip_grad_norm': ('Adam.clip_norm', ''),
}
_ADAFACTOR = {
  'beta1': ('Adafactor.momentum', ''),
  'do_clipping': ('Adafactor.clipping_threshold', ''),
  'do_momentum': ('Adafactor.momentum', ''),
  'epsilon1': ('', 'it is 1e-30 and added to the squared gradients'),
  'epsilon2': ('', 'it is 0.001'),
  'momentum_in_bfloat16': ('', 'the optimizer is float32'),
}
_DATA = {
  'batcher.batch_size_per_device': ('TextFiles.batch_size', 'of all devices'),
  'batcher.batch_size': ('TextFiles.batch_size', ''),
  'batcher.buckets': ('TextFiles.length', 'rows have one length'),
  'batcher.eval_batch_size': ('', 'held-out batches are those of training'),
  'batcher.max_eval_length': ('TextFiles.length', ''),
  'data_streams.data_dir': ('TextFiles.path', ''),
  'data_streams.dataset_name': ('train.data', 'as @TextFiles()'),
  'Batch.batch_size': ('TextFiles.batch_size', ''),
}
_MELIAD = {
  'AdafactorConfig.momentum': ('Adafactor.momentum', ''),
  'AdamConfig.beta1': ('Adam.b1', ''),
  'AdamConfig.beta2': ('Adam.b2', ''),
  'AdamConfig.weight_decay_rate': ('Adam.weight_decay', ''),
  'DecoderStack.dstack_window_length': ('FeedbackStack.window', ''),
  'DecoderStack.embedding_dim': ('BlockRecurrentLM.d_model', ''),
  'DecoderStack.embedding_size': ('BlockRecurrentLM.d_model', ''),
  'DecoderStack.feedback_recurrence': ('BlockRecurrentLM.feedback', ''),
  'DecoderStack.memory_layer_indices': (
    'BlockRecurrentLM.recurrent_layers',
    'counted from 1',
  ),
  'DecoderStack.num_layers': ('BlockRecurrentLM.n_layers', ''),
  'DecoderStack.recurrent_layer_indices': (
    'BlockRecurrentLM.recurrent_layers',
    'counted from 1',
  ),
  'TransformerLayer.head_size': ('BlockRecurrentLM.d_head', ''),
  'TransformerLayer.memory_num_neighbors': (
    'MemorizingAttention.n_neighbors',
    '',
  ),
  'TransformerLayer.mlp_dim': ('BlockRecurrentLM.d_ff', ''),
  'TransformerLayer.num_heads': ('BlockRecurrentLM.n_heads', ''),
  'TransformerLayer.recurrent_gate_type': ('BlockRecurrentCell.gate', ''),
  'TransformerLayer.recurrent_num_states': ('BlockRecurrentCell.n_states', ''),
  'TransformerLayer.recurrent_single_gate': (
    'BlockRecurrentCell.configuration',
    "as 'single'",
  ),
  'TransformerLayer.recurrent_skip_ffn': (
    'BlockRecurrentCell.configuration',
    "as 'skip'",
  ),
  'TransformerLayer.relative_position_type': (
    'BlockRecurrentLM.positions',
    '',
  ),
  'TransformerLayer.use_long_xl_architecture': ('BlockRecurrentLM.carry', ''),
  'TransformerLayer.window_length': ('SlidingAttention.window', ''),
  'TransformerTaskConfig.batch_size': (
    'DocumentLanes.batch_size',
    'of all devices',
  ),
  'TransformerTaskConfig.sequence_length': ('DocumentLanes.length', ''),
  'TransformerTaskConfig.vocab_size': ('BlockRecurrentLM.vocab_size', ''),
  'Trainer.checkpoint_every_steps': ('train.checkpoint_every', ''),
  'Trainer.log_every_steps': ('train.log_every', ''),
  'Trainer.num_steps': ('train.steps', ''),
  'Trainer.num_test_steps': ('train.eval_batches', ''),
  'Trainer.test_every_steps': ('train.eval_every', ''),
  'Trainer.warmup_steps': ('multifactor.warmup_steps', ''),
  'memory_on_tpu_factory.database_size': ('MemorizingAttention.memory', ''),
}
# Macros of meliad's base files, and those of the files here.
MACROS = {
  'ATTN_DROPOUT_RATE': 'ATTN_DROPOUT_RATE',
  'DROPOUT_RATE': 'DROPOUT',
  'DTYPE': 'DTYPE',
  'EMBED_DIM': 'D_MODEL',
  'HEAD_DIM': 'D_HEAD',
  'MAX_UNROLLED_WINDOWS': 'MAX_UNROLLED_WINDOWS',
  'MEMORY_HEAD_DIM': 'MEMORY_HEAD_DIM',
  'MEMORY_LAYER_INDICES': 'MEMORY_LAYER_INDICES',
  'MLP_DIM': 'D_FF',
  'NUM_EMBEDDINGS': 'VOCAB_SIZE',
  'NUM_HEADS': 'N_HEADS',
  'NUM_LAYERS': 'N_LAYERS',
  'NUM_MEMORY_HEADS': 'NUM_MEMORY_HEADS',
  'RELATIVE_POSITION_TYPE': 'RELATIVE_POSITION_TYPE',
  'SEGMENT_LENGTH': 'LENGTH',
  'SIDE_LAYER_MLP_DIM': 'SIDE_LAYER_MLP_DIM',
  'USE_LONG_XL_ARCHITECTURE': 'USE_LONG_XL_ARCHITECTURE',
  'WINDOW_LENGTH': 'WINDOW',
}


def _parameters() -> Iterator[tuple[str, tuple[str, str]]]:
  """Yields ('Configurable.parameter', (name here or '', remark))."""
  tables = {
    'train': _TRAIN,
    'HourglassLM': _HOURGLASS,
    'PureLSHSelfAttention': _LSH,
    'LSHSelfAttention': _LSH,
    'PureLSHSelfAttentionWrapper': _LSH,
    'MultiplicativeConvCausalAttention': _SPARSE,
    'Adam': _ADAM,
    'Adafactor': _ADAFACTOR,
  }
  for old, new in _MODELS.items():
    lacking = {
      name
      for models, parameters in _ONLY.items()
      if new not in models
      for name in parameters
    }
    tables[old] = {
      name: (here.format(new), remark)
      for name, (here, remark) in _TRANSFORMER.items()
      # Both libraries have a TransformerLM, with some equal names.
      if name not in lacking
      and (old != new or name in ('dropout_shared_axes', 'ff_activation'))
    }
  for configurable, table in tables.items():
    for parameter, row in table.items():
      yield f'{configurable}.{parameter}', row
  yield from _DATA.items()
  yield from _MELIAD.items()


# {'Configurable.parameter': (name here or '', remark)}
PARAMETERS = dict(_parameters())

"""Data of Trax: what can be said of them, and what the user must decide."""

from trax_hier.config.files import Reference
from trax_hier.translation.draft import Draft
from trax_hier.translation.source import Source, target

_ENCODER_DECODERS = 'ScalingTransformer', 'Terraformer'
_DEVICES = 'per device in Trax: multiply by the devices of your run'
_PREPARE = 'python -m trax_hier.data.prepare'
# Preprocessors that replace spans by sentinels.
_NOISE = 'consume_noise_mask', 'c4_bare_preprocess_fn', 'denoise'


# Functions of the old data, which one data set here replaces.
_SUFFIXES = '_inputs', '_preprocess', '_preprocess_fn', '_tokens'
_FUNCTIONS = {
  'AddLossWeights',
  'AppendValue',
  'Batch',
  'batcher',
  'BucketByLength',
  'Bucketing',
  'concat_preprocess',
  'ConcatenateToLMInput',
  'consume_noise_mask',
  'ConvertToUnicode',
  'data_streams',
  'denoise',
  'filter_dataset_on_len',
  'FilterByLength',
  'FilterEmptyExamples',
  'generate_random_noise_mask',
  'generate_sequential_chunks',
  'generic_text_dataset_preprocess_fn',
  'get_t5_preprocessor_by_name',
  'make_inputs',
  'pad_dataset_to_length',
  'PadToLength',
  'random_spans_helper',
  'reduce_concat_tokens',
  'select_random_chunk',
  'SelectRandomChunk',
  'SentencePieceTokenize',
  'Shuffle',
  'TFDS',
  'Tokenize',
  'truncate_dataset_on_len',
  'TruncateToLength',
  'unsupervised',
  'vocabs',
}


def data(draft: Draft, source: Source, model: str) -> None:
  """Adds a data set that is like the one of the old files.

  Args:
    draft: Gets the bindings.
    source: The old files.
    model: Name of the model here.
  """
  name = ', '.join(_dataset_names(source))
  stages = _stages(source)
  if _generator(source):
    name = f'@{stages[0]}'
    what = f'of your own, instead of what {name} generates'
    draft.decide('VOCAB_SIZE', 'that of your text')
  else:
    what = f"of Trax's {name!r}" if name else 'of the text'
  if model in _ENCODER_DECODERS:
    is_noise = any(stage in _NOISE for stage in stages)
    if is_noise or not (_keys(source) or _is_pairs(name)):
      _spans(draft, source, what, name)
    else:
      _pairs(draft, source, what)
  elif 'enwik8' in name:
    _text(draft, source, 'Enwik8', 'the file enwik8')
  elif _pixels(name):
    _images(draft, source, name)
  elif _generator(source):
    _text(draft, source, 'TextFiles', f'text {what}')
  elif name or stages:
    what = f'a folder {what}, written by {_PREPARE}{_option(name)}'
    _text(draft, source, 'PaddedDocuments', what)
  else:
    _text(draft, source, 'TextFiles', 'your text')


def _text(draft, source, here, what):
  draft.refer('Data', 'train.data', here, True)
  draft.require('Data', f'{here}.path', 'DATA', what)
  _batch_size(draft, source, here)
  length = _length(draft, source)
  draft.bind('Data', f'{here}.length', length)
  draft.lengths = (length,)


def _option(name):
  """The flag of `prepare` for a data set of tensorflow-datasets."""
  is_known = name and not name.startswith('t2t_')
  return f' --name={name}' if is_known else ''


def _images(draft, source, name):
  side = _pixels(name)
  draft.refer('Data', 'train.data', 'ImageBytes', True)
  what = f"a folder of Trax's {name!r}, written by {_PREPARE}{_option(name)}"
  draft.require('Data', 'ImageBytes.path', 'DATA', what)
  _batch_size(draft, source, 'ImageBytes')
  draft.bind('Data', 'ImageBytes.test_as_valid', True)
  draft.lengths = (3 * side * side,)


def _spans(draft, source, what, name):
  """Span corruption of padded documents, as for C4."""
  draft.refer('Data', 'train.data', 'SpanCorruption', True)
  draft.refer('Data', 'SpanCorruption.data', 'PaddedDocuments', True)
  chunk = source.part('generate_sequential_chunks').get('max_length')
  chunk = chunk or source.part('select_random_chunk').get('max_length')
  chunk = chunk or _length(draft, source)
  rows = source.part('PadToLength').get('len_map') or {}
  sizes = source.part('c4_bare_preprocess_fn').get('sequence_length') or {}
  rows = {0: sizes.get('inputs'), 1: sizes.get('targets')} | rows
  density, mean_span = _noise(source)
  n_noise = round(chunk * density)
  n_spans = max(1, round(n_noise / mean_span))
  sources = _row(rows, 0, chunk - n_noise + n_spans)
  targets = _row(rows, 1, n_noise + n_spans + 1)
  draft.bind('Data', 'SpanCorruption.source_length', sources)
  draft.bind('Data', 'SpanCorruption.target_length', targets)
  draft.bind('Data', 'SpanCorruption.vocab_size', _vocab_size(draft))
  draft.bind('Data', 'SpanCorruption.density', density)
  draft.bind('Data', 'SpanCorruption.mean_span', mean_span)
  command = f'{_PREPARE}{_option(name)} --sentencepiece=...'
  folder = f'a folder {what}, written by {command}'
  draft.require('Data', 'PaddedDocuments.path', 'DATA', folder)
  _batch_size(draft, source, 'PaddedDocuments')
  draft.bind('Data', 'PaddedDocuments.length', chunk)
  text = 'must leave ids above the vocabulary for the sentinels'
  draft.decide('VOCAB_SIZE', text)
  draft.lengths = targets, sources


def _pairs(draft, source, what):
  draft.refer('Data', 'train.data', 'TextPairs', True)
  text = f'pairs of texts {what}: lines of JSON, see README'
  draft.require('Data', 'TextPairs.path', 'DATA', text)
  vocabulary = 'a SentencePiece model'
  file = source.part('Tokenize').get('vocab_file')
  if file:
    vocabulary += f', in Trax {file!r}'
  draft.require('Data', 'TextPairs.vocab', 'VOCAB', vocabulary)
  _batch_size(draft, source, 'TextPairs')
  keys = _keys(source)
  if keys:
    draft.bind('Data', 'TextPairs.source', keys[0])
    draft.bind('Data', 'TextPairs.target', keys[1])
  rows = source.part('PadToLength').get('len_map') or {}
  length = _length(draft, source)
  sources, targets = _row(rows, 0, length), _row(rows, 1, length)
  draft.bind('Data', 'TextPairs.source_length', sources)
  draft.bind('Data', 'TextPairs.target_length', targets)
  draft.lengths = targets, sources


def _batch_size(draft, source, here):
  """The rows of a batch, in which Trax counts those of one device."""
  name = f'{here}.batch_size'
  batch, batcher = source.part('Batch'), source.part('batcher')
  buckets = batcher.get('buckets')
  if batch.setting('batch_size'):
    draft.copy('Data', batch, 'batch_size', name, 32)
  elif buckets and buckets[1]:
    draft.bind('Data', name, buckets[1][0])
  elif batcher.get('batch_size'):
    draft.copy('Data', batcher, 'batch_size', name, 32)
  elif _generator(source) and _generator(source).setting('batch_size'):
    draft.copy('Data', _generator(source), 'batch_size', name, 128)
  else:
    draft.copy('Data', batcher, 'batch_size_per_device', name, 32)
    draft.decide(name, _DEVICES)


def _length(draft, source):
  """The tokens of a row; if the old files do not say, 512 or what fits."""
  batcher = source.part('batcher')
  buckets = batcher.get('buckets')
  found = (
    source.part('generate_sequential_chunks').get('max_length')
    or (buckets and buckets[0] and buckets[0][0])
    or source.part('lm1b_preprocess').get('max_target_length')
    or batcher.get('max_eval_length')
    or (_generator(source) and _generator(source).get('train_length'))
  )
  return found or min(512, draft.value('LearnedPositions.n_positions') or 512)


def _noise(source):
  """The share of the tokens that are noise, and the mean tokens of a span."""
  found = []
  for parameter, default in (
    ('noise_density', 0.15),
    ('mean_noise_span_length', 3.0),
  ):
    values = [
      source.part(name).get(parameter)
      for name in ('generate_random_noise_mask', 'random_spans_helper')
    ]
    found.append(next((v for v in values if v is not None), default))
  return found


def _row(rows, i, default):
  value = rows.get(i) if isinstance(rows, dict) else None
  return value if isinstance(value, int) else default


def _vocab_size(draft):
  return draft.macros.get('VOCAB_SIZE', 32000)


def _generator(source):
  """The generator of a synthetic task, if the old files choose one."""
  inputs = source.part('train').get('inputs')
  name = target(inputs)[1] if isinstance(inputs, Reference) else ''
  is_generator = name.endswith('_inputs') and name != 'make_inputs'
  return source.part(name) if is_generator else None


def _dataset_names(source):
  """Names of data sets in the old files, without versions."""
  parts = [
    source.part('data_streams'),
    source.part('TFDS'),
    *(source.part('TFDS', scope=s) for s in ('training', 'train')),
  ]
  names = [part.get('dataset_name') for part in parts]
  names = [n.partition(':')[0] for n in names if isinstance(n, str)]
  return list(dict.fromkeys(names))


def _keys(source):
  """Fields of the examples, if they are pairs of texts."""
  for scope in ('', 'training', 'train'):
    keys = source.part('TFDS', scope=scope).get('keys')
    if isinstance(keys, tuple | list) and len(keys) == 2:
      return tuple(keys)
  return ()


def _is_pairs(name):
  return 'translate' in name or 'wmt' in name or name.startswith('@')


def _pixels(name):
  """The side of the square images of a data set; 0 if it has none."""
  if name.startswith('cifar'):
    return 32
  _, is_imagenet, size = name.partition('downsampled_imagenet/')
  side = size.partition('x')[0]
  return int(side) if is_imagenet and side.isdecimal() else 0


def _stages(source):
  """Names of the functions that the data pass through."""
  pending = [
    source.part('train').get('inputs'),
    source.part('batcher').get('data_streams'),
    *source.part('make_inputs').get('train_stream', default=()),
  ]
  pending += [
    source.part('data_streams').get(name)
    for name in ('bare_preprocess_fn', 'preprocess_fn')
  ]
  return [target(x)[1] for x in pending if isinstance(x, Reference)]


def is_data(name: str) -> bool:
  """Whether a configurable of Trax or T5 is a function of the data."""
  return name in _FUNCTIONS or name.endswith(_SUFFIXES)

"""SpanCorruption: the denoising objective of T5, on another data set."""

import operator
from collections.abc import Sequence

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.batches import Batch, example_indices, make_batch
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.noise_spans import length_mask, noise_mask
from trax_hier.data.hashing import NOISE, SPLIT_TAGS, hash64
from trax_hier.data.vocabularies.sentinel_vocab import SentinelVocab


@configurable(module='trax_hier.data')
class SpanCorruption:
  """Windows of another data set, corrupted for encoder-decoder models.

  'sources' is the window with each noise span replaced by a sentinel.
  'targets' is, for each span, its sentinel and its tokens, and at the end one
  more sentinel:
    window   the quick brown fox jumps over the lazy dog
    sources  the <0> fox jumps over <1>
    targets  <0> quick brown <1> the lazy dog <2>
  Sentinels count down from vocab_size - 1. In a window of n tokens,
  n_noise = round(n * density) are noise, clipped to [1, n - 1], in
  round(n_noise / mean_span) spans: at least 1, at most the number of noise
  tokens, and at most the number of kept tokens. Kept and noise spans alternate,
  a kept span first and a noise span last. The span lengths of each kind are a
  uniformly random partition.

  Noise is a hash of (seed, split, row): batches are bitwise equal on every
  machine, and each epoch corrupts a window differently. Evaluation noise does
  not depend on the seed.

  Padding is not corrupted: a row ends with its last token of weight 1, and
  other weights of the data are ignored. A row of fewer than 2 tokens is not
  corrupted, and has no targets and only weights of 0. If evaluation windows
  overlap, the tokens of a window that are only context are not corrupted.

  Batches have
    'sources', (b, source_length) int32, padded with 0 on the right;
    'inputs' and 'targets', (b, target_length) int32, padded in the same way;
    'weights', (b, target_length) float32, 1 except on padding;
    'start_of_sequence', (b,) bool, as in the data.

  Attributes:
    vocab: Vocabulary of the data, with sentinels.
    unit: 'token', because sentinels are scored too and are not text.

  Example:
    >>> from trax_hier.data import Synthetic
    >>> data = Synthetic('recall', batch_size=2, length=24)
    >>> data.vocab.decode(data.train_batch(0)['inputs'][0])
    'g4k6r7c7HXXWBFLCr7k6g4c7'
    >>> data = SpanCorruption(data, 32, 16, vocab_size=300, density=0.3)
    >>> batch = data.train_batch(0)
    >>> data.vocab.decode(np.trim_zeros(batch['sources'][0], 'b'))
    'g4<0>7HXXWBFLCr7k6g4<1>'
    >>> data.vocab.decode(np.trim_zeros(batch['targets'][0], 'b'))
    '<0>k6r7c<1>c7<2>'

  Source: T5 (arXiv 1910.10683), section 3.1.4.
  """

  unit = 'token'

  def __init__(
    self,
    data: DataSet,
    source_length: int,
    target_length: int,
    vocab_size: int,
    density: float = 0.15,
    mean_span: float = 3.0,
    seed: int = 0,
  ):
    """Checks that corrupted training windows fit.

    Args:
      data: Data set of the windows, such as @TextFiles(); not one that has
        'sources', such as @TextPairs().
      source_length: Tokens in a row of sources.
      target_length: Tokens in a row of targets.
      vocab_size: Number of ids, including sentinels.
      density: Fraction of the tokens of a window that are noise.
      mean_span: Mean tokens of a noise span.
      seed: Seed of the training noise.

    Raises:
      ValueError: naming the binding, if an argument is invalid; also naming
        the least value that fits, if windows do not fit (none is truncated).
    """
    if not hasattr(data, 'train_batch'):
      raise ValueError(
        'SpanCorruption.data must be a data set such as @TextFiles() (with '
        f'parentheses), got {data!r:.80}'
      )
    checks.check_positive('SpanCorruption.source_length', source_length)
    checks.check_positive('SpanCorruption.target_length', target_length)
    checks.check_positive('SpanCorruption.vocab_size', vocab_size)
    checks.check_seed('SpanCorruption.seed', seed)
    if not 0 < density < 1:
      raise ValueError(
        f'SpanCorruption.density = {density!r}: must be more than 0 and less '
        'than 1'
      )
    if not mean_span >= 1:
      raise ValueError(
        f'SpanCorruption.mean_span = {mean_span!r}: must be 1 or more'
      )
    batch = data.train_batch(0)
    if 'sources' in batch:
      raise ValueError(
        'SpanCorruption.data must be a data set without sources such as '
        f'@TextFiles(), got {data.describe()}'
      )
    if 'documents' in batch:
      raise ValueError(
        'SpanCorruption.data has rows of several documents, which would get '
        'into one window: set packed = False in it'
      )
    self._data = data
    self._source_length = source_length
    self._target_length = target_length
    self._density = density
    self._mean_span = mean_span
    self._seed = seed
    self.vocab = SentinelVocab(data.vocab, vocab_size)
    self._length = batch['inputs'].shape[1]
    self._check_lengths(self._length, self._length)

  @property
  def batch_size(self) -> int:
    """Rows of the global training batch."""
    return self._data.batch_size

  @property
  def rows_per_epoch(self) -> int | None:
    """Rows that hold each part of the training split once; see `DataSet`."""
    return getattr(self._data, 'rows_per_epoch', None)

  def train_batch(self, step: int, shard: int = 0, n_shards: int = 1) -> Batch:
    """Returns one corrupted shard of batch `step`; see `DataSet`."""
    batch = self._data.train_batch(step, shard, n_shards)
    batch_size = len(batch['inputs']) * n_shards
    index = example_indices(
      'SpanCorruption.data', step, batch_size, shard, n_shards
    )
    keys = hash64(self._seed, NOISE, SPLIT_TAGS['train'], index)
    return self._corrupt(batch, keys, False)

  def eval_batches(
    self, split: str, window: int | None = None, stride: int | None = None
  ) -> Sequence[Batch]:
    """Returns the batches of a split, in which each token occurs once.

    A token is in the sources or in the targets of one window; windows that
    overlap may repeat it in their sources, as context.

    Args:
      split: 'valid' or 'test'.
      window: Tokens in a window before corruption.
      stride: Tokens at the end of a window that may be corrupted.

    Raises:
      ValueError: see `DataSet.eval_batches`; if windows do not fit, naming the
        binding and the least value that fits.
    """
    batches = self._data.eval_batches(split, window, stride)
    width = batches[0]['inputs'].shape[1]
    stride = width if batches.context is None else batches.context.stride
    self._check_lengths(width, stride)

    def corrupt(batch, index):
      keys = hash64(0, NOISE, SPLIT_TAGS[split], index)
      return self._corrupt(batch, keys, stride < width)

    return _CorruptedBatches(batches, corrupt)

  def count_bytes(self, split: str, *context: int | None) -> None:
    """Returns None: the scored tokens encode only the noise of the text."""

  def fingerprint(self) -> dict[str, str]:
    """Returns the fingerprint of the data; see `DataSet`."""
    return getattr(self._data, 'fingerprint', dict)()

  def describe(self) -> str:
    """Returns one line: the noise and the data."""
    n_noise, n_spans = self._count_noise(np.array(self._length))
    return (
      f'SpanCorruption: {n_noise:,} of {self._length:,} tokens are noise, in '
      f'{n_spans:,} spans, of {self._data.describe()}'
    )

  def _count_noise(self, n):
    """Returns the numbers of noise tokens and of noise spans in n tokens."""
    # `rint` rounds half to even, as T5's code does.
    n_noise = np.rint(n * self._density).astype(np.int64)
    n_noise = np.where(n > 1, np.clip(n_noise, 1, np.maximum(n - 1, 1)), 0)
    n_spans = np.maximum(np.rint(n_noise / self._mean_span).astype(np.int64), 1)
    return n_noise, n_spans.clip(max=np.minimum(n_noise, n - n_noise))

  def _check_lengths(self, width, stride):
    """Raises ValueError if corrupted windows `stride` apart do not fit.

    Padded rows fit if full rows do, because sources and targets of a shorter
    row are not longer.
    """
    windows = f'windows of {width:,} tokens'
    if stride < width:
      windows += f', {stride:,} apart'
    if stride < 2:
      raise ValueError(
        f'SpanCorruption.data: {windows}: needs 2 or more to corrupt, one to '
        'keep and one as noise'
      )
    # All of the first window is corrupted, but only the end of other windows.
    noise, spans = self._count_noise(np.array((width, stride)))
    n_base, n_sentinels = self._data.vocab.size, int(spans.max()) + 1
    needs = (
      ('source_length', self._source_length, width - noise + spans, windows),
      ('target_length', self._target_length, noise + spans + 1, windows),
      (
        'vocab_size',
        self.vocab.size,
        n_base + n_sentinels,
        f'the {n_base:,} ids of SpanCorruption.data and the {n_sentinels:,} '
        f'sentinels of {windows}',
      ),
    )
    for name, value, needed, content in needs:
      least = int(np.max(needed))
      if value < least:
        raise ValueError(
          f'SpanCorruption.{name} = {value}: must be at least {least} for '
          f'{content}'
        )

  def _corrupt(self, batch, keys, has_context):
    """Returns a batch of windows as sources and targets."""
    tokens, weights = batch['inputs'], batch['weights']
    width = tokens.shape[1]
    scored = weights > 0
    last = width - scored[:, ::-1].argmax(axis=1)
    end = np.where(scored.any(axis=1), last, 0)
    # In a row that scores no token, both argmax and end are 0.
    begin = scored.argmax(axis=1) if has_context else np.zeros_like(end)
    noise, spans = self._count_noise(end - begin)
    is_noise = noise_mask(keys, begin, end, noise, spans, width)

    is_first = is_noise.copy()
    is_first[:, 1:] &= ~is_noise[:, :-1]
    span = is_first.cumsum(axis=1, dtype=np.int32) - 1
    top = np.int32(self.vocab.size - 1)

    in_sources = is_first | ~is_noise
    in_sources &= np.arange(width) < end[:, None]
    sources = np.zeros((len(tokens), self._source_length), np.int32)
    filled = length_mask(in_sources.sum(axis=1), self._source_length)
    sources[filled] = np.where(is_first, top - span, tokens)[in_sources]

    targets = np.zeros((len(tokens), self._target_length), np.int32)
    # A noise token follows the noise tokens and sentinels of the spans so far.
    column = is_noise.cumsum(axis=1, dtype=np.int32) + span
    targets[is_noise.nonzero()[0], column[is_noise]] = tokens[is_noise]
    targets[is_first.nonzero()[0], column[is_first] - 1] = top - span[is_first]
    n_targets = np.where(spans > 0, noise + spans + 1, 0)
    rows = spans.nonzero()[0]
    targets[rows, n_targets[rows] - 1] = top - spans[rows]

    weights = length_mask(n_targets, self._target_length).astype(np.float32)
    return make_batch(targets, weights, batch['start_of_sequence'], sources)


class _CorruptedBatches(Sequence[Batch]):
  """Corrupted batches of another sequence.

  Attributes:
    batch_size: Rows in a batch.
    context: None, because rows are no longer windows of a text.
  """

  context = None

  def __init__(self, batches, corrupt):
    self._batches = batches
    self._corrupt = corrupt
    self.batch_size = batches.batch_size

  def __len__(self):
    return len(self._batches)

  def rows(self, i, begin, end):
    """Returns rows [begin, end) of batch i; see `EvalBatches`."""
    position = operator.index(i)
    position += len(self) if position < 0 else 0
    batch = self._batches.rows(i, begin, end)
    index = np.arange(begin, end) + position * self.batch_size
    return self._corrupt(batch, index)

  def __getitem__(self, i):
    return self.rows(i, 0, self.batch_size)

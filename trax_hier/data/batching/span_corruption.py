"""SpanCorruption: windows with gaps, and what fills them."""

import operator
import re
from collections.abc import Iterable, Sequence

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet, Vocab
from trax_hier.data.batching.windows import Batch, example_indices, make_batch
from trax_hier.data.hashing import hash64

_NOISE = 3  # names this use of the seed's hash; see windows._OFFSET
_KEPT_PARTS, _NOISE_PARTS = 0, 1  # name the uses of a row's key

# Training, valid and test rows never share noise.
_STREAMS = {'train': 0, 'valid': 1, 'test': 2}


class SentinelVocab:
  """A vocabulary with sentinels above it.

  Attributes:
    below: the vocabulary of the ids below them.
    size: of the ids, sentinels included.

  Example:
    >>> from trax_hier.data import ByteVocab
    >>> vocab = SentinelVocab(ByteVocab(), size=300)
    >>> print(vocab.encode('a<0>b<1>'))
    [ 97 299  98 298]
    >>> vocab.decode([97, 299, 98, 298])
    'a<0>b<1>'
  """

  def __init__(self, vocab: Vocab, size: int):
    """Adds ids to a vocabulary.

    Args:
      vocab: of the ids below.
      size: of both together. The sentinels count down from size - 1; ids that
        neither needs are shown as sentinels too.
    """
    self.below = vocab
    self.size = size

  def encode(self, text: str) -> np.ndarray:
    """Returns (l,) int32 ids; '<0>' and so on, as decoded, are sentinels."""
    ids = []
    for i, part in enumerate(re.split(r'<(\d+)>', text)):
      if i % 2 == 0:
        ids.append(self.below.encode(part))
      elif int(part) < self.size - self.below.size:
        ids.append(np.array([self.size - 1 - int(part)]))
      else:
        ids.append(self.below.encode(f'<{part}>'))
    return np.concatenate(ids).astype(np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`, sentinels as '<0>', '<1>', ….

    What stands between sentinels is decoded on its own.

    Args:
      ids: (l,) integers in [0, size).

    Raises:
      ValueError: if an id is out of range.
    """
    ids = np.asarray(ids)
    outside = ids[(ids < 0) | (ids >= self.size)]
    if len(outside):
      raise ValueError(f'id {outside[0]}: must be in [0, {self.size})')
    text, begin = [], 0
    for at in [*np.flatnonzero(ids >= self.below.size), len(ids)]:
      if at > begin:
        text.append(self.below.decode(ids[begin:at]))
      if at < len(ids):
        text.append(f'<{self.size - 1 - int(ids[at])}>')
      begin = at + 1
    return ''.join(text)


@configurable(module='trax_hier.data')
class SpanCorruption:
  """Windows of another data set for encoder-decoder models: fill the gaps.

  Spans of a window are noise. 'sources' has the window with a sentinel for each
  of them; 'targets' has, for each, its sentinel and then its tokens, and ends
  with one more sentinel:
    window   the quick brown fox jumps over the lazy dog
    sources  the <0> fox jumps over <1>
    targets  <0> quick brown <1> the lazy dog <2>
  Sentinels count down from vocab_size - 1. Of a window of n tokens,
  round(n * density) are noise, at least 1 and at most n - 1, in
  round(noise / mean_span) spans, at least 1 and at most as many as there are
  tokens of either kind. Kept and noise spans take turns, a kept one first, so
  a noise span is always last; the lengths of each kind are a random partition,
  all equally probable.

  Noise is an integer hash of (seed, split, row): batches are bitwise equal on
  every machine, and each epoch corrupts a window anew. Evaluation has noise
  that does not depend on the seed.

  Where rows are padded, only what comes before the padding is corrupted: a row
  ends with its last token of weight 1. Otherwise the data's weights do not
  count. A row of fewer than 2 tokens is left as it is, with no targets and all
  weights 0. Where evaluation's windows overlap, what a window has only as
  context stands uncorrupted in its sources.

  Batches have
    'sources', (b, source_length) int32, padded with 0 on the right;
    'inputs' and 'targets', (b, target_length) int32, likewise;
    'weights', (b, target_length) float32, 1 but on padding;
    'start_of_sequence', (b,) bool, as the data has it.

  Attributes:
    vocab: the data's vocabulary and the sentinels.
    unit: 'token': sentinels are scored too, which are no text.

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
    """Checks that training windows fit.

    Args:
      data: gives the windows, such as @TextFiles().
      source_length: tokens in a row of sources.
      target_length: tokens in a row of targets.
      vocab_size: ids, sentinels included.
      density: share of a window's tokens that are noise.
      mean_span: tokens in a noise span, on average.
      seed: which noise in training.

    Raises:
      ValueError: naming the binding, with the least value that would do where
        windows do not fit; nothing is ever cut off.
    """
    if not hasattr(data, 'train_batch'):
      raise ValueError(
        'SpanCorruption.data must be a data set such as @TextFiles() (with '
        f'parentheses), got {data!r:.80}'
      )
    checks.check_positive('SpanCorruption.source_length', source_length)
    checks.check_positive('SpanCorruption.target_length', target_length)
    checks.check_positive('SpanCorruption.vocab_size', vocab_size)
    checks.check_not_negative('SpanCorruption.seed', seed)
    if not 0 < density < 1:
      raise ValueError(
        f'SpanCorruption.density = {density!r}: must be more than 0 and less '
        'than 1'
      )
    if not mean_span >= 1:
      raise ValueError(
        f'SpanCorruption.mean_span = {mean_span!r}: must be 1 or more'
      )
    self._data = data
    self._source_length = source_length
    self._target_length = target_length
    self._density = density
    self._mean_span = mean_span
    self._seed = seed
    self.vocab = SentinelVocab(data.vocab, vocab_size)
    self._length = data.train_batch(0)['inputs'].shape[1]
    self._check_room(self._length, self._length)

  def train_batch(self, step: int, shard: int = 0, n_shards: int = 1) -> Batch:
    """Returns one shard of batch `step`: a pure function of its arguments.

    Args:
      step: which batch, from 0 without end.
      shard: which part of the global batch, in [0, n_shards).
      n_shards: in how many parts; must divide the batch size.

    Returns:
      The batch, as the class says.

    Raises:
      ValueError: if an argument is out of range.
    """
    batch = self._data.train_batch(step, shard, n_shards)
    batch_size = len(batch['inputs']) * n_shards
    index = example_indices(
      'SpanCorruption.data', step, batch_size, shard, n_shards
    )
    keys = hash64(self._seed, _NOISE, _STREAMS['train'], index)
    return self._corrupt(batch, keys, False)

  def eval_batches(
    self, split: str, window: int | None = None, stride: int | None = None
  ) -> Sequence[Batch]:
    """Returns all of 'valid' or 'test', each token once.

    It is in the sources or in the targets, and where windows overlap also in
    the sources of others, as context.

    Args:
      split: 'valid' or 'test'.
      window: tokens in a window, before it is corrupted.
      stride: tokens of a window that may be corrupted: its last ones.

    Raises:
      ValueError: as the data's `eval_batches` does, or if windows do not fit,
        with the binding and the least value that would do.
    """
    batches = self._data.eval_batches(split, window, stride)
    width = batches[0]['inputs'].shape[1]
    apart = width if batches.context is None else batches.context.stride
    self._check_room(width, apart)

    def corrupt(batch, index):
      keys = hash64(0, _NOISE, _STREAMS[split], index)
      return self._corrupt(batch, keys, apart < width)

    return _CorruptedBatches(batches, corrupt)

  def count_bytes(self, split: str) -> None:
    """Returns None: the scored tokens stand for only a part of the text."""

  def describe(self) -> str:
    """Returns one line: what is noise, and of which data."""
    noise, spans = (int(n[0]) for n in self._plan(np.array([self._length])))
    return (
      f'SpanCorruption: {noise:,} of {self._length:,} tokens are noise, in '
      f'{spans:,} spans, of {self._data.describe()}'
    )

  def _plan(self, n):
    """Returns the noise tokens and the noise spans of (b,) n tokens."""
    # Half to even, as Python's round and the original's.
    noise = np.rint(n * self._density).astype(np.int64)
    noise = np.where(n > 1, np.clip(noise, 1, np.maximum(n - 1, 1)), 0)
    spans = np.rint(noise / self._mean_span).astype(np.int64)
    return noise, np.maximum(spans, 1).clip(max=np.minimum(noise, n - noise))

  def _check_room(self, width, stride):
    """Raises ValueError if windows `stride` apart do not fit when corrupted.

    Padded rows fit where full ones do: no number that is checked grows when a
    row gets shorter.
    """
    what = f'windows of {width:,} tokens'
    if stride < width:
      what += f', {stride:,} apart'
    if stride < 2:
      raise ValueError(
        f'SpanCorruption.data: {what}: needs 2 or more to corrupt, one to keep '
        'and one as noise'
      )
    # The first window is corrupted as a whole, the others in their last tokens.
    n = np.array((width, stride))
    noise, spans = self._plan(n)
    below, n_sentinels = self._data.vocab.size, int(spans.max()) + 1
    needs = (
      ('source_length', self._source_length, width - noise + spans, what),
      ('target_length', self._target_length, noise + spans + 1, what),
      (
        'vocab_size',
        self.vocab.size,
        below + n_sentinels,
        f'the {below:,} ids of SpanCorruption.data and the {n_sentinels:,} '
        f'sentinels of {what}',
      ),
    )
    for name, given, needed, of in needs:
      least = int(np.max(needed))
      if given < least:
        raise ValueError(
          f'SpanCorruption.{name} = {given}: must be at least {least} for {of}'
        )

  def _corrupt(self, batch, keys, has_context):
    """Returns the batch of windows `batch` as sources and targets."""
    tokens, weights = batch['inputs'], batch['weights']
    width = tokens.shape[1]
    scored = weights > 0
    last = width - scored[:, ::-1].argmax(axis=1)
    end = np.where(scored.any(axis=1), last, 0)
    # argmax of a row that scores nothing is 0, as is its end.
    begin = scored.argmax(axis=1) if has_context else np.zeros_like(end)
    noise, spans = self._plan(end - begin)
    is_noise = _noise_mask(keys, begin, end, noise, spans, width)

    is_first = is_noise.copy()
    is_first[:, 1:] &= ~is_noise[:, :-1]
    span = is_first.cumsum(axis=1, dtype=np.int32) - 1
    top = np.int32(self.vocab.size - 1)

    stays = is_first | ~is_noise
    stays &= np.arange(width) < end[:, None]
    sources = np.zeros((len(tokens), self._source_length), np.int32)
    filled = _first_columns(stays.sum(axis=1), self._source_length)
    sources[filled] = np.where(is_first, top - span, tokens)[stays]

    targets = np.zeros((len(tokens), self._target_length), np.int32)
    # A noise token comes after those before it and one sentinel each span.
    column = is_noise.cumsum(axis=1, dtype=np.int32) + span
    targets[is_noise.nonzero()[0], column[is_noise]] = tokens[is_noise]
    targets[is_first.nonzero()[0], column[is_first] - 1] = top - span[is_first]
    n_targets = np.where(spans > 0, noise + spans + 1, 0)
    rows = spans.nonzero()[0]
    targets[rows, n_targets[rows] - 1] = top - spans[rows]

    filled = _first_columns(n_targets, self._target_length)
    return {
      'sources': sources,
      **make_batch(
        targets, filled.astype(np.float32), batch['start_of_sequence']
      ),
    }


class _CorruptedBatches(Sequence[Batch]):
  """Batches of another sequence, corrupted.

  Attributes:
    context: None: rows are not windows of a text any more.
  """

  context = None

  def __init__(self, batches, corrupt):
    self._batches = batches
    self._corrupt = corrupt

  def __len__(self):
    return len(self._batches)

  def __getitem__(self, i):
    position = operator.index(i)
    position += len(self) if position < 0 else 0
    batch = self._batches[i]
    n_rows = len(batch['inputs'])
    return self._corrupt(batch, np.arange(n_rows) + position * n_rows)


def _first_columns(counts, width):
  """Returns (b, width) bool: the first of each row, (b,) `counts` of them."""
  return np.arange(width) < counts[:, None]


def _noise_mask(keys, begin, end, noise, spans, width):
  """Returns (b, width) bool: which tokens are noise.

  Args:
    keys: (b,) uint64, one for each row's randomness.
    begin: (b,) where the part that may be corrupted begins,
    end: (b,) and where it ends.
    noise: (b,) how many tokens are noise,
    spans: (b,) in how many spans; 0 where there is no noise.
    width: tokens in a row.
  """
  parts = np.stack(
    (
      _partition(hash64(keys, _KEPT_PARTS), end - begin - noise, spans),
      _partition(hash64(keys, _NOISE_PARTS), noise, spans),
    ),
    axis=-1,
  ).reshape(len(keys), -1)
  # Parts of length 0 all come at the end, which is not part of the mask.
  edges = begin[:, None] + parts.cumsum(axis=1)
  turns = np.zeros((len(keys), width + 1), np.bool_)
  np.put_along_axis(turns, edges, True, axis=1)
  is_noise = np.logical_xor.accumulate(turns[:, :width], axis=1)
  return is_noise & (np.arange(width) < end[:, None])


def _partition(keys, n, n_parts):
  """Cuts (b,) n into (b,) n_parts positive parts, all ways equally probable.

  Returns:
    (b, most parts of a row, at least 1) int64; after a row's own parts, 0.
    Where n_parts is 0, n in one.
  """
  n_cuts = np.maximum(n_parts - 1, 0)
  draws = hash64(keys[:, None], np.arange(n.max()))
  draws[np.arange(n.max()) >= n[:, None] - 1] = np.iinfo(np.uint64).max
  # Stable, so that the order is the same on every machine even for a tie.
  order = np.argsort(draws, axis=1, kind='stable')[:, : n_cuts.max()]
  is_cut = _first_columns(n_cuts, n_cuts.max())
  cuts = np.sort(np.where(is_cut, order + 1, n[:, None]), axis=1)
  cuts = np.concatenate((cuts, n[:, None]), axis=1)
  return np.diff(cuts, axis=1, prepend=0)

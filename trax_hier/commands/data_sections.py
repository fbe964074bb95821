"""The sections that `trax-hier data describe` prints."""

import dataclasses
import itertools

import numpy as np

from trax_hier.commands.printing import print_heading, print_table
from trax_hier.environment import escape_controls
from trax_hier.training.data_checks import check_batch
from trax_hier.training.data_error import reading

_SPLITS = 'train', 'valid', 'test'
_WIDTH = 200  # characters shown of a row
_VALUES = 12  # values shown of a row of an image


@dataclasses.dataclass(frozen=True)
class Split:
  """The first batches of a split, and what they hold.

  Attributes:
    name: 'train', 'valid' or 'test'.
    batches: The first batches; none if the split is empty.
    n_batches: Batches of the split, of training those of an epoch; None if rows
      are generated.
    n_bytes: Bytes of text that the scored tokens of the batches encode; None if
      tokens are bytes or their bytes are not known.
    fault: Why there are no batches; '' if there are.
  """

  name: str
  batches: list[dict[str, np.ndarray]]
  n_batches: float | None = None
  n_bytes: int | None = None
  fault: str = ''

  def total(self, name: str) -> int:
    """Returns the number of tokens of the batches, such as of 'inputs'."""
    return sum(batch[name].size for batch in self.batches)

  @property
  def n_scored(self) -> int:
    """Number of scored tokens of the batches."""
    return sum(int((batch['weights'] > 0).sum()) for batch in self.batches)

  def padding(self, name: str) -> int:
    """Returns the number of padded tokens of the batches, at ends of rows.

    In rows of several documents, also of those at the ends of documents.
    """
    total = 0
    for batch in self.batches:
      is_empty = batch[name] == 0
      if name != 'sources':
        is_empty &= batch['weights'] == 0
      if name != 'sources' and 'documents' in batch:
        total += int(is_empty.sum())
        continue
      total += int(np.logical_and.accumulate(is_empty[:, ::-1], 1).sum())
    return total

  def unknown(self, unknown_id: int) -> int:
    """Returns the number of unknown tokens among the scored ones."""
    return sum(
      int(((x['targets'] == unknown_id) & (x['weights'] > 0)).sum())
      for x in self.batches
    )


def read_splits(data: object, n: int) -> list[Split]:
  """Reads the first n batches of each split.

  Raises:
    DataError: if a batch cannot be read.
    ValueError: if a batch is not one; see `check_batch`.
  """
  return [_read_train(data, n), *(_read_eval(data, x, n) for x in _SPLITS[1:])]


def _read_train(data, n):
  epoch = getattr(data, 'rows_per_epoch', None)
  batches = []
  for step in range(n):
    with reading(f'train_batch({step})'):
      batch = data.train_batch(step)
    check_batch(batch, f'train_batch({step})', data.vocab.size)
    batches.append(batch)
    if epoch and (step + 1) * len(batch['inputs']) >= epoch:
      break
  per_epoch = epoch and epoch / len(batches[0]['inputs'])
  return Split('train', batches, per_epoch)


def _read_eval(data, name, n):
  try:
    found = data.eval_batches(name)
  except ValueError as error:
    return Split(name, [], fault=str(error))
  batches = []
  for i in range(min(n, len(found))):
    with reading(f'batch {i + 1} of {name}'):
      batch = found[i]
    check_batch(batch, f'batch {i + 1} of {name}', data.vocab.size)
    batches.append(batch)
  if not batches:
    return Split(name, [], fault='the split is empty')
  n_bytes = None
  if hasattr(data, 'count_bytes'):
    with reading(f'the {name} split'):
      n_bytes = data.count_bytes(name, len(batches))
  return Split(name, batches, len(found), n_bytes)


def print_summary(data: object, splits: list[Split]) -> None:
  """Prints the data set, its vocabulary and the shapes of a batch."""
  print(f'data: {escape_controls(data.describe())}')
  vocab = data.vocab
  base = getattr(vocab, 'base', vocab)  # Without sentinels.
  of_base = f' of {type(base).__name__}' * (base is not vocab)
  text = f'vocabulary: {type(vocab).__name__}{of_base}, {vocab.size:,} ids'
  if loss := getattr(base, 'loss', ''):
    text += f'; loses {loss}'
  print(f'{text}; a token is a {data.unit}' if data.unit != 'token' else text)
  arrays = ', '.join(
    f'{name} {x.dtype} {x.shape}' for name, x in splits[0].batches[0].items()
  )
  print(f'a training batch: {arrays}')
  train = splits[0]
  if train.n_batches is None:
    print('an epoch: none, as rows are generated')
    return
  scored = train.n_scored / len(train.batches) * train.n_batches
  print(
    f'an epoch: {train.n_batches:,.1f} batches, about {scored:,.0f} scored '
    f'{data.unit}s'
  )


def print_splits(data: object, splits: list[Split]) -> None:
  """Prints a table of the splits."""
  has_sources = 'sources' in splits[0].batches[0]
  has_bytes = any(split.n_bytes for split in splits)
  unknown_id = getattr(data.vocab, 'unknown_id', None)
  columns = ['split', 'batches', 'read', f'scored {data.unit}s', 'padding']
  columns += ['padding of sources'] * has_sources
  columns += ['bytes of text', f'bytes per {data.unit}'] * has_bytes
  columns += ['unknown'] * (unknown_id is not None)
  rows = []
  for split in filter(lambda split: split.batches, splits):
    n = '' if split.n_batches is None else f'{split.n_batches:,.0f}'
    scored = split.n_scored
    row = [split.name, n, f'{len(split.batches)}', f'{scored:,}']
    row.append(f'{split.padding("inputs") / split.total("inputs"):.1%}')
    if has_sources:
      row.append(f'{split.padding("sources") / split.total("sources"):.1%}')
    if has_bytes:
      known = split.n_bytes is not None
      row.append(f'{split.n_bytes:,}' if known else '')
      row.append(f'{split.n_bytes / max(scored, 1):.2f}' if known else '')
    if unknown_id is not None:
      row.append(f'{split.unknown(unknown_id) / max(scored, 1):.2%}')
    rows.append(row)
  print_heading('Splits')
  print_table(columns, rows, numbers=range(1, len(columns)))
  for split in splits:
    if split.fault:
      print(f'{split.name}: no batches: {split.fault}')


def print_rows(data: object, splits: list[Split], n: int) -> None:
  """Prints the first n rows of each split, decoded."""
  for split in splits:
    rows = itertools.islice(_rows(split), n)
    for i, row in enumerate(rows):
      if not i:
        print_heading(f'First rows of {split.name}')
      for name, documents in row.items():
        label = f'{name}: ' * (len(row) > 1)
        texts = [_text(ids, data) for ids in documents]
        print(f'{i + 1}. {label}{" ‖ ".join(texts)}')


def _rows(split):
  """Yields {'targets': documents} of each row, with 'sources' if there are."""
  for batch in split.batches:
    for i in range(len(batch['inputs'])):
      if batch['inputs'][i].any() or batch['weights'][i].any():
        yield {
          name: _documents(batch, name, i)
          for name in ('sources', 'targets')
          if name in batch
        }


def _documents(batch, name, i):
  """The ids of each document of row i, without padding."""
  ids, parts = batch[name][i], [batch[name][i]]
  if name != 'sources' and 'documents' in batch:
    edges = np.flatnonzero(np.diff(batch['documents'][i])) + 1
    parts = np.split(ids, edges)
  parts = [np.trim_zeros(part, 'b') for part in parts]
  return [part for part in parts if part.size]


def _text(ids, data):
  """A row in one line."""
  if data.unit == 'dim':
    values = ' '.join(map(str, ids[:_VALUES].tolist()))
    return values + ' …' * (len(ids) > _VALUES)
  # Tokens rarely decode to less than a character.
  text = data.vocab.decode(ids[: 2 * _WIDTH])
  cut = len(ids) > 2 * _WIDTH or len(text) > _WIDTH
  text = (
    escape_controls(text[:_WIDTH]).replace('\n', '\\n').replace('\t', '\\t')
  )
  return text + ' …' * cut

"""Splits that the names of files and folders say."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from trax_hier.data.folders import Notes

# Usual names of the splits, in files and folders.
SPLIT_NAMES = {
  'train': 'train',
  'valid': 'valid',
  'validation': 'valid',
  'val': 'valid',
  'dev': 'valid',
  'test': 'test',
}
_SHARD = re.compile(rf'({"|".join(SPLIT_NAMES)})-\d+-of-\d+\.')


def name_splits(names: Collection[str]) -> dict[str, str] | None:
  """Assigns files to splits whose names they have.

  That is if all folders at the top have names of splits, such as train,
  validation and test; files beside them are then in no split. Without folders,
  all files must have such a name between dots, as in wiki.train.txt, or be
  shards of splits, as train-00000-of-00010.parquet. One must be train, and
  another valid or test.

  Args:
    names: Paths of the files, relative to their folder.

  Returns:
    'train', 'valid' or 'test' by name; None if names are not those of splits.

  Raises:
    ValueError: if a split has two names, such as val and valid.

  Example:
    >>> name_splits(['a.train.txt', 'a.dev.txt'])
    {'a.train.txt': 'train', 'a.dev.txt': 'valid'}
  """
  tops = {name: name.split('/')[0] for name in names if '/' in name}
  if tops:
    labels = {name: top.lower() for name, top in tops.items()}
  else:
    labels = {name: _split_label(name) for name in names}
  splits = {name: SPLIT_NAMES.get(label) for name, label in labels.items()}
  found = set(splits.values())
  if None in found or 'train' not in found or len(found) == 1:
    return None
  check_one_name(labels.values())
  return splits


def _split_label(name):
  if shard := _SHARD.match(name.lower()):
    return shard[1]
  labels = [part for part in name.lower().split('.') if part in SPLIT_NAMES]
  return labels[0] if len(labels) == 1 else None


def find_split_files(
  root: Path, endings: Collection[str], others: Collection[str] = ()
) -> tuple[dict[str, Path], Notes]:
  """Finds the file of each split in a folder, such as train.jsonl.

  Args:
    root: Folder to search, without its folders.
    endings: Ends of the names of the files, such as '.jsonl'.
    others: Names of further files that the caller reads.

  Returns:
    The files by 'train', 'valid' and 'test', as far as there are any; and what
    else is in the folder.

  Raises:
    OSError: if the folder cannot be read.
    ValueError: if there are two files of a split, such as val and valid.jsonl.
  """
  found, left_out = {}, Notes()
  for path in sorted(root.iterdir()):
    label, dot, ending = path.name.lower().partition('.')
    if label in SPLIT_NAMES and dot + ending in endings:
      split = SPLIT_NAMES[label]
      if split in found:
        raise ValueError(
          f'both {found[split].name} and {path.name} are files of the {split} '
          'split: remove one'
        )
      found[split] = path
    elif path.name not in others:
      left_out.add('not of a split', path.name)
  return found, left_out


def use_test_as_valid(
  splits: dict[str, object], n_valid: int, test_as_valid: bool, name: str
) -> str:
  """Makes test the valid split too, if that is asked for.

  Args:
    splits: 'train', 'valid' and 'test'; 'valid' is replaced.
    n_valid: Size of valid.
    test_as_valid: Whether it is asked for.
    name: Name of the configurable that has this argument.

  Returns:
    End of the message that valid is empty, for `DataSet`.

  Raises:
    ValueError: if it is asked for, but valid is not empty.
  """
  if not test_as_valid:
    return (
      f'; to use the test split for validation, set {name}.test_as_valid = True'
    )
  if n_valid:
    raise ValueError(
      f'{name}.test_as_valid = True: must be False, the valid split is not '
      'empty'
    )
  splits['valid'] = splits['test']
  return ''


def check_one_name(labels: Iterable[str]) -> None:
  """Raises ValueError if two labels, keys of SPLIT_NAMES, are of one split.

  Example:
    >>> check_one_name(['train', 'valid', 'val'])
    Traceback (most recent call last):
    ValueError: both valid and val are names of the valid split: remove one
  """
  first = {}
  for label in labels:
    if first.setdefault(SPLIT_NAMES[label], label) != label:
      split = SPLIT_NAMES[label]
      raise ValueError(
        f'both {first[split]} and {label} are names of the {split} split: '
        'remove one'
      )

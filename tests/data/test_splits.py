"""Splits of files, pinned because a file must keep its split."""

from trax_hier.data.splits import fill_splits, split_of


def test_fill_splits_is_pinned():
  sizes = dict.fromkeys('abcdefghij', 10) | {'large': 100, 'small': 1}
  splits = fill_splits(sizes, 0.1, 0.1)
  assert {name for name in splits if splits[name] == 'test'} == {'d', 'j'}
  assert {name for name in splits if splits[name] == 'valid'} == {'c', 'f'}


def test_split_of_is_pinned():
  splits = [split_of(name, 0.3, 0.3) for name in ('a', 'b', 'c', 'd/e.txt')]
  assert splits == ['train', 'test', 'test', 'test']

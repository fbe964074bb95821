"""How many rows hold the training data once."""

import json

import numpy as np

from trax_hier import data


def rows(dataset, n):
  """The first n rows of training, without padding, as bytes."""
  steps = range(-(-n // dataset.batch_size))
  tokens = [row for i in steps for row in dataset.train_batch(i)['inputs']]
  return [bytes(row[row != 0].astype(np.uint8)) for row in tokens]


def test_windows(tmp_path):
  (tmp_path / 'text').write_bytes(bytes(range(1, 251)))
  found = data.TextFiles(str(tmp_path / 'text'), 1, 8)
  n = found.rows_per_epoch
  assert len(set(b''.join(rows(found, n)))) == 8 * n > 200
  spans = data.SpanCorruption(found, 16, 16, vocab_size=300)
  assert spans.rows_per_epoch == n


def test_documents_in_lanes(tmp_path):
  for i, n in enumerate((20, 33, 5, 9, 40, 16)):
    (tmp_path / f'{i}.txt').write_bytes(bytes([65 + i]) * n)
  found = data.DocumentLanes(
    str(tmp_path), 1, 8, valid_fraction=0.3, test_fraction=0.3
  )
  n = found.rows_per_epoch
  two_epochs = rows(found, 2 * n)
  assert len(set(two_epochs)) > 2
  assert sorted(two_epochs[:n]) == sorted(two_epochs[n:])


def test_pairs(tmp_path):
  pairs = [{'document': 'a', 'summary': f'{i}'} for i in range(10)]
  text = '\n'.join(map(json.dumps, pairs))
  for split in 'train', 'valid', 'test':
    (tmp_path / f'{split}.jsonl').write_text(text)
  found = data.TextPairs(str(tmp_path), 1, 8, 4)
  assert found.rows_per_epoch == len(set(rows(found, 10))) == 10


def test_generated_rows_have_no_epochs():
  assert data.Synthetic('copy', 1, 16).rows_per_epoch is None

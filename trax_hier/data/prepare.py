"""Prepares a tfds data set: python -m trax_hier.data.prepare --help.

Writes a folder that ImageBytes, PaddedDocuments, DocumentLanes or TextPairs
memory-map, so that training starts without delay and needs neither
tensorflow_datasets nor TensorFlow.
"""

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trax_hier.data.sources.json_pairs import is_usable
from trax_hier.data.sources.prepared_documents import PREPARED_NAMES
from trax_hier.data.splits import EVAL_SPLITS
from trax_hier.data.vocabularies.byte_vocab import ByteVocab
from trax_hier.data.vocabularies.text_vocabs import open_vocab
from trax_hier.data.vocabularies.vocab import TextVocab, token_dtype
from trax_hier.data.vocabularies.vocab_files import vocab_files
from trax_hier.environment import expand_home, flag_names, print_any_text

_TEXT_FEATURES = ('text', 'book_text')

# Features of a document and its summary in sets without supervised keys.
_PAIRS = (('article', 'abstract'), ('document', 'summary'))


def prepare(
  builder: Any, output_dir: Path, vocab: TextVocab | None = None
) -> None:
  """Writes the splits of a prepared tfds builder.

  Writes images for ImageBytes; documents with a summary, such as articles and
  their abstracts, for TextPairs; and other texts for PaddedDocuments and
  DocumentLanes. Skips and counts the pairs that TextPairs rejects.

  If the set has no test split, the validation split is written as test: results
  on sets such as downsampled_imagenet are published on validation.

  Args:
    builder: Prepared `tfds.core.DatasetBuilder`.
    output_dir: Folder for the files, created if missing. Files are moved there
      when all are written.
    vocab: Vocabulary of a file to encode text with; None means bytes. Documents
      with a summary are written as text, and require None.

  Raises:
    ValueError: if the set has neither images nor text, or lacks a split, or if
      a vocabulary is given for documents with a summary.
  """
  splits = {'train': 'train', 'valid': 'validation', 'test': 'test'}
  if 'validation' not in builder.info.splits:
    del splits['valid']
  elif 'test' not in builder.info.splits:
    splits = {'train': 'train', 'test': 'validation'}
  for source in splits.values():
    if source not in builder.info.splits:
      raise ValueError(
        f'{builder.name} has no split {source}; its splits are '
        f'{", ".join(builder.info.splits)}'
      )
  if splits['test'] == 'validation':
    print('test: the validation split, because the set has no test split')
  write = _choose_writer(builder, vocab)
  output_dir = expand_home(output_dir, f'--output_dir={output_dir}')
  output_dir.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=output_dir) as name:
    scratch = Path(name)
    for split, source in splits.items():
      n_examples = builder.info.splits[source].num_examples
      write(scratch, split, _examples(builder, source), n_examples)
    for name, content in (vocab_files(vocab) if vocab else {}).items():
      (scratch / PREPARED_NAMES.get(name, name)).write_bytes(content)
    for path in scratch.iterdir():
      path.replace(output_dir / path.name)


def _choose_writer(builder, vocab):
  """Returns the function (folder, split, examples, n_examples) to call."""
  features = builder.info.features
  if 'image' in features:
    return _write_images
  if pair := _find_pair(builder.info):
    if vocab:
      raise ValueError(
        f'{builder.name} has documents with a summary, which are written as '
        'text: omit --vocab, and set TextPairs.vocab'
      )
    return functools.partial(_write_pairs, pair=pair)
  for feature in _TEXT_FEATURES:
    if feature in features:
      return functools.partial(
        _write_documents, feature=feature, vocab=vocab or ByteVocab()
      )
  raise ValueError(
    f'{builder.name} has no feature image, text or book_text, and no document '
    f'with a summary, only {", ".join(features)}'
  )


def _find_pair(info):
  """Returns the features of a document and its summary, or None."""
  keys = getattr(info, 'supervised_keys', None)
  if keys and len(keys) == 2 and keys[0] != keys[1]:
    import tensorflow_datasets as tfds

    if all(_is_text(tfds, info.features, key) for key in keys):
      return keys
  found = (pair for pair in _PAIRS if all(key in info.features for key in pair))
  return next(found, None)


def _is_text(tfds, features, key):
  # A supervised key may also be a tuple of names.
  return isinstance(key, str) and isinstance(features[key], tfds.features.Text)


def _examples(builder, split):
  """Yields the examples in file order."""
  # Imported only here, because it imports TensorFlow, which is slow.
  import tensorflow_datasets as tfds

  data = builder.as_dataset(split=split, shuffle_files=False)
  yield from tfds.as_numpy(data)


def _write_images(folder, split, examples: Iterable[dict], n_images):
  """Writes `{split}.npy`, uint8, with one image in memory at a time."""
  array = None
  for i, example in enumerate(examples):
    if array is None:
      array = np.lib.format.open_memmap(
        folder / f'{split}.npy',
        'w+',
        np.uint8,
        (n_images, *example['image'].shape),
      )
    array[i] = example['image']
  array.flush()


def _write_documents(folder, split, examples, n_documents, feature, vocab):
  """Writes `{split}.tokens`, `.ends.npy` and, if need be, `.bytes.npy`."""
  del n_documents
  ends, n_tokens, counts = [], 0, [np.zeros(0, np.uint8)]
  needs_bytes = split in EVAL_SPLITS and vocab.byte_lengths is None
  with (folder / f'{split}.tokens').open('wb') as file:
    for example in examples:
      ids, n_bytes = vocab.encode_bytes(example[feature])
      ids.astype(token_dtype(vocab)).tofile(file)
      n_tokens += len(ids)
      ends.append(n_tokens)
      if needs_bytes:
        most = n_bytes.max(initial=0)
        counts.append(n_bytes.astype(np.min_scalar_type(most)))
  np.save(folder / f'{split}.ends.npy', np.asarray(ends, np.int64))
  if needs_bytes:
    np.save(folder / f'{split}.bytes.npy', np.concatenate(counts))


def _write_pairs(folder, split, examples, n_pairs, pair):
  """Writes `{split}.jsonl`; prints the number of rejected pairs."""
  n_written = 0
  with (folder / f'{split}.jsonl').open(
    'w', encoding='utf-8', newline='\n'
  ) as file:
    for example in examples:
      document, summary = (example[name].decode('utf-8') for name in pair)
      if is_usable(document) and is_usable(summary):
        row = {'document': document, 'summary': summary}
        file.write(json.dumps(row, ensure_ascii=False) + '\n')
        n_written += 1
  if n_written < n_pairs:
    print(
      f'{split}: skipped {n_pairs - n_written:,} of {n_pairs:,} pairs, '
      'because a text is blank or contains the character NUL'
    )


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code, 1 after a message on stderr."""
  parser = argparse.ArgumentParser(
    prog='python -m trax_hier.data.prepare',
    description='Writes a tfds data set as files for training to memory-map.',
  )
  add = parser.add_argument
  add(
    '--name',
    required=True,
    help='cifar10, wiki40b/en, scientific_papers/arxiv, …',
  )
  add('--output_dir', type=Path, required=True, help='folder for the files')
  add('--data_dir', help='data folder of tfds; default: its default')
  add('--download', action='store_true', help='download and prepare with tfds')
  add(
    '--vocab',
    '--sentencepiece',
    help='file of a vocabulary to encode text with: a SentencePiece model, a '
    'tokenizer.json or a .tiktoken file; default: bytes',
  )
  print_any_text()
  flags = parser.parse_args(flag_names(arguments))
  try:
    # Before the download, which may take hours.
    expand_home(flags.output_dir, f'--output_dir={flags.output_dir}')
    vocab = None
    if flags.vocab:
      # Documents may have tokens of id 0, which are not scored.
      vocab = open_vocab(flags.vocab, '--vocab', zero_is_free=False)
    import tensorflow_datasets as tfds

    builder = tfds.builder(flags.name, data_dir=flags.data_dir)
    # Without this check, tfds would try the network for minutes.
    if not builder.is_prepared():
      if not flags.download:
        raise ValueError(
          f'not prepared in {builder.data_dir}; add --download to let tfds '
          'download it'
        )
      builder.download_and_prepare()
    prepare(builder, flags.output_dir, vocab)
  except ImportError as error:
    print(
      f'{error}: pip install tensorflow tensorflow-datasets '
      'importlib_resources',
      file=sys.stderr,
    )
    return 1
  except (OSError, ValueError) as error:
    print(f'{flags.name}: {error}', file=sys.stderr)
    return 1
  print(f'Written to {flags.output_dir}')
  return 0


if __name__ == '__main__':
  sys.exit(main())

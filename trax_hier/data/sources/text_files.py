"""TextFiles: bytes or subwords of texts, wherever they are."""

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.windowed import windowed
from trax_hier.data.corpora.tfds_source import TfdsSource
from trax_hier.data.sources.text_tokens import encode_splits
from trax_hier.data.splits import TEST_FRACTION, VALID_FRACTION, read_splits
from trax_hier.data.vocabularies.text_vocabs import describe_vocab, open_vocab
from trax_hier.data.vocabularies.vocab import Vocab


@configurable(module='trax_hier.data')
def TextFiles(
  path: str | TfdsSource,
  batch_size: int,
  length: int,
  valid_fraction: float = VALID_FRACTION,
  test_fraction: float = TEST_FRACTION,
  seed: int = 0,
  eval_length: int | None = None,
  eval_stride: int | None = None,
  vocab: str | Vocab | None = None,
  field: str | None = None,
) -> DataSet:
  """Bytes or subwords of a file, of the text files below a folder, or of rows.

  A file may contain any bytes; it is cut into train, valid and test, in this
  order. The UTF-8 files below a folder, except hidden ones, are joined, sorted
  by path, with a zero byte after each. In the order of a hash of their relative
  paths, whole files fill test and valid up to their fractions. If either stays
  less than half full, as with few or very unequal files, the joined bytes are
  cut like a file. With `field`, each row is a document with a zero byte after
  it, and no document is cut, unless they are too few for three splits.

  Nothing is read into memory. A plain file is memory-mapped; what must be
  unpacked, joined or, with a vocabulary, encoded, is kept in the data cache,
  which is keyed by content: the first start does it, in several processes and
  with lines about the progress, and later ones begin at once. In tokens, zero
  bytes are id 0.

  Args:
    path: File, folder, or pattern such as 'books/**/*.txt'; also compressed by
      gzip, xz, bzip2 or zstd, or in UTF-16. Or an address that fsspec reads,
      such as 'gs://bucket/books', 's3://…', 'https://…' or 'hf://datasets/…',
      which is copied into the data cache. Or @TfdsText(). `~` is the home
      folder.
    batch_size: Rows of the global batch.
    length: Bytes, or tokens of `vocab`, in a training window.
    valid_fraction: Fraction of the bytes held out for validation.
    test_fraction: Fraction of the bytes held out for the test.
    seed: Seed of the shuffle.
    eval_length: Tokens in an evaluation window; None means `length`.
    eval_stride: Tokens that an evaluation window scores; None means all.
    vocab: File of a vocabulary: a SentencePiece model, such as
      `python -m trax_hier.data.subwords` writes; a tokenizer.json of Hugging
      Face's tokenizers; or a .tiktoken file named as its encoding. Or a
      vocabulary, such as @Tiktoken(). None means that tokens are bytes.
    field: Field of JSON lines, or column of parquet files, that has the text;
      None reads files as text.

  Raises:
    ValueError: naming the binding, if the path is missing, unreadable, empty,
      has no text, or is shorter than a window; if the vocabulary is missing or
      encodes text as id 0; or if a number is invalid.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   _ = pathlib.Path(folder, 'my.txt').write_text('Some text. ' * 1000)
    ...   data = TextFiles(folder, batch_size=4, length=128)
    >>> data.train_batch(0)['inputs'].shape
    (4, 128)
    >>> data.eval_batches('valid', window=256)[0]['inputs'].shape
    (4, 256)
  """
  checks.check_fractions('TextFiles', valid_fraction, test_fraction)
  text = read_splits(
    path, valid_fraction, test_fraction, 'TextFiles.path', field
  )
  vocabulary = open_vocab(vocab, 'TextFiles.vocab')
  how, token_bytes = text.how, None
  if vocabulary.unit == 'token':
    how += f', {describe_vocab(vocabulary, vocab)}'
    splits, hashes, token_bytes = encode_splits(text, vocabulary, str(path))
  else:
    splits, hashes = text.arrays(), text.hashes()
  return windowed(
    'TextFiles',
    f'{path} ({how})',
    splits,
    vocabulary,
    batch_size,
    length,
    seed,
    vocabulary.unit,
    eval_length=eval_length,
    eval_stride=eval_stride,
    token_bytes=token_bytes,
    hashes=hashes,
  )

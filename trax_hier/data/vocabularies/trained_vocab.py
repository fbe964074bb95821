"""A subword vocabulary trained when it is first needed, from gin."""

from pathlib import Path

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.sources.text import (
  TEST_FRACTION,
  VALID_FRACTION,
  read_splits,
)
from trax_hier.data.vocabularies.vocab import load_vocab


@configurable(module='trax_hier.data')
def Subwords(
  text: str,
  output: str,
  size: int = 8000,
  valid_fraction: float = VALID_FRACTION,
  test_fraction: float = TEST_FRACTION,
) -> str:
  """Trains a vocabulary on the training part of a text, unless it is there.

  As `python -m trax_hier.data.subwords` does:

      TextFiles.vocab = @Subwords()
      Subwords.text = %DATA
      Subwords.output = 'my.model'
      Subwords.size = %VOCAB_SIZE

  Args:
    text: a file or folder, as `TextFiles.path`.
    output: the SentencePiece model file, written if it is not there.
    size: pieces of the vocabulary.
    valid_fraction: as that of `TextFiles`, and
    test_fraction: likewise, so that nothing held out is learned from.

  Returns:
    `output`.

  Raises:
    ValueError: if sentencepiece is not installed, the text is missing or does
      not suit the size, or the file is there and of another size.
  """
  # A command too, which must not be loaded when it is run.
  from trax_hier.data import subwords

  checks.check_positive('Subwords.size', size)
  checks.check_fractions('Subwords', valid_fraction, test_fraction)
  path = Path(output).expanduser()
  if not path.exists():
    binding = f'Subwords.text = {text!r}'
    splits, _ = read_splits(text, valid_fraction, test_fraction, binding)
    try:
      subwords.write(path, splits, size)
    except OSError as error:
      raise ValueError(
        f'Subwords.output = {output!r}: cannot be written: {error.strerror}'
      ) from error
  there = load_vocab(output, 'Subwords.output').size
  if there != size:
    raise ValueError(
      f'Subwords.output = {output!r} is there already, with {there} pieces, '
      f'not Subwords.size = {size}: give another file, or that size'
    )
  return output

"""Subwords: a subword vocabulary, trained if its file does not exist."""

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.corpora.tfds_source import TfdsSource
from trax_hier.data.splits import TEST_FRACTION, VALID_FRACTION, read_splits
from trax_hier.data.vocabularies.sentencepiece_vocab import load_sentencepiece
from trax_hier.data.vocabularies.train_subwords import write_vocab
from trax_hier.environment import expand_home


@configurable(module='trax_hier.data')
def Subwords(
  text: str | TfdsSource,
  output: str,
  size: int = 8000,
  valid_fraction: float = VALID_FRACTION,
  test_fraction: float = TEST_FRACTION,
  field: str | None = None,
) -> str:
  """Trains a vocabulary on the training split of a text, unless it exists.

  Trains as `python -m trax_hier.data.subwords` does:

      TextFiles.vocab = @Subwords()
      Subwords.text = %DATA
      Subwords.output = 'my.model'
      Subwords.size = %VOCAB_SIZE

  Args:
    text: File or folder, as `TextFiles.path`.
    output: SentencePiece model file, written if it does not exist.
    size: Number of pieces.
    valid_fraction: Must equal `TextFiles.valid_fraction`, so that no held-out
      text is trained on.
    test_fraction: Must equal `TextFiles.test_fraction`, for the same reason.
    field: As `TextFiles.field`.

  Returns:
    `output`.

  Raises:
    ValueError: if sentencepiece is not installed, if the text is missing or
      does not suit the size, or if the file exists with another size.
  """
  checks.check_positive('Subwords.size', size)
  checks.check_fractions('Subwords', valid_fraction, test_fraction)
  path = expand_home(output, f'Subwords.output = {output!r}')
  if not path.exists():
    splits = read_splits(
      text, valid_fraction, test_fraction, 'Subwords.text', field
    )
    try:
      write_vocab(path, splits.arrays()['train'], size)
    except OSError as error:
      raise ValueError(
        f'Subwords.output = {output!r}: cannot be written: {error.strerror}'
      ) from error
  n_pieces = load_sentencepiece(output, 'Subwords.output').size
  if n_pieces != size:
    raise ValueError(
      f'Subwords.output = {output!r} already exists with {n_pieces} pieces, '
      f'not Subwords.size = {size}: choose another file, or its size'
    )
  return output

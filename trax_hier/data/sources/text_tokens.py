"""Tokens of the splits of a text, encoded once."""

import numpy as np

from trax_hier.data.encoding.tokens import encode_text
from trax_hier.data.fingerprints import whole_hash
from trax_hier.data.splits import EVAL_SPLITS, TextSplits, hash_once
from trax_hier.data.vocabularies.vocab import TextVocab


def encode_splits(
  text: TextSplits, vocab: TextVocab, what: str
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, np.ndarray] | None]:
  """Encodes the splits of a text; see `encode_text`.

  Args:
    text: The splits.
    vocab: Vocabulary that encodes any byte of the text.
    what: What they are of, for messages.

  Returns:
    The ids of each split, (n,); the hash of each split, for a fingerprint; and
    the bytes of each token of the held-out splits, (n,), None where
    `vocab.byte_lengths` tells them.
  """
  ids, hashes, token_bytes = {}, {}, {}
  for split, part in text.parts.items():
    tokens = encode_text(
      part,
      np.array([len(part)]),
      text.corpus.key(),
      vocab,
      split in EVAL_SPLITS and vocab.byte_lengths is None,
      f'the {split} split of {what}',
    )
    ids[split], token_bytes[split] = tokens.ids, tokens.n_bytes
    hashes[split] = (
      hash_once(tokens.folder, np.zeros(1), tokens.ends, (tokens.ids,))
      if tokens.folder
      else whole_hash((tokens.ids,))
    )
  return ids, hashes, None if vocab.byte_lengths is not None else token_bytes

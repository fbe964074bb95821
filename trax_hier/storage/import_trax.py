"""Imports weights of Trax's own models, as exports of ours."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import jax

from trax_hier import config
from trax_hier.config.parsing import current_table
from trax_hier.config.text import write
from trax_hier.data import ByteVocab, IdVocab
from trax_hier.data.vocabularies.sentencepiece_vocab import load_sentencepiece
from trax_hier.layers import ShortenedStack
from trax_hier.models import (
  HourglassLM,
  ScalingTransformer,
  ScalingTransformerLM,
  Terraformer,
  TransformerLM,
)
from trax_hier.storage import export
from trax_hier.storage.trax_files import read_trax_weights
from trax_hier.storage.trax_misfits import argument_value, changes_that_fit
from trax_hier.storage.trax_order import MisfitError, convert, in_trax_order
from trax_hier.training.state import abstract_init

IDS = 'ids'  # Stands for a vocabulary without text.
UNITS = 'byte', 'dim', 'token'

# The models of Trax whose weights each of ours takes.
COUNTERPARTS = {
  HourglassLM: 'HourglassLM',
  TransformerLM: 'TransformerLM',
  ScalingTransformerLM: 'ConfigurableTransformerLM',
  ScalingTransformer: 'Transformer and ConfigurableTransformer',
  Terraformer: 'ConfigurableTerraformer',
}


def import_file(
  file: str | Path,
  vocab: str | None = None,
  unit: str | None = None,
  say: Callable[[str], None] = print,
) -> export.ExportableModel:
  """Converts a file of one of Trax's models for `export.save`.

  `train.model` must be bound in gin: to a model in `COUNTERPARTS` with the
  arguments of Trax's model or, if Trax has trained a model of ours, to that.

  Args:
    file: See `read_trax_weights`.
    vocab: Path of a SentencePiece model; 'ids' if the text of ids is not known;
      None means that tokens are bytes.
    unit: Kind of token: 'byte', 'dim' (of an image) or 'token' (any other);
      None means 'token' with `vocab`, 'dim' if gin binds `train.data` to
      @ImageBytes(), else 'byte'.
    say: Prints what the file does not tell.

  Raises:
    ValueError: The file cannot be read, its weights do not fit the model, or
      the model does not fit the vocabulary.
  """
  model = config.value('train.model')
  if unit is None:
    unit = _default_unit(vocab)
  vocabulary = _load_vocab(vocab, unit)
  arrays = read_trax_weights(file)
  # Of all models, the table of embeddings.
  n_ids = next((len(x) for x in arrays if x.ndim == 2), 0)
  if n_ids:
    config.set_vocab_size('train.model', n_ids)
  layer, shapes, length = _abstract(model)
  try:
    weights, notes = _convert(model, arrays, layer, shapes)
  except MisfitError as error:
    raise ValueError(f'{Path(file).name}: {error}') from error
  if vocabulary is None:
    vocabulary = IdVocab(n_ids)
  _check_ids(n_ids, vocabulary, vocab)
  for note in notes:
    say(f'note: {note}')
  return export.ExportableModel(
    model=model,
    weights=weights,
    vocab=vocabulary,
    # Without its macros, which the operative text may lack.
    config_text=(
      f'{config.operative_text()}\ntrain.model = {_bound("train.model")}\n'
    ),
    length=length,
    source_length=length if layer.n_in == 2 else None,
    unit=unit,
    data=f'unknown; the weights are from {Path(file).name}, by Trax',
  )


def _convert(model, arrays, layer, shapes):
  """Our weights, from those of our model or of its counterpart, and notes."""
  theirs = [x.shape for x in arrays]
  leaves, tree = jax.tree.flatten(shapes)
  if theirs == [x.shape for x in leaves]:
    return jax.tree.unflatten(tree, arrays), []
  if inspect.unwrap(model) not in map(inspect.unwrap, COUNTERPARTS):
    legal = ', '.join(f'@{x.__name__} ({t})' for x, t in COUNTERPARTS.items())
    raise MisfitError(
      f'the weights are not of train.model = @{model.__name__}; weights of '
      f"Trax's models fit those with a counterpart there: {legal}"
    )
  try:
    weights = convert(arrays, layer, shapes)
  except MisfitError as error:
    changes = changes_that_fit(model, theirs, lambda m: _abstract(m)[:2])
    fit = f'; it fits with {changes}' if changes else ''
    raise MisfitError(f'{error}{fit}') from error
  notes = [_untold(model, layer)]
  if unused := [x for x in in_trax_order(layer, shapes) if x.place is None]:
    notes.append(
      f'{len(unused)} of {len(arrays)} arrays have no effect in Trax and are '
      f'left out, such as {unused[0].name}'
    )
  return weights, notes


def _default_unit(vocab):
  if vocab is not None:
    return 'token'
  return 'dim' if 'ImageBytes()' in _bound('train.data') else 'byte'


def _load_vocab(vocab, unit):
  """The vocabulary; None if only the file tells its size."""
  if unit not in UNITS:
    raise ValueError(f'unit = {unit!r} must be one of {", ".join(UNITS)}')
  if vocab is None:
    return ByteVocab()
  if unit != 'token':
    raise ValueError(
      f'unit = {unit!r} is for tokens that are bytes: with a vocab, the unit '
      "is 'token'"
    )
  return None if vocab == IDS else load_sentencepiece(vocab, 'vocab')


def _check_ids(n_ids, vocabulary, vocab):
  """Checks that the vocabulary is that of the embedding table."""
  if n_ids < vocabulary.size or (vocab is None and n_ids > vocabulary.size):
    raise ValueError(
      f'train.model has vocab_size = {n_ids}, as its weights in the file, but '
      f'the vocabulary has {vocabulary.size} ids: vocab must be the '
      'SentencePiece model used in training, or ids if the text of ids is not '
      'known; leave it out if tokens are bytes'
    )


def _untold(model, layer):
  """Says what no shape tells."""
  names = {x.name for x in _walk(layer)}
  told = [f'n_heads = {argument_value(model, "n_heads")}']
  if used := sorted(names & {'Gelu', 'Relu'}):
    told.append(f'activation = {" and ".join(used)}')
  if norms := sorted(names & {'LayerNorm', 'RMSNorm'}):
    told.append(f'norm = {" and ".join(norms)}')
  if any('LSH' in name for name in names):
    told.append('chunk_len, n_hashes')
  return (
    'shapes do not tell all: compare with the configuration of Trax: '
    f'{", ".join(told)}'
  )


def _abstract(model):
  """Builds a model in eval mode: the layer, its weights' shapes, a length."""
  layer = model(mode='eval')
  length = _least_length(layer)
  batch = export.batch_shapes(length, length if layer.n_in == 2 else None)
  return layer, abstract_init(layer, batch)[0], length


def _least_length(layer):
  """Tokens of the shortest row; no weight depends on the length."""
  chunks, factors = [], []
  for inner in _walk(layer):
    # Gin replaces the class itself by another one.
    if type(inner).__name__ == 'PureLSHSelfAttention':
      chunks.append(inner._chunk_len)
    elif isinstance(inner, ShortenedStack):
      factors.append(inner.shorten_factor)
  return math.lcm(*chunks) * math.prod(factors) if chunks else 1


def _walk(layer):
  yield layer
  for inner in layer.sublayers:
    yield from _walk(inner)


def _bound(name):
  """The value that a parameter is bound to as gin text; '' if it is not."""
  for binding in config.resolved():
    if binding.name == name:
      return write(current_table().source_of(binding).value)
  return ''

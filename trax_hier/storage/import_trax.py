"""Converts the weights of Trax's own Hourglass.

Trax stores the layers one by one. trax_hier stacks the equal blocks of a
`Repeat`, puts the shared biases first, and has another order of the projections
of an attention layer. The numbers are the same.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trax_hier import config
from trax_hier.data import ByteVocab
from trax_hier.data.vocabularies.sentencepiece_vocab import load_vocab
from trax_hier.models.hourglass import HourglassLM, parse_hierarchy
from trax_hier.storage import export
from trax_hier.storage.tensor_names import tensor_names
from trax_hier.storage.trax_files import read_trax_weights
from trax_hier.training.state import abstract_init, token_shapes

# Arbitrary, as no weight of an Hourglass depends on the length.
_LENGTH = 1


def hourglass_from_file(
  file: str | Path, vocab: str | None = None
) -> export.ExportableModel:
  """Converts a file of Trax's Hourglass for `export.save`.

  `train.model` must be bound in gin, to @HourglassLM with the arguments of
  Trax's model: vanilla_layers, hierarchy, widths, kinds of shortening and
  upsampling.

  Args:
    file: See `read_trax_weights`.
    vocab: Path of a SentencePiece model; None means that tokens are bytes.

  Raises:
    ValueError: The file cannot be read, its weights do not fit the model, or
      the model does not fit the vocabulary.
  """
  model = config.value('train.model')
  if inspect.unwrap(model) is not inspect.unwrap(HourglassLM):
    raise ValueError(
      'train.model must be @HourglassLM, whose weights are imported'
    )
  vocabulary = ByteVocab() if vocab is None else load_vocab(vocab, 'vocab')
  config.set_vocab_size('train.model', vocabulary.size)
  layer = model(mode='eval')
  template, _ = abstract_init(layer, token_shapes((1, _LENGTH)))
  names = tensor_names(layer, template)
  n_ids = _shape_of('embedding.weights', names, template)[0]
  if n_ids < vocabulary.size or (vocab is None and n_ids > vocabulary.size):
    raise ValueError(
      f'HourglassLM.vocab_size = {n_ids}, but the vocabulary has '
      f'{vocabulary.size} ids: vocab must be the SentencePiece model used in '
      'training; leave it out if tokens are bytes'
    )

  weights = hourglass_weights(
    read_trax_weights(file),
    template,
    _value('vanilla_layers'),
    _value('hierarchy'),
    **_kinds(names),
  )
  return export.ExportableModel(
    model=model,
    weights=weights,
    vocab=vocabulary,
    config_text=f'{config.operative_text()}\ntrain.model = @HourglassLM\n',
    length=_LENGTH,
    unit='byte' if vocab is None else 'token',
    data=f'unknown; the weights are from {Path(file).name}, by Trax',
  )


def _kinds(names):
  """Finds the kinds of shortening and upsampling for `hourglass_weights`.

  Args:
    names: Names of the tensors of our `HourglassLM`.
  """

  def has(layer):
    return any(re.match(rf'(shortened\.)+{layer}\.', name) for name in names)

  return {
    f'{kind}_{end}': has(rf'{end}\.{kind}')
    for kind in ('dense', 'attention')
    for end in ('shorten', 'upsample')
  }


def _shape_of(name, names, shapes):
  return jax.tree.leaves(shapes)[names[name].leaf].shape


def _value(parameter):
  """The value of a parameter of HourglassLM, from gin or its default."""
  try:
    return config.value(f'HourglassLM.{parameter}')
  except config.ConfigError:
    return inspect.signature(HourglassLM).parameters[parameter].default


def hourglass_weights(
  weights: Any,
  template: Any,
  vanilla_layers: tuple[int, int] = (1, 1),
  hierarchy: str = '6@3',
  dense_shorten: bool = False,
  dense_upsample: bool = True,
  attention_shorten: bool = True,
  attention_upsample: bool = True,
) -> Any:
  """Converts the weights of `trax.models.research.hourglass.HourglassLM`.

  Args:
    weights: Weights of the Trax model, which must use relative attention
      throughout.
    template: Weights of our `HourglassLM` of the same configuration, or their
      shapes; the result has this structure.
    vanilla_layers: The argument of both models.
    hierarchy: The argument of both models.
    dense_shorten: Whether shortening has a dense layer: `LinearPooling`, alone
      or inside `AttentionResampling`.
    dense_upsample: Whether upsampling has a dense layer: `LinearUpsampling`,
      alone or inside `AttentionResampling`.
    attention_shorten: Whether shortening is `AttentionResampling`.
    attention_upsample: Whether upsampling is `AttentionResampling`.

  Raises:
    ValueError: The number or the shapes of the weights differ.
  """
  source = jax.tree.leaves(weights)
  position = 0
  shared = []

  def take(n):
    nonlocal position
    position += n
    return source[position - n : position]

  def attention():
    """The query, key, value, position and output projections."""
    r, q, k, v = take(2), take(2), take(2), take(2)
    if not shared:
      shared.extend(take(2))
    return q, k, v, r, take(2)

  def norm():
    return take(2)

  def feed_forward():
    return take(4)

  def block():
    first_norm = norm()
    q, k, v, r, out = attention()
    return [*first_norm, *q, *k, *v, *r, *out, *norm(), *feed_forward()]

  def stack(n):
    blocks = [block() for _ in range(n)]
    return [np.stack(same) for same in zip(*blocks, strict=True)] + norm()

  def shorten():
    dense = 2 * dense_shorten
    if not attention_shorten:
      return take(dense)
    return norm() + take(dense) + block()

  def upsample():
    dense = 2 * dense_upsample
    if not attention_upsample:
      return take(dense)
    before = norm() + take(dense) + norm()
    q, k, v, r, out = attention()
    after = [*norm(), *feed_forward()]
    return [*before, *k, *v, *q, *r, *out, *after]

  def shortened(levels):
    (n, _), *deeper = levels
    inner = shorten() + stack(n)
    if deeper:
      inner += shortened(deeper) + stack(n)
    return inner + upsample() + norm()

  n_before, n_after = vanilla_layers
  result = take(1) + stack(n_before)
  result += shortened(parse_hierarchy(hierarchy)) + stack(n_after) + take(2)
  result = [*shared, *result]

  expected = jax.tree.leaves(template)
  shapes = [np.shape(x) for x in result]
  if position != len(source) or shapes != [x.shape for x in expected]:
    raise ValueError(
      f'the {len(source)} arrays of the Trax model do not fit the '
      f'{len(expected)} arrays of HourglassLM: vanilla_layers, hierarchy, '
      'widths or the kinds of shortening and upsampling differ'
    )
  return jax.tree.unflatten(jax.tree.structure(template), result)

"""Saves models as self-contained folders and loads them.

    save('my_model', exportable)          # or: trax-hier export
    exported = trax_hier.load('my_model')
    print(exported.sample('def main('))

An export needs neither the run nor its data. The folder holds

    model.safetensors   the weights, named as in `storage.tensor_names`
    config.gin          the configuration of the run
    config.json         step, lengths, vocabulary, version of this format
    vocab.model         the SentencePiece model, if there is one; or
    tokenizer.json      the tokenizer of Hugging Face's tokenizers; or
    vocab.tiktoken      the byte pairs of tiktoken, and vocab.pattern
    README.md           the model card

Loading an export runs no code of its author: config.gin imports nothing, and
calls nothing but models and layers of trax_hier.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trax_hier
import trax_hier.layers
import trax_hier.models
from trax_hier import config
from trax_hier.compat import base
from trax_hier.data import IdVocab
from trax_hier.data.vocabularies.sentinel_vocab import SentinelVocab
from trax_hier.data.vocabularies.vocab_files import (
  VOCAB_FILES,
  read_vocab_files,
  vocab_files,
  vocab_kind,
)
from trax_hier.environment import check_devices, expand_home
from trax_hier.storage.export_digests import (
  check_digests,
  has_digests,
  with_digests,
)
from trax_hier.storage.export_facts import (
  FORMAT,
  MAX_FILE,
  check_file,
  is_count,
  read_facts,
)
from trax_hier.storage.model_card import CardFields, model_card
from trax_hier.storage.tensor_files import read_tensors, write_tensors
from trax_hier.training.logging.not_finite import json_text
from trax_hier.training.state import abstract_init, n_parameters, token_shapes

PyTree = object

WEIGHTS_FILE = 'model.safetensors'
CONFIG_FILE = 'config.gin'
FACTS_FILE = 'config.json'
CARD_FILE = 'README.md'

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class ExportableModel:
  """A model to export, and the facts that its export states.

  Attributes:
    model: Factory of the model.
    weights: Weights of the model, as nested tuples.
    vocab: Vocabulary: bytes, of a file or ids, optionally with sentinels.
    config_text: Gin text that binds `train.model` and all that it needs.
    length: Tokens per row of a training batch.
    source_length: Tokens per source; None for a model without an encoder.
    step: Number of training steps; None if unknown.
    unit: Kind of token: 'byte', 'dim' (of an image) or 'token' (any other).
    data: Description of the training data.
    metrics: Held-out metrics at `step`; may be empty.
  """

  model: Callable[..., base.Layer]
  weights: PyTree = dataclasses.field(repr=False)
  vocab: Any
  config_text: str = dataclasses.field(repr=False)
  length: int
  source_length: int | None = None
  step: int | None = None
  unit: str = 'token'
  data: str = 'unknown'
  metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Exported:
  """A loaded export.

  Attributes:
    model: Factory of the model, `model(mode='eval')`. It reads gin when it is
      called, so only the export loaded last can be used.
    weights: Weights in float32, as nested tuples.
    vocab: Vocabulary that encodes and decodes text.
    step: Number of training steps; None if unknown.
    unit: Kind of token: 'byte', 'dim' (of an image) or 'token' (any other).
    length: Tokens per row of a training batch.
    source_length: Maximum tokens per source; None for a model without an
      encoder.
  """

  model: Callable[..., base.Layer]
  weights: PyTree
  vocab: Any
  step: int | None
  unit: str
  length: int
  source_length: int | None

  def __repr__(self) -> str:
    """One line, without the weights."""
    name = getattr(self.model, '__name__', 'model')
    step = '' if self.step is None else f', step {self.step}'
    return (
      f'<{type(self).__name__} {name}: {n_parameters(self.weights):,} '
      f'parameters{step}, {self.vocab.size:,} ids, {self.unit}s, '
      f'length {self.length}>'
    )

  def sample(self, prompt: str, n_tokens: int = 256, **settings: Any) -> str:
    """Continues a text; see `generation.sample_text` for the settings."""
    from trax_hier.generation import sample_text

    return sample_text(
      self.model, self.weights, self.vocab, prompt, n_tokens, **settings
    )


def save(
  folder: str | Path, exportable: ExportableModel, dtype: str = 'float32'
) -> None:
  r"""Writes an export; the folder appears only when it is complete.

  Args:
    folder: A new or empty folder.
    exportable: The model and its description.
    dtype: Type of the weights in the file: 'float32', unchanged, or 'bfloat16',
      rounded to half the bytes.

  Raises:
    ValueError: The folder is not empty, dtype is neither of the two, the
      weights do not fit the model or are not finite, or the vocabulary cannot
      be exported.

  Example:
    >>> import tempfile
    >>> from trax_hier import training
    >>> from trax_hier.data import ByteVocab
    >>> from trax_hier.models import TransformerLM
    >>> text = 'train.model = @TransformerLM\nTransformerLM.vocab_size = 256\n'
    >>> text += 'TransformerLM.n_layers = 0\nTransformerLM.d_model = 32'
    >>> config.parse(bindings=[text])
    >>> model = config.value('train.model')
    >>> shapes, _ = abstract_init(model(mode='eval'), batch_shapes(96, None))
    >>> weights = jax.tree.map(lambda w: np.ones(w.shape, w.dtype), shapes)
    >>> exportable = ExportableModel(model, weights, ByteVocab(), text, 96)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   save(folder, exportable)
    ...   exported = load(folder)
    >>> exported.vocab.size, exported.length
    (256, 96)
    >>> config.clear()
  """
  if dtype not in DTYPES:
    raise ValueError(f'dtype = {dtype!r} must be one of {", ".join(DTYPES)}')
  facts = {
    'format': FORMAT,
    'trax_hier': trax_hier.__version__,
    'dtype': dtype,
    'step': exportable.step,
    'unit': exportable.unit,
    'length': exportable.length,
    'source_length': exportable.source_length,
    'vocab': _describe_vocab(exportable.vocab),
  }
  layer, shapes = _abstract(exportable.model, facts)
  if _shapes(exportable.weights) != _shapes(shapes):
    raise ValueError('the weights do not fit the model')
  card = model_card(
    CardFields(
      config=exportable.config_text,
      n_parameters=n_parameters(shapes),
      dtype=dtype,
      step=exportable.step,
      data=exportable.data,
      metrics=exportable.metrics,
    )
  )
  files = {CONFIG_FILE: exportable.config_text.encode()}
  base_vocab = _base_vocab(exportable.vocab)
  if not isinstance(base_vocab, IdVocab):
    files |= vocab_files(base_vocab)
  facts = json_text(with_digests(facts, files), indent=2)
  with _new_folder(folder) as new:
    for name, content in files.items():
      (new / name).write_bytes(content)
    (new / FACTS_FILE).write_text(f'{facts}\n', 'utf-8')
    (new / CARD_FILE).write_text(card, 'utf-8')
    write_tensors(new / WEIGHTS_FILE, layer, exportable.weights, DTYPES[dtype])


def load(
  folder: str | Path,
  bindings: Sequence[str] = (),
  trust_code: bool = False,
  say: Callable[[str], None] = print,
) -> Exported:
  """Loads an export and clears all earlier gin bindings.

  Also available as `trax_hier.load`.

  Args:
    folder: The export.
    bindings: Gin statements that override its config.gin.
    trust_code: Whether config.gin may import modules and call any configurable,
      and so run any code of its author. It may then be edited, too.
    say: Prints a line about files that are not verified, because the export is
      of an older version.

  Raises:
    ValueError: The folder is not an export, config.gin does what only
      `trust_code` allows, a file is damaged or has another
      format, or the tensors do not fit the model.
    RuntimeError: JAX finds no devices.
  """
  check_devices()
  folder = expand_home(folder)
  facts = read_facts(
    folder,
    folder / FACTS_FILE,
    folder / CONFIG_FILE,
    (WEIGHTS_FILE, CONFIG_FILE, FACTS_FILE),
  )
  config.clear()
  config.parse([str(folder / CONFIG_FILE)], bindings, trust_code)
  names = CONFIG_FILE, *(name for x in VOCAB_FILES.values() for name in x)
  check_digests(folder, facts, names, CONFIG_FILE if trust_code else None, say)
  model = config.value('train.model')
  layer, shapes = _abstract(model, facts)
  weights = read_tensors(
    folder / WEIGHTS_FILE, layer, shapes, has_digests(facts)
  )
  return Exported(
    model=model,
    weights=weights,
    vocab=_load_vocab(folder, facts['vocab']),
    step=facts['step'],
    unit=facts['unit'],
    length=facts['length'],
    source_length=facts['source_length'],
  )


def batch_shapes(
  length: int, source_length: int | None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a batch (1, length) and its sources, if any."""
  batch = token_shapes((1, length))
  if source_length is not None:
    batch['sources'] = jax.ShapeDtypeStruct((1, source_length), np.int32)
  return batch


def _abstract(model, facts):
  """Builds the layer in eval mode; returns it and its weight shapes."""
  layer = model(mode='eval')
  batch = batch_shapes(facts['length'], facts['source_length'])
  weights, _ = abstract_init(layer, batch)
  return layer, weights


def _shapes(tree):
  return jax.tree.map(lambda x: x.shape, tree)


# Files ------------------------------------------------------------------------


@contextlib.contextmanager
def _new_folder(folder: str | Path) -> Iterator[Path]:
  """Yields a temporary folder; renames it at the end, deletes it on errors."""
  folder = expand_home(folder).absolute()
  check_free(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  unfinished = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
  unfinished.mkdir()
  try:
    yield unfinished
    # Replaces an empty folder; raises OSError if it is no longer empty.
    unfinished.rename(folder)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def check_free(folder: Path) -> None:
  """Checks that an export can be written to `folder`.

  Raises:
    ValueError: It is a file, or a folder that is not empty.
  """
  if folder.is_dir() and any(folder.iterdir()):
    raise ValueError(f'{folder}: the folder is not empty')
  if folder.exists() and not folder.is_dir():
    raise ValueError(f'{folder}: a file has this name')


# Vocabularies -----------------------------------------------------------------


def _base_vocab(vocab):
  """The vocabulary without sentinels."""
  return vocab.base if isinstance(vocab, SentinelVocab) else vocab


def _describe_vocab(vocab):
  base_vocab = _base_vocab(vocab)
  kind = 'ids' if isinstance(base_vocab, IdVocab) else vocab_kind(base_vocab)
  if kind is None:
    raise ValueError(
      f'the vocabulary of the data, {type(base_vocab).__name__}, cannot be '
      'exported: it is neither bytes nor ids, nor of a SentencePiece model, a '
      'tokenizer.json or a .tiktoken file'
    )
  size = vocab.size if base_vocab is not vocab else None
  facts = {'kind': kind, 'size_with_sentinels': size}
  if isinstance(base_vocab, IdVocab):
    facts['size'] = base_vocab.size
  return facts


def _load_vocab(folder, description):
  match description:
    case {'kind': str(kind), 'size_with_sentinels': size} if (
      kind in VOCAB_FILES
    ):
      for name in VOCAB_FILES[kind]:
        check_file(folder / name, MAX_FILE)
      try:
        vocab = read_vocab_files(folder, kind)
      except ValueError as error:
        raise ValueError(f'{folder}: its vocabulary: {error}') from error
    case {'kind': 'ids', 'size_with_sentinels': size, 'size': n} if is_count(n):
      vocab = IdVocab(n)
    case _:
      raise ValueError(
        f'{folder / FACTS_FILE}: unknown vocab = {description!r:.80}'
      )
  if not (size is None or is_count(size, vocab.size)):
    raise ValueError(
      f'{folder / FACTS_FILE}: vocab.size_with_sentinels = {size!r:.40} must '
      f'be null or at least {vocab.size}'
    )
  return vocab if size is None else SentinelVocab(vocab, size)

"""Models as folders that need neither the run nor its data.

    save('my_model', source)              # or: trax-hier export
    exported = trax_hier.load('my_model')
    print(exported.sample('def main('))

A folder holds

    model.safetensors   the weights, named as `storage.tensor_names` says
    config.gin          what makes the model, as the run used it
    config.json         step, lengths, vocabulary, version of this format
    vocab.model         the SentencePiece model, if there is one
    README.md           a card

What config.gin imports by `import x.y` is imported when it is loaded, from
where Python finds modules; nothing else of a folder is executed.
"""

import contextlib
import dataclasses
import json
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
from trax_hier.data import ByteVocab, SentencePieceVocab
from trax_hier.data.batching.span_corruption import SentinelVocab
from trax_hier.storage.model_card import Facts, model_card
from trax_hier.storage.tensor_files import read_tensors, write_tensors
from trax_hier.training.state import abstract_init, n_parameters, token_shapes

PyTree = object

WEIGHTS_FILE = 'model.safetensors'
CONFIG_FILE = 'config.gin'
FACTS_FILE = 'config.json'
VOCAB_FILE = 'vocab.model'
CARD_FILE = 'README.md'

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Source:
  """What is exported.

  Attributes:
    model: the model factory.
    weights: of the model, as nested tuples.
    vocab: of its ids: bytes or SentencePiece, perhaps with sentinels.
    config_text: gin text that binds `train.model` and what it needs.
    length: tokens in a row of the training batch.
    source_length: those in a row of sources; None without an encoder.
    step: how many steps it was trained for; None if that is not known.
    unit: what a token is: 'byte', 'dim' or 'token'.
    data: what it was trained on, in words.
    metrics: held-out metrics at `step`; empty if there are none.
  """

  model: Callable[..., base.Layer]
  weights: PyTree
  vocab: Any
  config_text: str
  length: int
  source_length: int | None = None
  step: int | None = None
  unit: str = 'token'
  data: str = 'not known'
  metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Exported:
  """A model that was exported, loaded.

  Attributes:
    model: the factory, `model(mode='eval')`. It reads gin when it is called, so
      only the export loaded last can be used.
    weights: float32, as nested tuples.
    vocab: encodes and decodes text.
    step: how many steps it was trained for; None if that is not known.
    unit: what a token is: 'byte', 'dim' or 'token'.
    length: tokens in a row of the batches it was trained on.
    source_length: most tokens of a source; None without an encoder.
  """

  model: Callable[..., base.Layer]
  weights: PyTree
  vocab: Any
  step: int | None
  unit: str
  length: int
  source_length: int | None

  def sample(self, prompt: str, n_tokens: int = 256, **settings: Any) -> str:
    """Continues a text; `settings` are those of `generation.sample_text`."""
    from trax_hier.generation import sample_text

    return sample_text(
      self.model, self.weights, self.vocab, prompt, n_tokens, **settings
    )


def save(folder: str | Path, source: Source, dtype: str = 'float32') -> None:
  r"""Writes an export; the folder appears when all of it is there.

  Args:
    folder: a new or an empty one.
    source: the model and what is known of it.
    dtype: of the weights in the file: 'float32', as they are, or 'bfloat16',
      in half the bytes, rounded.

  Raises:
    ValueError: the folder is not empty, dtype is not one of these, weights do
      not fit the model, or the vocabulary cannot be written.

  Example:
    >>> import tempfile
    >>> from trax_hier import training
    >>> from trax_hier.models import TransformerLM
    >>> text = 'train.model = @TransformerLM\nTransformerLM.vocab_size = 256\n'
    >>> text += 'TransformerLM.n_layers = 0\nTransformerLM.d_model = 32'
    >>> config.parse(bindings=[text])
    >>> model = config.value('train.model')
    >>> shapes, _ = abstract_init(model(mode='eval'), batch_like(96, None))
    >>> weights = jax.tree.map(lambda w: np.ones(w.shape, w.dtype), shapes)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   save(folder, Source(model, weights, ByteVocab(), text, length=96))
    ...   exported = load(folder)
    >>> exported.vocab.size, exported.length
    (256, 96)
    >>> config.clear()
  """
  if dtype not in DTYPES:
    raise ValueError(f'dtype = {dtype!r} must be one of {", ".join(DTYPES)}')
  facts = {
    'format': _FORMAT,
    'trax_hier': trax_hier.__version__,
    'dtype': dtype,
    'step': source.step,
    'unit': source.unit,
    'length': source.length,
    'source_length': source.source_length,
    'vocab': _describe_vocab(source.vocab),
  }
  layer, shapes = _abstract(source.model, facts)
  if _shapes(source.weights) != _shapes(shapes):
    raise ValueError('the weights are not those of the model')
  card = model_card(
    Facts(
      config=source.config_text,
      n_parameters=n_parameters(shapes),
      dtype=dtype,
      step=source.step,
      data=source.data,
      metrics=source.metrics,
    )
  )
  with _new_folder(folder) as new:
    (new / CONFIG_FILE).write_text(source.config_text)
    (new / FACTS_FILE).write_text(json.dumps(facts, indent=2) + '\n')
    (new / CARD_FILE).write_text(card)
    base_vocab = _below_sentinels(source.vocab)
    if isinstance(base_vocab, SentencePieceVocab):
      content = base_vocab.content
      (new / VOCAB_FILE).write_bytes(content)
    write_tensors(new / WEIGHTS_FILE, layer, source.weights, DTYPES[dtype])


def load(folder: str | Path, bindings: Sequence[str] = ()) -> Exported:
  """Loads what `save` wrote: `trax_hier.load`.

  Whatever was bound in gin before is forgotten, as by `runs.open_run`.

  Args:
    folder: the export.
    bindings: gin statements that win over its config.gin.

  Raises:
    ValueError: one message, for a folder that is no export, files that are
      damaged or of a later format, or tensors that are not the model's.
  """
  folder = Path(folder).expanduser()
  facts = _read_facts(folder)
  config.clear()
  config.parse([str(folder / CONFIG_FILE)], bindings)
  model = config.value('train.model')
  layer, shapes = _abstract(model, facts)
  weights = read_tensors(folder / WEIGHTS_FILE, layer, shapes)
  return Exported(
    model=model,
    weights=weights,
    vocab=_load_vocab(folder, facts['vocab']),
    step=facts['step'],
    unit=facts['unit'],
    length=facts['length'],
    source_length=facts['source_length'],
  )


def batch_like(
  length: int, source_length: int | None
) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a batch of one row: tokens, and sources if there are any."""
  batch = token_shapes((1, length))
  if source_length is not None:
    batch['sources'] = jax.ShapeDtypeStruct((1, source_length), np.int32)
  return batch


def _abstract(model, facts):
  """The layer in eval mode, and the shapes of its weights."""
  layer = model(mode='eval')
  batch = batch_like(facts['length'], facts['source_length'])
  weights, _ = abstract_init(layer, batch)
  return layer, weights


def _shapes(tree):
  return jax.tree.map(lambda x: x.shape, tree)


# Files ------------------------------------------------------------------------


@contextlib.contextmanager
def _new_folder(folder: str | Path) -> Iterator[Path]:
  """A folder to be filled, which then gets its name; gone on an error."""
  folder = Path(folder).expanduser().absolute()
  check_free(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  unfinished = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
  unfinished.mkdir()
  try:
    yield unfinished
    # Takes the place of an empty folder, and of no other.
    unfinished.rename(folder)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def check_free(folder: Path) -> None:
  """Checks that an export can be written to `folder`.

  Raises:
    ValueError: there is a file, or a folder that is not empty.
  """
  if folder.is_dir() and any(folder.iterdir()):
    raise ValueError(f'{folder}: the folder is not empty; nothing is replaced')
  if folder.exists() and not folder.is_dir():
    raise ValueError(f'{folder}: there is a file of this name')


def _read_facts(folder):
  if not folder.is_dir():
    raise ValueError(f'{folder}: no such folder')
  missing = [
    name
    for name in (WEIGHTS_FILE, CONFIG_FILE, FACTS_FILE)
    if not (folder / name).is_file()
  ]
  if missing:
    raise ValueError(f'{folder}: not an exported model: it has no {missing[0]}')
  file = folder / FACTS_FILE
  try:
    facts = json.loads(file.read_bytes())
    version = facts['format']
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(f'{file}: not of an exported model') from error
  if version != _FORMAT:
    raise ValueError(
      f'{file}: has format {version!r}, this trax_hier reads {_FORMAT}'
    )
  for name in ('step', 'unit', 'length', 'source_length', 'vocab'):
    if name not in facts:
      raise ValueError(f'{file}: has no {name!r}')
  return facts


# Vocabularies -----------------------------------------------------------------


def _below_sentinels(vocab):
  return vocab.below if isinstance(vocab, SentinelVocab) else vocab


def _describe_vocab(vocab):
  below = _below_sentinels(vocab)
  kinds = {ByteVocab: 'bytes', SentencePieceVocab: 'sentencepiece'}
  if type(below) not in kinds:
    raise ValueError(
      f'the vocabulary of the data, {type(below).__name__}, cannot be '
      'exported: it is neither of bytes nor a SentencePiece model'
    )
  sentinels = vocab.size if below is not vocab else None
  return {'kind': kinds[type(below)], 'size_with_sentinels': sentinels}


def _load_vocab(folder, described):
  match described:
    case {'kind': 'bytes', 'size_with_sentinels': size}:
      vocab = ByteVocab()
    case {'kind': 'sentencepiece', 'size_with_sentinels': size}:
      vocab = SentencePieceVocab(str(folder / VOCAB_FILE))
    case _:
      raise ValueError(
        f'{folder / FACTS_FILE}: vocab = {described!r:.80} is not known'
      )
  return vocab if size is None else SentinelVocab(vocab, size)

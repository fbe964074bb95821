"""No damage to an export loads in silence; nor do values not finite."""

import json
import shutil

import jax
import numpy as np
import pytest

from trax_hier import config
from trax_hier.data import ByteVocab, SentencePieceVocab, Subwords
from trax_hier.storage import export
from trax_hier.training.state import abstract_init

TEXT = """\
train.model = @TransformerLM
TransformerLM.vocab_size = 256
TransformerLM.n_layers = 0
TransformerLM.d_model = 8
"""
LENGTH = 8


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


def exportable(change=lambda w: w, vocab=None):
  config.clear()
  config.parse(bindings=[TEXT])
  model = config.value('train.model')
  shapes, _ = abstract_init(
    model(mode='eval'), export.batch_shapes(LENGTH, None)
  )
  rng = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda x: change(rng.normal(size=x.shape).astype(np.float32)), shapes
  )
  return export.ExportableModel(
    model, weights, vocab or ByteVocab(), TEXT, LENGTH, step=3
  )


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved') / 'export'
  export.save(folder, exportable())
  return folder


@pytest.fixture(scope='module')
def saved_subwords(tmp_path_factory):
  """An export in bfloat16 with a trained vocabulary."""
  pytest.importorskip('sentencepiece')
  folder = tmp_path_factory.mktemp('subwords')
  text = folder / 'text.txt'
  text.write_text('all the words of a short text ' * 99, encoding='utf-8')
  vocab = Subwords(str(text), str(folder / 'v.model'), 275)
  subwords = exportable(vocab=SentencePieceVocab(vocab))
  export.save(folder / 'export', subwords, 'bfloat16')
  return folder / 'export'


@pytest.fixture
def copy(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'export')


def facts_of(loaded):
  weights = [np.asarray(x).tobytes() for x in jax.tree.leaves(loaded.weights)]
  vocab = loaded.vocab.size, getattr(loaded.vocab, 'content', None)
  return weights, loaded.step, loaded.unit, loaded.length, vocab


def check_flips(saved, copy, name, n_flips):
  """Asserts that no flipped bit of a file loads other values in silence."""
  expected = facts_of(export.load(saved, say=pytest.fail))
  content = (saved / name).read_bytes()
  rng = np.random.default_rng(0)
  for bit in rng.integers(8 * len(content), size=n_flips):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    (copy / name).write_bytes(flipped)
    try:
      found = facts_of(export.load(copy, say=lambda line: None))
    except ValueError as error:
      text = config.explain(error)
      assert len(text) < 700 and len(text.splitlines()) == 1, f'bit {bit}'
      continue
    assert found == expected, f'bit {bit}'


n_flips = pytest.mark.parametrize(
  'n_flips', [10, pytest.param(100, marks=pytest.mark.slow)]
)


@n_flips
@pytest.mark.parametrize(
  'name',
  [
    export.WEIGHTS_FILE,
    export.CONFIG_FILE,
    export.FACTS_FILE,
    export.CARD_FILE,
  ],
)
def test_no_flipped_bit_loads_in_silence(saved, copy, name, n_flips):
  check_flips(saved, copy, name, n_flips)


@n_flips
@pytest.mark.parametrize('name', [export.WEIGHTS_FILE, 'vocab.model'])
def test_no_flipped_bit_of_subwords(saved_subwords, tmp_path, name, n_flips):
  copy = shutil.copytree(saved_subwords, tmp_path / 'export')
  check_flips(saved_subwords, copy, name, n_flips)


def test_damage_names_the_tensors(copy):
  file = copy / export.WEIGHTS_FILE
  content = bytearray(file.read_bytes())
  content[-2] ^= 1  # A value of the last tensor, which stays finite.
  file.write_bytes(content)
  with pytest.raises(
    ValueError, match=r'safetensors: damaged: 1 of \d+ arrays \(.*\) differ'
  ):
    export.load(copy)


def test_an_edited_config_is_an_error_unless_it_is_trusted(copy):
  file = copy / export.CONFIG_FILE
  file.write_text(f'{TEXT}# A comment\n')
  with pytest.raises(ValueError) as e:
    export.load(copy)
  assert str(e.value) == (
    f'{file}: differs from its digest: it is damaged or edited. If you edited '
    f'it, remove "config.gin" from "digests" in {copy / export.FACTS_FILE}'
  )
  said = []
  export.load(copy, trust_code=True, say=said.append)
  assert said == [f'{file}: differs from its digest: it is damaged or edited']
  # As the message says:
  facts = json.loads((copy / export.FACTS_FILE).read_text())
  del facts['digests'][export.CONFIG_FILE]
  (copy / export.FACTS_FILE).write_text(json.dumps(facts))
  export.load(copy, say=pytest.fail)


def test_an_export_without_digests_is_said_not_to_be_verified(copy):
  facts = json.loads((copy / export.FACTS_FILE).read_text())
  del facts['digests']
  (copy / export.FACTS_FILE).write_text(json.dumps(facts))
  said = []
  export.load(copy, say=said.append)
  assert said == [f'{copy} is not verified: it was exported without digests']


def test_a_damaged_vocabulary_is_an_error(tmp_path):
  from trax_hier.storage.export_digests import check_digests, with_digests

  names = ['vocab.model']
  facts = with_digests({'step': 3}, {'vocab.model': b'abc'})
  (tmp_path / 'vocab.model').write_bytes(b'abd')
  with pytest.raises(ValueError, match=r'vocab\.model: differs'):
    check_digests(tmp_path, facts, names, None, pytest.fail)
  with pytest.raises(ValueError, match=r'config\.json: differs'):
    changed = {**facts, 'step': 4}
    check_digests(tmp_path, changed, names, None, pytest.fail)


@pytest.mark.parametrize(
  'value, dtype',
  [(np.nan, 'float32'), (np.inf, 'bfloat16'), (3.4e38, 'bfloat16')],
)
def test_weights_not_finite_are_not_exported(tmp_path, value, dtype):
  bad = exportable(lambda x: np.where(x == x.max(), np.float32(value), x))
  with pytest.raises(
    ValueError, match=rf'cannot be saved as {dtype}: .* are not finite'
  ):
    export.save(tmp_path / 'new', bad, dtype)
  assert not list(tmp_path.iterdir())


def test_weights_not_finite_do_not_load(tmp_path, monkeypatch):
  from trax_hier.storage import tensor_files

  with monkeypatch.context() as patch:
    patch.setattr(tensor_files, '_check_finite', lambda *arguments: None)
    export.save(tmp_path / 'new', exportable(lambda x: x * np.nan))
  with pytest.raises(ValueError, match=r'safetensors: .* are not finite'):
    export.load(tmp_path / 'new')

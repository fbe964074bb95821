"""Exports: tensor names, bitwise round trips, errors.

After a deliberate change of names, rewrite the golden file:

  python tests/storage/test_export.py --write-golden
"""

import functools
import json
import math
import pathlib
import shutil
import subprocess
import sys

if __name__ == '__main__':
  sys.path.append(str(pathlib.Path(__file__).parents[1]))
  import conftest  # noqa: F401

import contract
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tiny_vocabularies
import toy
from messages import messages

import trax_hier
from trax_hier import cli, config, generation
from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.data import ByteVocab
from trax_hier.data.vocabularies.sentinel_vocab import SentinelVocab
from trax_hier.storage import export, runs
from trax_hier.storage.tensor_files import read_tensors, write_tensors
from trax_hier.storage.tensor_names import tensor_names
from trax_hier.training.state import n_parameters, token_shapes

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tensor_names.json'
GOLDEN_ROWS = 'hourglass', 'block-recurrent', 'terraformer'
WEIGHTS = export.WEIGHTS_FILE

each_row = pytest.mark.parametrize(
  'row',
  [
    pytest.param(
      name,
      marks=[pytest.mark.slow] * (name not in (*GOLDEN_ROWS, 'transformer')),
    )
    for name in contract.ROWS
  ],
)


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


@functools.cache
def shapes_of_row(row, mode='eval'):
  """The layer of a row and the shapes of its weights."""
  layer = contract.ROWS[row].model(mode=mode)
  return layer, toy.shapes(layer, toy.tokens(contract.LENGTH))[0]


def random_weights(shapes):
  """Random weights of many magnitudes."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: np.float32(
      rng.normal(size=s.shape) * 2.0 ** rng.integers(-99, 99)
    ),
    shapes,
  )


def named_arrays(layer, weights):
  """The arrays of a model by name."""
  leaves = jax.tree.leaves(weights)
  names = tensor_names(layer, weights)
  return {name: leaves[at.leaf][at.index] for name, at in names.items()}


def named_shapes(row):
  layer, shapes = shapes_of_row(row)
  zeros = jax.tree.map(lambda s: np.zeros(s.shape), shapes)
  arrays = named_arrays(layer, zeros)
  return {name: f'{[*x.shape]}' for name, x in arrays.items()}


# Names ------------------------------------------------------------------------


@pytest.mark.parametrize('row', GOLDEN_ROWS)
def test_names_match_the_golden_file(row):
  assert named_shapes(row) == json.loads(GOLDEN.read_text())[row]


@each_row
def test_weights_round_trip_bitwise(row, tmp_path):
  layer, shapes = shapes_of_row(row)
  weights = random_weights(shapes)
  file = tmp_path / WEIGHTS
  write_tensors(file, layer, weights)
  read = read_tensors(file, layer, shapes)
  assert jax.tree.structure(read) == jax.tree.structure(weights)
  for x, y in zip(jax.tree.leaves(read), jax.tree.leaves(weights), strict=True):
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, y)
  tensors = safetensors.numpy.load_file(file)
  total = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert sum(x.size for x in tensors.values()) == total
  assert all(name.islower() for name in tensors)


@pytest.mark.parametrize(
  'row',
  [
    'transformer',
    'block-recurrent',
    *[
      pytest.param(name, marks=pytest.mark.slow)
      for name in contract.ROWS
      if name not in ('transformer', 'block-recurrent')
    ],
  ],
)
def test_names_do_not_depend_on_the_mode(row):
  train, evaluate = (
    tensor_names(*shapes_of_row(row, m)) for m in ('train', 'eval')
  )
  assert train == evaluate


def names_of(*layers, d=8):
  layer = tl.Serial(*layers)
  shapes, _ = toy.shapes(layer, np.zeros((1, 4, d), np.float32))
  return tensor_names(layer, shapes), shapes


def block(**arguments):
  return hl.DecoderBlock(8, 16, 2, mode='eval', **arguments)


def test_names_of_alternating_blocks_are_those_of_single_ones():
  kinds = hl.SelfAttention, functools.partial(hl.SparseAttention, n_modules=4)
  plain, _ = names_of(*(block(attention=kind) for kind in (*kinds, *kinds)))
  for remat in (False, True):
    repeat = hl.Repeat(lambda: block(attention=kinds), 4, remat)
    repeated, _ = names_of(repeat)
    assert list(repeated) == list(plain)


def test_names_do_not_depend_on_how_blocks_are_run():
  plain, _ = names_of(block(), block(), block(), tl.LayerNorm())
  assert 'blocks.2.attention.query.weights' in plain
  assert 'layer_norm.scale' in plain
  for layers in (
    [hl.Repeat(block, 3)],
    [hl.Repeat(block, 3, remat=True)],
    [hl.Repeat(block, 1), block(), hl.Repeat(block, 1)],
    [hl.Repeat(block, 2), hl.Remat(block())],
  ):
    other, _ = names_of(*layers, tl.LayerNorm())
    assert list(other) == list(plain)


def test_nested_repeats():
  def outer():
    return tl.Serial(hl.Repeat(block, 2), tl.LayerNorm())

  names, shapes = names_of(hl.Repeat(outer, 3))
  at = names['blocks.2.blocks.1.attention.query.weights']
  assert at.index == (2, 1)
  assert jax.tree.leaves(shapes)[at.leaf].shape == (3, 2, 8, 8)
  assert names['blocks.2.layer_norm.scale'].index == (2,)
  assert len(set(names.values())) == len(names) == 3 * (2 * 16 + 2)


def test_each_block_is_a_separate_tensor(tmp_path):
  layer, shapes = shapes_of_row('transformer')
  weights = random_weights(shapes)
  write_tensors(tmp_path / 'x', layer, weights)
  tensors = safetensors.numpy.load_file(tmp_path / 'x')
  stacked = [x for x in jax.tree.leaves(weights) if x.shape == (4, 16, 32)]
  for i in range(4):
    np.testing.assert_array_equal(
      tensors[f'blocks.{i}.feed_forward.dense_0.weights'], stacked[0][i]
    )


# Files ------------------------------------------------------------------------


@pytest.fixture(scope='module')
def exported(tiny_run, tmp_path_factory):
  """The tiny run as an export."""
  folder = tmp_path_factory.mktemp('export') / 'model'
  code = cli.main(['export', f'--run={tiny_run.folder}', f'--output={folder}'])
  config.clear()
  assert code == 0
  return folder


@pytest.fixture
def copy(exported, tmp_path):
  """A copy of the export that a test may damage."""
  return shutil.copytree(exported, tmp_path / 'model')


def test_an_export_needs_neither_run_nor_data(exported, tiny_run, tmp_path):
  text = tiny_run.folder.parent / 'text.txt'
  hidden = text.rename(tmp_path / 'hidden')
  try:
    loaded = trax_hier.load(exported)
  finally:
    hidden.rename(text)
  assert (loaded.step, loaded.unit, loaded.source_length) == (4, 'byte', None)
  assert isinstance(loaded.vocab, ByteVocab)
  jax.tree.map(
    np.testing.assert_array_equal, loaded.weights, tiny_run.result.weights
  )


def test_reprs_are_one_line(exported, tiny_run):
  loaded = trax_hier.load(exported)
  n = n_parameters(loaded.weights)
  assert repr(loaded) == (
    f'<Exported HourglassLM: {n:,} parameters, step 4, 256 ids, bytes, length '
    '32>'
  )
  assert repr(generation.prepare(loaded.model, loaded.weights)) == (
    f'<Prepared: {n:,} parameters, float32>'
  )
  for folder in exported, tiny_run.folder:
    text = repr(runs.open_run(folder))
    assert 'HourglassLM' in text and len(text) < 200 and '\n' not in text
  bits = tiny_run.result.evaluation['bits_per_byte']
  assert repr(tiny_run.result) == (
    f'<TrainResult step 4: {n:,} parameters, bits_per_byte {bits:.4f}>'
  )


def test_sampling(exported, monkeypatch):
  loaded = trax_hier.load(exported)
  asked = []

  def sample_text(*args, **kwargs):
    asked.append((args, kwargs))
    return 'text'

  monkeypatch.setattr(generation, 'sample_text', sample_text)
  assert loaded.sample('ab', 5, seed=3) == 'text'
  parts = loaded.model, loaded.weights, loaded.vocab
  assert asked == [((*parts, 'ab', 5), {'seed': 3})]


@pytest.mark.slow
def test_sampling_equals_that_of_the_run(exported, tiny_run):
  loaded = trax_hier.load(exported)
  expected = generation.sample_text(
    loaded.model, tiny_run.result.weights, ByteVocab(), 'ab', 5, seed=3
  )
  assert loaded.sample('ab', 5, seed=3) == expected


@pytest.mark.slow
def test_commands_accept_an_export_as_a_run(exported, tiny_run, capsys):
  outputs = []
  for folder in (tiny_run.folder, exported):
    generate = ['generate', f'--run={folder}', '--prompt=na', '--n_tokens=9']
    assert cli.main([*generate, '--seed=1']) == 0
    path = f"--config=TextFiles.path = '{tiny_run.folder.parent}/text.txt'"
    assert cli.main(['evaluate', f'--run={folder}', '--split=valid', path]) == 0
    generated, *evaluated = capsys.readouterr().out.split('run: ')
    outputs.append((generated, evaluated[0].split('\n', 1)[1]))
  assert outputs[0] == outputs[1]


def test_an_export_has_one_step_and_no_data(exported, capsys):
  arguments = ['generate', f'--run={exported}', '--step=2', '--prompt=']
  assert cli.main(arguments) == 2
  assert 'has only step 4' in capsys.readouterr().err
  elsewhere = "--config=TextFiles.path = 'elsewhere'"
  assert cli.main(['evaluate', f'--run={exported}', elsewhere]) == 2
  assert "TextFiles.path = 'elsewhere'" in capsys.readouterr().err
  run = runs.open_run(exported, ["TextFiles.path = 'elsewhere'"])
  assert (run.data.unit, run.data.vocab.size) == ('byte', 256)


def test_files_of_the_export(exported, tiny_run):
  assert {path.name for path in exported.iterdir()} == {
    'README.md',
    'config.gin',
    'config.json',
    'model.safetensors',
  }
  run_config = (tiny_run.folder / 'config.gin').read_text()
  assert (exported / 'config.gin').read_text() == run_config
  modes = {path.stat().st_mode & 0o777 for path in exported.iterdir()}
  assert len(modes) == 1
  card = (exported / 'README.md').read_text()
  lines = (tiny_run.folder / 'metrics.jsonl').read_text().splitlines()
  bits = json.loads(lines[-1])['bits_per_byte']
  for text in (
    '# HourglassLM',
    '| parameters | 6,864, float32 |',
    '| trained for | 4 steps |',
    'text.txt',
    '| held out (the whole split), at step 4 | |',
    f'| bits per byte | {bits:.4f} |',
    "trax_hier.load('.')",
    "HourglassLM.hierarchy = '1@3'",
  ):
    assert text in card


@pytest.mark.slow
def test_bfloat16_and_an_older_step(exported, tiny_run, tmp_path, capsys):
  folder = tmp_path / 'half'
  flags = [f'--run={tiny_run.folder}', f'--output={folder}', '--dtype=bfloat16']
  binding = 'HourglassLM.max_len = 64'
  assert cli.main(['export', *flags, '--step=2', f'--config={binding}']) == 0
  assert (
    capsys.readouterr().out
    == f'{folder}: 6,864 parameters of step 2, bfloat16\n'
  )
  tensors = safetensors.numpy.load_file(folder / WEIGHTS)
  whole = safetensors.numpy.load_file(exported / WEIGHTS)
  assert tensors.keys() == whole.keys()
  assert {x.dtype for x in tensors.values()} == {np.dtype(ml_dtypes.bfloat16)}
  loaded = trax_hier.load(folder)
  assert loaded.step == 2
  for x in jax.tree.leaves(loaded.weights):
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, x.astype(jnp.bfloat16))
  assert config.value('HourglassLM.max_len') == 64
  card = (folder / 'README.md').read_text()
  first, _ = (tiny_run.folder / 'metrics.jsonl').read_text().splitlines()
  for text in (
    '| held out (the whole split), at step 2 | |',
    f'| bits per byte | {json.loads(first)["bits_per_byte"]:.4f} |',
    binding,
  ):
    assert text in card


def test_loading_clears_earlier_bindings(exported):
  config.parse(bindings=['HourglassLM.positions = @RotaryPositions'])
  trax_hier.load(exported)
  assert not [b for b in config.resolved() if b.parameter == 'positions']


def test_bindings_override_config_on_loading(exported):
  export.load(str(exported), ['HourglassLM.max_len = 32'])
  assert config.value('HourglassLM.max_len') == 32


# Other models -----------------------------------------------------------------

CONFIG = """
train.model = @ScalingTransformer
ScalingTransformer.vocab_size = {size}
ScalingTransformer.d_model = 8
ScalingTransformer.d_ff = 8
ScalingTransformer.n_heads = 2
ScalingTransformer.n_encoder_layers = 1
ScalingTransformer.n_decoder_layers = 1
ScalingTransformer.attention = @SelfAttention
ScalingTransformer.feed_forward = @FeedForward
"""


@functools.cache
def ones(size):
  """Weights of the model bound to `train.model`."""
  layer = config.value('train.model')(mode='eval')
  batch = token_shapes((1, 5))['inputs'], token_shapes((1, 4))['inputs']
  shapes, _ = toy.shapes(layer, batch)
  return jax.tree.map(lambda s: np.ones(s.shape, np.float32), shapes)


def encoder_decoder(vocab, size):
  """An encoder-decoder model to export, its weights all ones."""
  text = CONFIG.format(size=size)
  config.clear()
  config.parse(bindings=[text])
  return export.ExportableModel(
    model=config.value('train.model'),
    weights=ones(size),
    vocab=vocab,
    config_text=text,
    length=4,
    source_length=5,
  )


@pytest.mark.slow
def test_sources_and_sentinels(tmp_path):
  exportable = encoder_decoder(SentinelVocab(ByteVocab(), 260), 260)
  export.save(tmp_path / 'model', exportable)
  loaded = trax_hier.load(tmp_path / 'model')
  assert (loaded.step, loaded.source_length) == (None, 5)
  assert loaded.vocab.size == 260
  ids = loaded.vocab.encode('a<1>')
  np.testing.assert_array_equal(ids, [97, 258])
  card = (tmp_path / 'model' / 'README.md').read_text()
  assert '| trained for | unknown |' in card and 'held out' not in card


@pytest.mark.parametrize('kind', ['t5', 'byte_level', 'tiktoken'])
def test_the_files_of_a_vocabulary_are_exported(tmp_path, kind):
  vocab = tiny_vocabularies.make(kind, tmp_path)
  if kind == 'tiktoken':
    vocab = SentinelVocab(vocab, vocab.size + 2)
  folder = tmp_path / 'model'
  export.save(folder, encoder_decoder(vocab, vocab.size))
  loaded = trax_hier.load(folder)
  assert loaded.vocab.size == vocab.size
  text = 'the mat'
  np.testing.assert_array_equal(loaded.vocab.encode(text), vocab.encode(text))
  assert loaded.vocab.decode(loaded.vocab.encode(text)) == text
  files = {path.name for path in folder.iterdir()} - {
    export.CARD_FILE,
    export.CONFIG_FILE,
    export.FACTS_FILE,
    export.WEIGHTS_FILE,
  }
  expected = {
    't5': {'vocab.model'},
    'byte_level': {'tokenizer.json'},
    'tiktoken': {'vocab.tiktoken', 'vocab.pattern'},
  }
  assert files == expected[kind]
  # A file that is damaged or missing is named.
  name = min(files)
  content = (folder / name).read_bytes()
  (folder / name).write_bytes(content[:-1])
  with pytest.raises(ValueError, match=name):
    trax_hier.load(folder)
  (folder / name).unlink()
  with pytest.raises(ValueError, match=f'{name}.*: no such file'):
    trax_hier.load(folder)


def test_an_unknown_vocabulary_is_rejected(tmp_path):
  exportable = encoder_decoder(object(), 260)
  with pytest.raises(ValueError, match='object, cannot be exported'):
    export.save(tmp_path / 'model', exportable)
  assert not list(tmp_path.iterdir())


# Errors -----------------------------------------------------------------------


def test_existing_files_are_not_replaced(
  exported, tiny_run, tmp_path, capsys, monkeypatch
):
  # The check precedes reading the data, which may take long.
  monkeypatch.setattr('trax_hier.storage.runs.open_run', pytest.fail)
  (tmp_path / 'file').write_text('')
  for output, message in (
    (exported, 'the folder is not empty'),
    (tmp_path / 'file', 'a file has this name'),
  ):
    flags = [f'--run={tiny_run.folder}', f'--output={output}']
    assert cli.main(['export', *flags]) == 2
    assert messages(capsys.readouterr().err).startswith(
      f'trax-hier export: {output}: {message}'
    )


def test_a_failure_leaves_no_files(tmp_path, monkeypatch):
  exportable = encoder_decoder(ByteVocab(), 256)
  (tmp_path / 'empty').mkdir()

  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(export, 'write_tensors', stop)
    with pytest.raises(KeyboardInterrupt):
      export.save(tmp_path / 'empty', exportable)
  assert [*tmp_path.rglob('*')] == [tmp_path / 'empty']
  export.save(tmp_path / 'empty', exportable)
  assert [*tmp_path.iterdir()] == [tmp_path / 'empty']
  assert (tmp_path / 'empty' / WEIGHTS).exists()


def test_files_written_in_the_meantime_are_kept(tmp_path, monkeypatch):
  exportable = encoder_decoder(ByteVocab(), 256)

  def intrude(*_):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / 'mine').write_text('')

  monkeypatch.setattr(export, 'write_tensors', intrude)
  with pytest.raises(OSError):
    export.save(tmp_path / 'model', exportable)
  assert [p.name for p in tmp_path.rglob('*')] == ['model', 'mine']


def test_weights_of_another_model_are_rejected(tmp_path):
  exportable = encoder_decoder(ByteVocab(), 256)
  config.parse(bindings=['ScalingTransformer.d_model = 4'])
  with pytest.raises(ValueError, match='weights do not fit the model'):
    export.save(tmp_path / 'model', exportable)


def test_an_unknown_dtype_is_rejected(tmp_path):
  exportable = encoder_decoder(ByteVocab(), 256)
  with pytest.raises(ValueError, match=r"'float16' must be one of float32, b"):
    export.save(tmp_path / 'model', exportable, 'float16')


def edit_tensors(change):
  def edit(folder):
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)

  return edit


def edit_facts(**facts):
  """Edits config.json, and its digests with it, as its author can."""

  def edit(folder):
    file = folder / export.FACTS_FILE
    old = json.loads(file.read_text())
    kept = {k: v for k, v in (old | facts).items() if v != 'gone'}
    del kept['digests']
    file.write_text(json.dumps(kept))

  return edit


BIAS = 'logits.dense.bias'


@pytest.mark.parametrize(
  'edit, message',
  [
    (edit_tensors(lambda t: t.pop(BIAS)), f'lacks the tensor {BIAS}; 1 names'),
    (
      edit_tensors(lambda t: t.update(more=t[BIAS])),
      'has an unexpected tensor more; 1 names',
    ),
    (
      edit_tensors(lambda t: t.update({BIAS: t[BIAS][1:]})),
      rf'{BIAS} has shape \[255\], but \[256\] in the model of config.gin',
    ),
    (
      edit_tensors(lambda t: t.update({BIAS: t[BIAS].astype(np.int32)})),
      f'{BIAS} has type I32, not F32 or BF16',
    ),
    (
      lambda folder: (folder / WEIGHTS).write_bytes(b'not safetensors'),
      'model.safetensors: damaged: its header has 7,306,634,592,548,843,374',
    ),
    (
      lambda folder: (folder / WEIGHTS).write_bytes(
        (folder / WEIGHTS).read_bytes()[:-1]
      ),
      'model.safetensors: cannot be read',
    ),
    (lambda folder: (folder / WEIGHTS).unlink(), 'it has no model.safetensors'),
    (lambda folder: (folder / 'config.json').unlink(), 'has no config.json'),
    (
      lambda folder: (folder / 'config.json').write_text('[1]'),
      'config.json: not the config.json of an export',
    ),
    (
      edit_facts(format=2),
      'has format 2; this version of trax_hier reads',
    ),
    (edit_facts(length='gone'), "config.json: has no 'length'"),
    (edit_facts(vocab={'kind': 'x'}), "unknown vocab = {'kind': 'x'}"),
    (
      edit_facts(vocab={'kind': 'ids', 'size_with_sentinels': None, 'size': 0}),
      "unknown vocab = {'kind': 'ids'",
    ),
    (shutil.rmtree, 'no such folder'),
  ],
)
def test_invalid_exports_give_one_message(copy, edit, message):
  edit(copy)
  with pytest.raises(ValueError, match=message) as e:
    trax_hier.load(copy)
  assert len(str(e.value).splitlines()) == 1


def test_importing_the_package_imports_nothing_heavy():
  code = """
import sys, trax_hier
assert not {'jax', 'trax', 'numpy', 'gin'} & sys.modules.keys()
assert trax_hier.load is trax_hier.storage.export.load
assert not {'tensorflow', 'matplotlib'} & sys.modules.keys()
"""
  subprocess.run([sys.executable, '-c', code], check=True)
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    _ = trax_hier.lod


def test_dir_lists_the_lazy_names():
  code = """
import sys, trax_hier
names = dir(trax_hier)
assert not {'jax', 'trax', 'gin'} & sys.modules.keys()
assert set(trax_hier.__all__) <= set(names)
for name in trax_hier.__all__:
  getattr(trax_hier, name)
"""
  subprocess.run([sys.executable, '-c', code], check=True)


def write_golden():
  golden = {row: named_shapes(row) for row in GOLDEN_ROWS}
  GOLDEN.write_text(json.dumps(golden, indent=1) + '\n')


if __name__ == '__main__':
  if sys.argv[1:] != ['--write-golden']:
    sys.exit(__doc__)
  write_golden()

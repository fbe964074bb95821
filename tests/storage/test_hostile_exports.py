"""A folder of somebody else runs nothing, whatever its config.gin says."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import toy

from trax_hier import cli, config
from trax_hier.data import ByteVocab
from trax_hier.storage import export, runs

CONFIG = """
train.model = @TransformerLM
train.data = @Synthetic()
TransformerLM.vocab_size = 256
TransformerLM.d_model = 8
TransformerLM.d_ff = 8
TransformerLM.n_heads = 2
TransformerLM.n_layers = 1
Synthetic.task = 'copy'
Synthetic.batch_size = 2
Synthetic.length = 8
train.compute_dtype = 'float32'
trax.fastmath.ops.backend.name = 'jax'
"""


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """An export of a tiny model of random weights."""
  folder = tmp_path_factory.mktemp('export') / 'model'
  config.clear()
  config.parse(bindings=[CONFIG])
  model = config.value('train.model')
  batch = toy.shapes(model(mode='eval'), export.batch_shapes(8, None)['inputs'])
  weights = toy.random_like(batch[0])
  exportable = export.ExportableModel(model, weights, ByteVocab(), CONFIG, 8)
  export.save(folder, exportable)
  facts = json.loads((folder / 'config.json').read_bytes())
  del facts['digests']  # The author of an export can make them fit.
  (folder / 'config.json').write_text(json.dumps(facts), encoding='utf-8')
  config.clear()
  return folder


@pytest.fixture
def model(saved, tmp_path, monkeypatch):
  """A copy in the current folder, with a module that leaves a file."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])
  shutil.copytree(saved, 'model')
  Path('model/evil.py').write_text("open('PWNED', 'w')\n", encoding='utf-8')
  yield Path('model')
  config.clear()
  sys.modules.pop('model.evil', None)
  sys.modules.pop('model', None)


def add(folder, text):
  file = folder / 'config.gin'
  file.write_text(f'{CONFIG}{text}\n', encoding='utf-8')


def open_all(folder, *bindings):
  """Does all that the commands do with a run before they compute."""
  run = runs.open_run(folder, bindings)
  run.model(mode='eval')
  run.load_weights()
  run.data.describe()


HOSTILE = [
  'import model.evil',
  'from model import evil',
  'import model.evil as trax_hier',
  'import trax_hier.cli_of_others',
  'import trax_hier.no_such_module',
  'import antigravity',
  "include 'quickstart.gin'",
  "include '/etc/passwd'",
  'train.data = @evil/train()',
  'DATA = @evil/train()\ntrain.data = %DATA',
  'A = %B\nB = [@train]\ntrain.mesh = %A',
  "train.mesh = {'x': [@trax_hier.training.train()]}",
  'train.model = @train',
  'train.model = @Adam',
  'TransformerLM.n_heads = @train()',
  'TransformerLM.dropout = @multifactor()',
  'TransformerLM.positions = @Synthetic',
  'N = @Synthetic()\nTransformerLM.d_ff = %N',
  'evil/TransformerLM.d_ff = @Subwords()',
  'train.data = @gin.singleton()',
  'gin.singleton.constructor = @train',
  'gin.macro.value = @train()',
  'X/gin.macro.value = @train()',
  'train.data = @DecoderBlock()',
  "train.data = @TextFiles()\nTextFiles.path = '/etc/passwd'",
  "P = '/etc/passwd'\nD = @TextFiles()\ntrain.data = %D\nTextFiles.path = %P",
  "train.data = @TextFiles()\nx/TextFiles.path = '/etc/passwd'",
  'train.data = @TextFiles()\nTextFiles.vocab = @Subwords()\n'
  "Subwords.output = 'PWNED'\nSubwords.text = '/etc/passwd'",
]


@pytest.mark.parametrize('text', HOSTILE)
def test_nothing_is_executed(model, text):
  add(model, text)
  with pytest.raises(config.ConfigError) as e:
    open_all(model)
  assert str(e.value).startswith('model/config.gin:')
  assert any(s in str(e.value) for s in ('of others', 'no configurable'))
  assert len(str(e.value).splitlines()) == 1
  assert os.listdir() == ['model']


@pytest.mark.parametrize('text', HOSTILE[:24])
def test_nor_by_a_folder_without_weights(model, text):
  """A run opens the data that it names; all other limits hold for it too."""
  (model / 'model.safetensors').unlink()
  add(model, text)
  with pytest.raises(config.ConfigError, match=r'of others|no configurable'):
    open_all(model)
  assert os.listdir() == ['model']


def test_a_run_trains_no_vocabulary(model):
  (model / 'model.safetensors').unlink()
  add(model, HOSTILE[-1])
  with pytest.raises(ValueError, match=r'config\.gin:\d+: .* is missing'):
    open_all(model)
  assert os.listdir() == ['model']


@pytest.mark.parametrize('text', HOSTILE[-4:])
def test_describe_opens_no_files_of_an_export(model, capsys, text):
  add(model, text)
  assert cli.main(['describe', '--run=model']) == 2
  assert 'does not choose files to read' in capsys.readouterr().err
  assert os.listdir() == ['model']


def test_the_user_may_give_the_paths(model):
  Path('text.txt').write_text('abc ' * 100, encoding='utf-8')
  add(
    model,
    "P = 'x'\ntrain.data = @TextFiles()\nTextFiles.path = %P\n"
    'TextFiles.vocab = None\nTextFiles.batch_size = 1\nTextFiles.length = 8',
  )
  open_all(model, "P = 'text.txt'")


def test_bindings_of_train_are_read_but_not_bound(model):
  add(model, "train.output_dir = 'PWNED'\ntrain.steps = 3\nimport trax_hier")
  open_all(model)
  assert config.value('train.steps') == 3
  assert "'train'" not in config.fingerprint().replace('.train', "'train")


@pytest.mark.parametrize(
  'value',
  ['None', '3', "'x'", '{}', '[@Synthetic()]', '@Synthetic'],
)
def test_data_of_a_wrong_type(model, value):
  add(model, f'train.data = {value}')
  with pytest.raises(ValueError, match=r'train\.data must be a data set'):
    open_all(model)


def test_no_data(model):
  text = CONFIG.replace('train.data = @Synthetic()', '')
  (model / 'config.gin').write_text(text, encoding='utf-8')
  with pytest.raises(config.ConfigError, match=r'train\.data must be given'):
    open_all(model)


def test_trust_code_lets_all_in_with_a_warning(model, capsys):
  add(model, 'import model.evil')
  command = ['generate', '--run=model', '--prompt=a', '--n_tokens=0']
  assert cli.main(command) == 2
  assert '--trust_code' in capsys.readouterr().err
  assert not Path('PWNED').exists()
  cli.main([*command, '--trust_code'])
  assert capsys.readouterr().err.startswith('--trust_code: ')
  assert Path('PWNED').exists()


def test_a_file_beside_the_model_is_no_optional_package(model, monkeypatch):
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p != os.getcwd()])
  cli.main(['generate', '--run=model', '--prompt=a', '--n_tokens=0'])
  assert os.getcwd() not in sys.path


def replace(name, content):
  def edit(folder):
    (folder / name).unlink()
    (folder / name).write_bytes(content)

  return edit


def fifo(name):
  def edit(folder):
    (folder / name).unlink()
    os.mkfifo(folder / name)

  return edit


def link(name, target):
  def edit(folder):
    (folder / name).unlink()
    (folder / name).symlink_to(target)

  return edit


def fact(**facts):
  def edit(folder):
    file = folder / 'config.json'
    old = json.loads(file.read_bytes())
    file.write_text(json.dumps(old | facts), encoding='utf-8')

  return edit


def sparse(name):
  """A file of a terabyte, which takes no space."""

  def edit(folder):
    (folder / name).touch()
    os.truncate(folder / name, 2**40)

  return edit


def both(first, second):
  def edit(folder):
    first(folder)
    second(folder)

  return edit


def nested(depth):
  value = 1
  for _ in range(depth):
    value = [value]
  return value


def metadata(text):
  """Replaces the digests in the metadata of the weights."""

  def edit(folder):
    file = folder / 'model.safetensors'
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:end]) | {'__metadata__': {'crc32': text}}
    new = json.dumps(header).encode()
    file.write_bytes(len(new).to_bytes(8, 'little') + new + content[end:])

  return edit


# Ten lines define a billion of items.
LAUGHS = 'A0 = 1\n' + ''.join(
  f'A{i} = [{", ".join(10 * [f"%A{i - 1}"])}]\n' for i in range(1, 10)
)
HUGE_HEADER = (2**62).to_bytes(8, 'little') + b'{}'


@pytest.mark.parametrize(
  'edit',
  [
    replace('config.json', b'[' * 10**5),
    replace('config.json', b'{"format": ' + b'9' * 10**4 + b'}'),
    replace('config.json', b' ' * 2**21),
    replace('config.json', b'\xff\xfe'),
    replace('config.gin', b'# ' + b'x' * 2**21),
    replace('config.gin', CONFIG.encode() + b'X = ' + b'[' * 10**4),
    replace(
      'config.gin', CONFIG.encode() + b'TransformerLM.d_model = 10000000'
    ),
    replace('config.gin', f'{CONFIG}TransformerLM.n_layers = 10001'.encode()),
    replace('config.gin', f'{CONFIG}TransformerLM.d_model = {2**30}'.encode()),
    replace('config.gin', f'{CONFIG}{LAUGHS}train.mesh = %A9'.encode()),
    replace('config.gin', CONFIG.encode() + b'A = 1\n' * 2**16),
    replace('model.safetensors', (2**26).to_bytes(8, 'little') + b' ' * 2**26),
    metadata('[' * 10**5),
    metadata('{"blocks.0": ' * 10**5),
    metadata('[1]'),
    both(sparse('vocab.model'), fact(digests={'vocab.model': 1})),
    both(sparse('x'), fact(digests={'x': 1})),
    fact(x=nested(900)),
    fact(length=nested(900)),
    fact(digests={'config.json': nested(900)}),
    replace('model.safetensors', HUGE_HEADER),
    replace('model.safetensors', b''),
    fifo('config.json'),
    fifo('config.gin'),
    fifo('model.safetensors'),
    link('model.safetensors', '/dev/zero'),
    link('config.json', '/dev/zero'),
    fact(length=2**70),
    fact(length=-1),
    fact(length='8'),
    fact(length=True),
    fact(source_length=[1]),
    fact(step='1'),
    fact(digests=[1]),
    fact(digests={'config.gin': 3}),
    fact(digests={'../../etc/passwd': '0'}),
    fact(unit=['byte']),
    fact(unit='../x'),
    fact(vocab=None),
    fact(vocab={'kind': 'bytes', 'size_with_sentinels': -3}),
    fact(vocab={'kind': 'bytes', 'size_with_sentinels': 10**30}),
    fact(vocab={'kind': 'sentencepiece', 'size_with_sentinels': None}),
  ],
)
def test_files_that_ask_for_memory_or_time(model, edit):
  edit(model)
  with pytest.raises(ValueError) as e:
    export.load(model)
  text = config.explain(e.value)
  assert len(text) < 600 and len(text.splitlines()) == 1


def test_compare_reads_no_gin_without_end(model, capsys):
  line = '{"kind": "valid", "step": 1, "bits_per_byte": 2}\n'
  (model / 'metrics.jsonl').write_text(line, encoding='utf-8')
  shutil.copytree(model, 'other')
  for text in (
    f'{LAUGHS}train.mesh = %A9',
    'A = %A\ntrain.mesh = %A',
    '#' * 2**18,
  ):
    add(model, text)
    assert cli.main(['compare', 'model', 'other']) == 2
    err = capsys.readouterr().err
    assert 'model/config.gin' in err and len(err.splitlines()) == 1


def test_links_to_files_are_followed(model):
  """The cache of a hub consists of links."""
  shutil.move(model / 'model.safetensors', 'blob')
  (model / 'model.safetensors').symlink_to('../blob')
  export.load(model)

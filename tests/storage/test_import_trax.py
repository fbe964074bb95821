"""Files of Trax's weights, unsafe pickles, and errors of the import."""

import collections
import copyreg
import functools
import gzip
import itertools
import os
import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import toy
from messages import messages
from numpy.f2py.crackfortran import myeval

import trax_hier
from trax_hier import cli, config
from trax_hier.compat import ShapeDtype, base
from trax_hier.storage import trax_files, trax_unpickler
from trax_hier.storage.trax_files import UnsafeFileError, read_trax_weights

LENGTH = 24


def logits(model, weights, x):
  _, state = toy.shapes(model, x)
  state = toy.zeros_like(state)
  return jax.jit(lambda w: model.pure_fn(x, w, state, toy.KEY)[0])(weights)


CONFIG = """
train.model = @HourglassLM
HourglassLM.vocab_size = 256
HourglassLM.d_model = 8
HourglassLM.d_ff = 8
HourglassLM.n_heads = 2
HourglassLM.vanilla_layers = (0, 1)
HourglassLM.hierarchy = '1@2'
HourglassLM.shorten = @AverageShorten
HourglassLM.upsample = @LinearUpsample
"""


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


@functools.cache
def saved_model():
  """Trax's model of this configuration, its weights and its state."""
  from trax.layers.research import resampling
  from trax.models.research import hourglass

  model = hourglass.HourglassLM(
    vocab_size=256,
    d_model=8,
    d_ff=8,
    n_heads=2,
    vanilla_layers=(0, 1),
    hierarchy='1@2',
    downsampling_fn=resampling.AveragePooling,
    upsampling_fn=resampling.LinearUpsampling,
    mode='eval',
  )
  shapes, state = toy.shapes(model, toy.tokens(LENGTH))
  return model, toy.random_like(shapes, scale=0.2), toy.zeros_like(state)


@pytest.fixture
def files(tmp_path):
  """A folder with the gin file and a file that Trax's model saved."""
  (tmp_path / 'model.gin').write_text(CONFIG)
  model, model.weights, model.state = saved_model()
  model.save_to_file(
    str(tmp_path / 'model.pkl.gz'),
    input_signature=toy.signature(toy.tokens(LENGTH)),
  )
  return tmp_path


@pytest.fixture
def run(files, capsys):
  """Runs the command; returns the exit code and the output."""

  def run(*flags, weights='model.pkl.gz'):
    code = cli.main(
      [
        'import_trax',
        f'--weights={files / weights}',
        f'--config_file={files / "model.gin"}',
        f'--output={files / "out"}',
        *flags,
      ]
    )
    output = capsys.readouterr()
    assert not (code and output.out)
    return code, messages(output.err) if code else output.out

  return run


def leaves():
  return [np.asarray(x) for x in jax.tree.leaves(saved_model()[1])]


def write(file, content, protocol=pickle.HIGHEST_PROTOCOL):
  file.write_bytes(gzip.compress(pickle.dumps(content, protocol)))


def test_an_imported_file_gives_the_same_logits(files, run):
  code, output = run()
  n = sum(x.size for x in leaves())
  assert (code, output) == (0, f'{files / "out"}: {n:,} parameters\n')
  loaded = trax_hier.load(files / 'out')
  assert loaded.unit == 'byte' and loaded.step is None
  x = toy.tokens(LENGTH)
  np.testing.assert_allclose(
    logits(loaded.model(mode='eval'), loaded.weights, x),
    logits(*saved_model()[:2], x),
    0,
    1e-5,
  )


def test_our_models_that_trax_has_trained_are_read(files, run):
  config.parse([str(files / 'model.gin')])
  model = config.value('train.model')(mode='eval')
  shapes, state = toy.shapes(model, toy.tokens(LENGTH))
  model.weights, model.state = toy.random_like(shapes), toy.zeros_like(state)
  model.save_to_file(
    str(files / 'ours.pkl.gz'),
    input_signature=toy.signature(toy.tokens(LENGTH)),
  )
  assert run(weights='ours.pkl.gz')[0] == 0
  loaded = trax_hier.load(files / 'out').weights
  for x, y in zip(*map(jax.tree.leaves, (loaded, model.weights)), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
  'flags, unit',
  [
    (['--unit=dim'], 'dim'),
    (['--config=train.data = @ImageBytes()'], 'dim'),
    (['--config=train.data = @TextFiles()'], 'byte'),
    (['--unit=token', '--config=train.data = @ImageBytes()'], 'token'),
  ],
)
def test_units(files, run, flags, unit):
  assert run(*flags)[0] == 0
  assert trax_hier.load(files / 'out').unit == unit


def assert_imported(file):
  found = read_trax_weights(file)
  for x, y in zip(found, leaves(), strict=True):
    assert x.dtype == np.float32 and x.flags.writeable
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('protocol', [3, 4, 5])
@pytest.mark.parametrize(
  'convert', [np.asarray, np.asfortranarray, jnp.asarray]
)
def test_kinds_of_arrays_are_read(tmp_path, protocol, convert):
  beside = dict(
    flat_state=[np.float32(3), np.array(['text'], object), None],
    input_signature=ShapeDtype((2, 3), np.int32),
    history={'metrics': [(1, np.float64(2.0))]},
  )
  content = {'flat_weights': [convert(x) for x in leaves()], **beside}
  write(tmp_path / 'model.pkl.gz', content, protocol)
  assert_imported(tmp_path / 'model.pkl.gz')


def test_module_names_of_older_numpy_and_jax_are_read(tmp_path):
  content = pickle.dumps(
    {'flat_weights': [jnp.asarray(x) for x in leaves()]}, 3
  )
  for new, old in (
    (b'numpy._core.multiarray', b'numpy.core.multiarray'),
    (
      b'jax._src.array\n_reconstruct_array',
      b'jax._src.device_array\nreconstruct_device_array',
    ),
  ):
    assert new in content
    content = content.replace(new, old)
  (tmp_path / 'model.pkl.gz').write_bytes(gzip.compress(content))
  assert_imported(tmp_path / 'model.pkl.gz')


@pytest.mark.parametrize('name', ['model.weights.npy.gz', 'model.pkl.gz.npy'])
def test_checkpoints_of_two_files_are_read(tmp_path, name):
  write(tmp_path / 'model.pkl.gz', {'flat_weights': 2, 'step': 7})
  base.np_to_file(leaves(), str(tmp_path / name), compresslevel=2)
  assert_imported(tmp_path / 'model.pkl.gz')


def test_the_second_file_alone_is_read(tmp_path):
  file = tmp_path / 'model.weights.npy.gz'
  base.np_to_file(leaves(), str(file), compresslevel=0)
  assert_imported(file)
  content = gzip.decompress(file.read_bytes())
  file.write_bytes(gzip.compress(content[:-8]))
  with pytest.raises(ValueError, match='not a weight file of Trax'):
    read_trax_weights(file)


def test_the_second_file_is_not_unpickled(tmp_path):
  mark, file = tmp_path / 'mark', tmp_path / 'model.weights.npy.gz'
  with gzip.open(file, 'wb') as f:
    np.save(f, np.array([Call(os.system, f'touch {mark}')], object))
  with pytest.raises(ValueError, match='Object arrays cannot be loaded'):
    read_trax_weights(file)
  assert not mark.exists()


def test_bfloat16_is_stored_as_uint16(tmp_path):
  bits = np.array([1.5, -2.0], ml_dtypes.bfloat16).view(np.uint16)
  write(tmp_path / 'model.pkl.gz', {'flat_weights': [bits]})
  (found,) = read_trax_weights(tmp_path / 'model.pkl.gz')
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, [1.5, -2.0])


class Call:
  """An object whose pickle is a call of a function."""

  def __init__(self, function, *arguments):
    self._call = function, arguments

  def __reduce__(self):
    return self._call


def attacks(mark):
  """Pickles that would write the file `mark` or read a file, if executed."""
  shell = Call(os.system, f'touch {mark}')
  script = f'open({str(mark)!r}, "w")'
  reconstruct, (_, shape, kind), state = np.zeros(1).__reduce__()
  return {
    'posix.system': shell,
    'builtins.eval': Call(eval, script),
    'builtins.exec': {'flat_weights': [Call(exec, script)]},
    'builtins.getattr': {'flat_weights': [Call(getattr, 'a', 'b')]},
    'numpy.load': Call(np.load, str(mark)),
    'numpy.fromfile': Call(np.fromfile, str(mark)),
    'numpy.f2py.crackfortran.myeval': Call(myeval, script),
    'numpy.fromstring': [Call(np.fromstring, '1')],
    'builtins.dict': Call(reconstruct, dict, shape, kind),
    # A history holds collections.defaultdict(list).
    'posix.system    ': Call(collections.defaultdict, os.system),
    # Code inside an array of objects.
    'posix.system ': np.array([[shell]], object),
    'posix.system  ': Call(
      reconstruct, np.ndarray, shape, Call(os.system, f'touch {mark}')
    ),
    'posix.system   ': _with_state(reconstruct, shape, kind, (shell, *state)),
    'functools.partial': Call(functools.partial, os.system, f'touch {mark}'),
    'copyreg._reconstructor': Call(copyreg._reconstructor, dict, object, None),
  }


def _with_state(reconstruct, shape, kind, state):
  class Array:
    def __reduce__(self):
      return reconstruct, (np.ndarray, shape, kind), state

  return Array()


@pytest.mark.parametrize('protocol', [3, 5])
@pytest.mark.parametrize('name', attacks(''))
def test_attacks_are_rejected_and_not_executed(tmp_path, name, protocol):
  mark, file = tmp_path / 'mark', tmp_path / 'model.pkl.gz'
  content = attacks(mark)[name]
  write(file, content, protocol)
  with pytest.raises(UnsafeFileError, match=f'names {name.strip()}, which'):
    read_trax_weights(file)
  assert not mark.exists()


@pytest.mark.parametrize(
  'name', ['ndarray.tofile', 'dtype.__class__', 'dtype.__init__.__globals__']
)
def test_dotted_names_are_rejected(tmp_path, name):
  file = tmp_path / 'model.pkl.gz'
  file.write_bytes(opcodes(b'\x80\4', f'cnumpy\n{name}\n'.encode()))
  with pytest.raises(UnsafeFileError, match=f'names numpy.{name}, which'):
    read_trax_weights(file)


def opcodes(*parts):
  """A pickle written by hand."""
  return gzip.compress(b''.join(parts) + b'.')


def allowed():
  """A snapshot of the objects that a pickle may name, and of their state."""
  calls = [getattr(x, '_call', x) for x in trax_unpickler._KNOWN.values()]
  return list(trax_unpickler._KNOWN), calls, dict(vars(trax_unpickler._Ignored))


@pytest.mark.parametrize(
  'content',
  [
    # The stubs of NumPy's functions cannot be changed or called freely.
    opcodes(b'cnumpy.core.multiarray\n_reconstruct\n', b'}(X\1\0\0\0aK\1ub'),
    opcodes(
      b'cnumpy.core.multiarray\n_reconstruct\n',
      b'N}(X\5\0\0\0_callcnumpy\ndtype\nu\x86b',
    ),
    opcodes(b'ctrax.shapes\nShapeDtype\n', b'}(X\1\0\0\0aK\1ub'),
    opcodes(b'ccollections\ndefaultdict\n', b'}(X\1\0\0\0aK\1ub'),
    opcodes(b'cml_dtypes\nbfloat16\n', b'}(X\1\0\0\0aK\1ub'),
    opcodes(b'c__builtin__\nlist\n', b'}(X\1\0\0\0aK\1ub'),
    opcodes(b'ctrax.shapes\nShapeDtype\n', b'N}(X\7\0\0\0__new__K\1u\x86b'),
    opcodes(b'cjax._src.array\n_reconstruct_array\n', b'(K\1K\2K\3tR'),
    opcodes(b'cnumpy\ndtype\n', b'(K\1tRK\1b'),
    opcodes(b'X\1\0\0\0aQ'),
    opcodes(b'\x82\1'),
    opcodes(b'}'),
    opcodes(b'}X\x0c\0\0\0flat_weights', b'](K\1es'),
    opcodes(b'}X\x0c\0\0\0flat_weights', b'K\2s'),
    b'',
    b'no gzip',
    gzip.compress(b'no pickle'),
  ],
  # gzip stores the time, and test names must be equal in all processes.
  ids=itertools.count(),
)
def test_damaged_and_other_files_are_errors(tmp_path, content):
  before = allowed()
  file = tmp_path / 'model.pkl.gz'
  file.write_bytes(content)
  with pytest.raises(ValueError, match='not a weight file of Trax'):
    read_trax_weights(file)
  assert allowed() == before


@pytest.mark.parametrize(
  'kind',
  [np.dtype('O'), np.dtype('S4'), np.dtype('c8'), np.dtype([('a', 'i4')])],
)
def test_arrays_of_other_types_are_rejected(tmp_path, kind):
  write(tmp_path / 'x.pkl.gz', {'flat_weights': [np.zeros(2, kind)]})
  with pytest.raises(ValueError, match='an array of type'):
    read_trax_weights(tmp_path / 'x.pkl.gz')


def test_weights_not_finite_are_not_imported(files, run):
  model, weights, model.state = saved_model()
  model.weights = jax.tree.map(lambda x: x * np.nan, weights)
  model.save_to_file(
    str(files / 'nan.pkl.gz'),
    input_signature=toy.signature(toy.tokens(LENGTH)),
  )
  code, err = run(weights='nan.pkl.gz')
  assert code == 2
  assert 'cannot be saved as float32' in err and 'are not finite' in err


def test_errors_are_one_message(files, run):
  whole = (files / 'model.pkl.gz').read_bytes()
  (files / 'half.pkl.gz').write_bytes(whole[: len(whole) // 2])
  write(files / 'bad.pkl.gz', Call(os.system, 'exit'))
  widths = '--config=HourglassLM.d_ff = 16'
  for flags, weights, message in (
    ([], 'none.pkl.gz', 'none.pkl.gz: no such file'),
    ([], 'half.pkl.gz', 'half.pkl.gz: damaged, or not a weight file of Trax'),
    ([], 'bad.pkl.gz', 'names posix.system, which weights do not need'),
    (
      [widths],
      'model.pkl.gz',
      'number 20 of the file has shape (8, 8), but '
      'shortened.blocks.0.feed_forward.dense_0.weights of train.model has (8, '
      '16); it fits with HourglassLM.d_ff = 8',
    ),
    (
      ['--config=train.model = @RetinaLM\nRetinaLM.vocab_size = 256'],
      'model.pkl.gz',
      'the weights are not of train.model = @RetinaLM; weights of Trax',
    ),
    (
      ['--config=HourglassLM.vocab_size = 300'],
      'model.pkl.gz',
      'it fits with HourglassLM.vocab_size = 256',
    ),
    (['--vocab=none.model'], 'model.pkl.gz', 'vocab = '),
    (['--config=HourglassLM.d_fff = 1'], 'model.pkl.gz', "parameter 'd_fff'"),
  ):
    code, output = run(*flags, weights=weights)
    assert (code, len(output.splitlines())) == (2, 1)
    assert output.startswith('trax-hier import_trax: ') and message in output
    assert not (files / 'out').exists()


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000000,)}"


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('x.npy.gz', b'PK\3\4' * 9, 'magic string'),  # A renamed .npz.
    ('x.npy.gz', b'\x93NUMPY\1\0v\0' + HUGE.ljust(117) + b'\n', 'memory'),
    (
      'x.pkl.gz',
      b'\x80\4C\1a0' + b'\x8e' + (2**27).to_bytes(8, 'little'),
      'damaged',
    ),
    # A key that takes 2^60 steps to hash.
    ('x.pkl.gz', b'\x80\4}(K\1' + b'2\x86' * 60 + b'K\1u.', '2 seconds'),
    ('x.pkl.gz', b'\x80\4}r\xff\xff\xff\xf0.', 'memory'),
    ('x.pkl.gz', b'\x80\4](' + b'\0' * (70 << 20), 'damaged'),
  ],
)
def test_files_that_ask_for_memory_or_time(
  tmp_path, monkeypatch, name, content, message
):
  monkeypatch.setattr(trax_files, '_SECONDS', 2)
  (tmp_path / name).write_bytes(gzip.compress(content, 1))
  with pytest.raises(ValueError, match=message):
    read_trax_weights(tmp_path / name)


def test_an_array_may_not_be_listed_without_end(tmp_path):
  content = pickle.dumps({'flat_weights': [np.ones(10**6, np.float32)] * 99})
  (tmp_path / 'x.pkl.gz').write_bytes(gzip.compress(content))
  with pytest.raises(ValueError, match='larger than the file allows'):
    read_trax_weights(tmp_path / 'x.pkl.gz')


def test_a_bomb_is_not_unpacked(tmp_path):
  content = b'\x80\4B' + (2**28).to_bytes(4, 'little') + bytes(2**28) + b'.'
  (tmp_path / 'x.pkl.gz').write_bytes(gzip.compress(content, 1))
  with pytest.raises(ValueError, match='than its size allows'):
    read_trax_weights(tmp_path / 'x.pkl.gz')

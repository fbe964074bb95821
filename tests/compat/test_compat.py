"""The compatibility layer: quick import, stubs and patches, only for trax."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# CPU seconds of the child process, which do not depend on the load of the
# machine.
MAX_IMPORT_SECONDS = 4.0

# Makes TensorFlow and related packages fail to import, as if not installed.
BLOCK = """
import sys
for name in ('tensorflow', 'tensorflow_datasets', 'tensorflow_text', 'gym'):
  sys.modules[name] = None
"""


def run(code, without=None, n_devices=1, timeout=300):
  """Runs `code` in a new Python, with all patches or all except one."""
  if without:
    # Importing the package installs the patches, so an empty module replaces it
    # while one patch is removed.
    code = (
      'import importlib.util, sys\n'
      'spec = importlib.util.find_spec("trax_hier.compat")\n'
      'sys.modules[spec.name] = importlib.util.module_from_spec(spec)\n'
      'from trax_hier.compat.patches import PATCHES\n'
      f'del PATCHES[{without!r}]\n'
      'del sys.modules[spec.name]\n'
    ) + textwrap.dedent(code)
  flags = f'--xla_force_host_platform_device_count={n_devices}'
  return subprocess.run(
    [sys.executable, '-W', 'error', '-c', textwrap.dedent(code)],
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
    timeout=timeout,
  )


def check(code, **kwargs):
  """Runs `code`, which must succeed, and returns what it printed."""
  done = run(code, **kwargs)
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


# Code that each patch makes work, and that fails without it.
PATCHED = {
  'trax.data.inputs': """
    from trax_hier import compat
    from trax.data import inputs
    assert inputs.jax.host_count() == 1
    stream = inputs.random_inputs(
        input_shape=(2, 50), input_range=(0, 2), output_shape=(2,))
    x, _ = next(stream.train_stream(1))
    assert sorted(set(x.flat)) == [0, 1, 2]
  """,
  'trax.data.tf_inputs': """
    from trax_hier import compat
    from trax.data import tf_inputs
    assert tf_inputs.jax.host_count() == 1
  """,
  'trax.fastmath.jax': """
    from trax_hier import compat
    from trax import fastmath
    import jax
    double = lambda sign: fastmath.cond(
        pred=sign > 0, true_operand=2., true_fun=lambda x: x,
        false_operand=(3., 4.), false_fun=lambda x: x[0] + x[1])
    assert jax.jit(double)(1.) == 2 and jax.jit(double)(-1.) == 7
    assert fastmath.cond(True, lambda x: x, lambda x: -x, 5) == 5
    assert type(fastmath.stop_gradient(3)) is int
  """,
  'trax.fastmath.numpy': """
    from trax_hier import compat
    from trax import fastmath
    import numpy as np
    tree = (np.zeros(2), ((), np.zeros(3)))
    assert fastmath.tree_unflatten([1, 2], tree, [()])[0] == (1, ((), 2))
  """,
  'trax.jaxboard': """
    import sys, tempfile
    sys.modules['tensorflow'] = None
    from trax_hier import compat
    from trax import jaxboard
    writer = jaxboard.SummaryWriter(tempfile.mkdtemp())
    writer.scalar('loss', 1.5, step=1)
    writer.text('text', 'x', step=1)
    writer.close()
  """,
  'trax.layers.acceleration': """
    from trax_hier.compat import tl
    import numpy as np
    x = tl.for_n_devices({'a': np.arange(3.), 'b': 2}, 2)
    np.testing.assert_array_equal(x['a'], [[0, 1, 2]] * 2)
    assert len(x['a'].devices()) == 2 and x['b'].shape == (2,)
  """,
  'trax.layers.assert_shape': """
    import inspect
    del inspect.stack
    from trax_hier.compat import tl
    message = tl.AssertShape('ab,bc')._message
    assert message.startswith('Defined at <string>:'), message
  """,
  'trax.layers.base': """
    import os, tempfile
    from trax_hier.compat import ShapeDtype, tl
    layer = tl.Dense(2)
    layer.init(ShapeDtype((1, 3)))
    path = os.path.join(tempfile.mkdtemp(), 'weights.gz')
    layer.save_to_file(path)  # A FutureWarning of gzip's, an error here.
    restored = tl.Dense(2)
    restored.init_from_file(
        path, weights_only=True, input_signature=ShapeDtype((1, 3)))
    assert (restored.weights[0] == layer.weights[0]).all()
  """,
  'trax.layers.combinators': """
    from trax_hier.compat import ShapeDtype, tl
    import numpy as np
    calls = []
    layer = tl.Fn('Count', lambda x: calls.append(x) or x)
    for _ in range(5):
      layer = tl.Serial(layer)
    layer.init(ShapeDtype((2, 3), np.float32))
    assert len(calls) == 1, calls
    other = ShapeDtype((4, 3), np.float32)
    assert layer.output_signature(other).shape == (4, 3)
    assert len(calls) == 2, calls
  """,
  'trax.layers.core': """
    from trax_hier.compat import tl
    import numpy as np
    x, mu = np.array([[1., 2.], [0., 3.]]), np.array([[.5, 1.], [1., 1.]])
    variance = np.array([[2., 3.], [1., 4.]])
    sigma = variance[:, None] * np.eye(2)
    expected = -.5 * np.sum(
        np.log(2 * np.pi * variance) + (x - mu) ** 2 / variance, -1)
    x, mu, sigma = (y.astype(np.float32) for y in (x, mu, sigma))
    np.testing.assert_allclose(
        tl.log_gaussian_pdf(x, mu, sigma), expected, rtol=1e-6)
    rotated = np.float32([[2., .5], [.5, 1.]])
    d = x - mu
    expected = -.5 * (2 * np.log(2 * np.pi) + np.log(np.linalg.det(rotated))
                      + np.einsum('bi,ij,bj->b', d, np.linalg.inv(rotated), d))
    np.testing.assert_allclose(
        tl.log_gaussian_pdf(x, mu, np.stack([rotated] * 2)), expected,
        rtol=1e-5)
  """,
  'trax.layers.research.position_encodings': """
    from trax_hier import compat
    from trax.layers.research import position_encodings
    import numpy as np
    # The first known answer of Threefry-2x32 in Random123.
    keys = position_encodings.threefry_2x32_prange(np.zeros(2, np.uint32), 0, 1)
    assert keys.tolist() == [[0x6b200159, 0x99ba4efe]]
  """,
  'trax.layers.research.rotary_positional_embedding': """
    import jax
    jax.config.update('jax_enable_x64', True)
    from trax_hier import compat
    from trax.layers.research import rotary_positional_embedding as rotary
    import numpy as np
    x = np.ones((1, 4, 8), np.float32)
    assert rotary.rotate(x).dtype == np.float32
  """,
  'trax.layers.reversible': """
    import jax
    from trax_hier.compat import ShapeDtype, tl
    import numpy as np
    layer = tl.ReversibleSerial(tl.ReversibleHalfResidual(
        tl.Dropout(0.5), attention_layer=tl.SelfAttention(
            n_heads=1, d_qk=4, d_v=4, causal=True, attention_dropout=0.5)))
    key, x = jax.random.PRNGKey(0), np.ones((1, 4, 8), np.float32)
    weights, state = layer.init(tuple(2 * [ShapeDtype(x.shape)]), key)
    def loss(weights):
      return layer.pure_fn((x, x), weights, state, key)[0][0].sum()
    gradients = jax.tree.leaves(jax.grad(loss)(weights))
    assert gradients and all(g.any() for g in gradients)
  """,
  'trax.models.research.bert': """
    from trax_hier import compat
    from trax.models.research import bert
    tree = {'a': (1, 2)}
    leaves = bert.jax.tree_map(lambda x: -x, tree)
    assert leaves == {'a': (-1, -2)}
    structure = bert.jax.tree_structure(tree)
    assert bert.jax.tree_unflatten(structure, [-1, -2]) == leaves
  """,
  'trax.optimizers.trainer': """
    from trax_hier import compat
    from trax.optimizers import trainer
    import jax.numpy as jnp
    x = jnp.ones(3)
    trainer.ReversibleSerialTrainer._free_accelerators(None)
    assert x.is_deleted()
  """,
  'trax.supervised.trainer_lib': """
    from trax_hier.compat import ShapeDtype, tl
    from trax.supervised import trainer_lib
    import jax, numpy as np
    layer = tl.Dense(2)
    weights, state = layer.init(ShapeDtype((1, 3)))
    graph = trainer_lib.jax.xla_computation(layer)(
        np.ones((1, 3), np.float32), weights=weights, state=state,
        rng=jax.random.PRNGKey(0))
    assert 'HloModule' in graph.as_hlo_text()
    assert 'digraph' in graph.as_hlo_dot_graph()
  """,
  'trax.supervised.training': """
    import os, tempfile
    from trax_hier import compat
    from trax.supervised import training
    assert training.init_host_and_devices()[1] == 1
    path = os.path.join(tempfile.mkdtemp(), 'x.pkl.gz')
    training.pickle_to_file({'a': 1}, path, gzip=True)
    assert training.unpickle_from_file(path, gzip=True) == {'a': 1}
  """,
  'trax.trainer': """
    import sys
    from trax_hier import compat
    from trax import trainer
    import jax
    trainer.FLAGS(['trainer', '--tf_xla=False'])
    trainer._tf_setup_from_flags()
    trainer._jax_and_tf_configure_for_devices()
    joined = []
    jax.distributed.initialize = lambda *args: joined.append(args)
    trainer._make_jax_gpu_cluster(1, '10.0.0.1', 2, 7000)
    assert joined == [('10.0.0.1:7000', 2, 1)]
    for name in ('tensorflow', 'trax.tf_numpy'):
      assert name not in sys.modules
    # Once data load TensorFlow, it gets no GPU.
    import types
    from trax.data import tf_inputs
    hidden, tf = [], types.ModuleType('tensorflow')
    tf.data = tf.config = types.SimpleNamespace(
        set_visible_devices=lambda *args: hidden.append(args))
    sys.modules['tensorflow'] = tf
    assert tf_inputs.tf.data is tf_inputs.tf.config
    assert hidden == [([], 'GPU')]
  """,
}

# Trains two steps, saves, restores, and trains two more.
LOOP = """
  import os, sys, tempfile
  from trax_hier.compat import tl
  from trax import optimizers
  from trax.supervised import training
  import numpy as np

  def batches():
    rng = np.random.default_rng(0)
    while True:
      yield (rng.normal(size=(8, 3)).astype(np.float32),
             rng.integers(0, 4, (8,)), np.ones(8, np.float32))

  def make_loop(folder):
    loss = tl.WeightedCategoryCrossEntropy
    task = training.TrainTask(
        batches(), loss(), optimizers.Adam(0.01), n_steps_per_checkpoint=2)
    return training.Loop(
        tl.Serial(tl.Dense(5), tl.LayerNorm(), tl.Dense(4)), [task],
        eval_tasks=[training.EvalTask(batches(), [loss()])],
        output_dir=folder, random_seed=0)

  folder = tempfile.mkdtemp()
  loop = make_loop(folder)
  loop.run(2)
  restored = make_loop(folder)
  assert restored.step == 2
  for layer in (0, 2):
    np.testing.assert_array_equal(
        loop.model.weights[layer][0], restored.model.weights[layer][0])
  restored.run(2)
  assert restored.step == 4
  assert [name for name in os.listdir(os.path.join(folder, 'train'))
          if 'tfevents' in name]
  assert sys.modules.get('tensorflow') is None
"""


def test_every_patch_is_tested():
  from trax_hier.compat import patches

  assert set(PATCHED) == set(patches.PATCHES)


@pytest.mark.parametrize('name', PATCHED)
def test_patch(name):
  check(PATCHED[name], n_devices=2)


@pytest.mark.slow
@pytest.mark.parametrize('name', PATCHED)
def test_fails_without_patch(name):
  done = run(PATCHED[name], without=name, n_devices=2)
  assert done.returncode == 1
  # The code itself fails, not the import of the compatibility layer.
  assert 'in <module>' in done.stderr
  # Importing trax already checks shapes.
  if name != 'trax.layers.assert_shape':
    assert 'import layers as tl' not in done.stderr


def test_import_is_quick_and_without_tensorflow():
  importing = """
    import sys, time
    import trax_hier.compat
    print(time.process_time())
    for name in ('tensorflow', 'tensorflow_datasets', 'tensorflow_text', 'gym',
                 'trax.data', 'trax.supervised'):
      assert name not in sys.modules, name
  """
  check(importing)  # Compiles the bytecode.
  assert float(check(importing)) < MAX_IMPORT_SECONDS


def test_loop_trains_and_restores_without_tensorflow():
  check(BLOCK + textwrap.dedent(LOOP))


@pytest.mark.slow
def test_loop_on_several_devices():
  check(LOOP, n_devices=4)


@pytest.mark.slow
def test_loop_on_several_devices_needs_placed_arguments():
  unpatch = """
    from trax_hier import compat
    from trax.fastmath.jax import JAX_BACKEND
    import jax
    JAX_BACKEND['pmap'] = jax.pmap
  """
  done = run(textwrap.dedent(unpatch) + textwrap.dedent(LOOP), n_devices=4)
  assert done.returncode == 1 and 'in one_step' in done.stderr


@pytest.mark.slow
def test_hourglass_and_lsh_attention():
  check("""
    from trax_hier.compat import signature, tl
    from trax.models.research.hourglass import HourglassLM
    import jax, numpy as np

    def run(layer, x, evaluate):
      def init_and_apply(rng):
        weights, state = layer.init(signature(x), rng)
        return layer.pure_fn(x, weights, state, rng)[0]
      return evaluate(jax.jit(init_and_apply), jax.random.PRNGKey(0))

    call = lambda f, x: f(x)
    model = HourglassLM(vocab_size=8, d_model=8, d_ff=8, n_heads=2,
                        hierarchy='1@2', vanilla_layers=(1, 1), mode='eval')
    logits = run(model, np.ones((2, 4), np.int32), call)
    assert logits.shape == (2, 4, 8) and np.isfinite(logits).all()

    for mode, length in (('train', 8), ('predict', 1)):
      attention = tl.PureLSHSelfAttentionWrapper(
          n_heads=2, d_qk=4, d_v=4, causal=True, masked=False, mode=mode,
          chunk_len=4, n_chunks_before=1, n_chunks_after=0, n_hashes=2,
          n_buckets=4, bias=False, predict_mem_len=16, predict_drop_len=4,
          pure_lsh_implementation=tl.PureLSHSelfAttention, num_weights=2)
      x = np.ones((1, length, 8), np.float32)
      # Compilation takes long, and predict mode used to fail at tracing.
      y = run(attention, x, call if mode == 'train' else jax.eval_shape)
      assert y.shape == x.shape
      assert mode == 'predict' or np.isfinite(y).all()
  """)


def test_packages_import_on_demand():
  check('''
    import sys
    from trax_hier import compat
    import gin, pytest, trax

    assert trax.lr.multifactor is trax.supervised.lr_schedules.multifactor
    assert trax.layers is compat.tl
    assert 'trax.models' not in sys.modules
    # What a notebook of Trax parses first; `import trax` registered it there.
    gin.parse_config("""
        multifactor.warmup_steps = 7
        train.model = @trax.models.TransformerLM
        TransformerLM.d_model = 4
        trax.layers.SelfAttention.n_heads = 3
        batcher.data_streams = @data.data_streams
        Adam.b1 = 0.5
    """)
    assert callable(trax.models.TransformerLM)
    assert gin.query_parameter('trax.models.TransformerLM.d_model') == 4
    assert trax.supervised.Trainer and trax.data.inputs
    from trax.models import HourglassLM
    for package in (trax, trax.models, trax.rl):
      assert not hasattr(package, 'no_such_name')
      assert not hasattr(package, '__all__')
    from trax.rl import serialization_utils, space_serializer
    assert 'gym' not in sys.modules and 'tensorflow' not in sys.modules
  ''')


def test_only_trax_sees_stubs():
  check("""
    import sys
    import trax_hier.compat
    from trax import shapes
    from trax.layers import base
    assert repr(base.tf) == '<stub for tensorflow>'
    import json, types
    tf = types.ModuleType('tensorflow')
    tf.TensorShape, tf.DType, tf.marker = type('TensorShape', (), {
        'as_list': lambda self: [2, 3]}), type('DType', (), {}), 'real'
    sys.modules['tensorflow'] = tf
    import tensorflow
    assert tensorflow is tf
    # Once it is loaded, trax sees the real module too.
    assert base.tf.marker == 'real'
    assert shapes.ShapeDtype(tf.TensorShape()).shape == (2, 3)
    assert json.__builtins__['__import__'] is __import__
  """)


def test_missing_tensorflow_is_reported_at_its_first_use():
  check(
    BLOCK
    + textwrap.dedent("""
    import trax_hier.compat
    from trax import fastmath
    from trax.data import tf_inputs
    import pytest, trax
    with pytest.raises(ModuleNotFoundError, match='trax needs tensorflow'):
      list(fastmath.dataset_as_numpy(tf_inputs.tf.data.Dataset.range(3)))
    with pytest.raises(ModuleNotFoundError, match='tensorflow'):
      trax.AsKeras
    with fastmath.use_backend('tensorflow-numpy'):
      with pytest.raises(NotImplementedError, match='set_backend'):
        fastmath.numpy.ones(2)
  """)
  )


def test_local_files(tmp_path):
  from trax_hier import compat

  gfile = compat.base.tf.io.gfile
  folder = str(tmp_path / 'a' / 'b')
  gfile.makedirs(folder)
  gfile.makedirs(folder)
  one, two = f'{folder}/one', f'{folder}/two'
  for path in (one, two):
    with gfile.GFile(path, 'w') as f:
      f.write(path)
  assert sorted(gfile.listdir(folder)) == ['one', 'two']
  assert sorted(gfile.glob(f'{folder}/*')) == [one, two]
  with pytest.raises(FileExistsError, match='overwrite'):
    gfile.rename(one, two)
  gfile.rename(one, two, overwrite=True)
  assert gfile.isdir(folder) and not gfile.exists(one)
  with gfile.GFile(two, 'rb') as f:
    assert f.read() == one.encode()


@pytest.mark.slow
def test_trax_imported_before():
  # An empty module replaces the package trax, to skip its slow import. Its
  # submodules are imported without the hook, and load the real TensorFlow.
  pytest.importorskip('tensorflow')
  check("""
    import importlib.util, sys, types, warnings
    trax = types.ModuleType('trax')
    trax.__path__ = importlib.util.find_spec('trax').submodule_search_locations
    sys.modules['trax'] = trax
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      import trax.fastmath
    import numpy as np, pytest
    with pytest.warns(UserWarning, match='imported before'):
      import trax_hier.compat
    tree = (np.zeros(2), ())
    assert trax.fastmath.tree_unflatten([1], tree, [()])[0] == (1, ())
    from trax_hier.compat import ShapeDtype, tl
    layer = tl.Dense(2)
    layer.init(ShapeDtype((1, 3)))
    assert layer(np.ones((1, 3))).shape == (1, 2)
  """)


@pytest.mark.slow
def test_own_tests_of_trax():
  done = subprocess.run(
    [sys.executable, str(ROOT / 'tests' / 'compat' / 'run_trax_tests.py')],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr

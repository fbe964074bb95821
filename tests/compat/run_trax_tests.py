"""Runs trax's own tests of the modules that this library uses, as patched.

  python tests/compat/run_trax_tests.py [trax.layers.core_test ...]

The tests come with the installed trax. Tests in KNOWN_FAILURES must fail, and
all others must pass. Prints a line per module, and exits with 1 after any other
result.
"""

import contextlib
import functools
import io
import sys
import time
import types
import unittest

import jax
from absl import flags

import trax_hier.compat  # noqa: F401

MODULES = (
  'trax.layers.acceleration_test',
  'trax.layers.assert_shape_test',
  'trax.layers.attention_test',
  'trax.layers.base_test',
  'trax.layers.combinators_test',
  'trax.layers.convolution_test',
  'trax.layers.core_test',
  'trax.layers.initializers_test',
  'trax.layers.metrics_test',
  'trax.layers.normalization_test',
  'trax.layers.pooling_test',
  'trax.layers.research.efficient_attention_test',
  'trax.layers.research.position_encodings_test',
  'trax.layers.research.rel_attention_test',
  'trax.layers.research.rotary_positional_embedding_test',
  'trax.layers.research.sparsity_test',
  'trax.layers.reversible_test',
  'trax.layers.rnn_test',
  'trax.models.research.hourglass_test',
  'trax.optimizers.optimizers_test',
  'trax.supervised.trainer_lib_test',
  'trax.supervised.training_test',
)

_TF_NUMPY = 'tests the TensorFlow-NumPy backend, which is not loaded'
_EFFICIENT = (
  'trax.layers.research.efficient_attention_test.EfficientAttentionTest.'
)
_NORMALIZATION = 'trax.layers.normalization_test.'

KNOWN_FAILURES = {
  'trax.layers.initializers_test.InitializersTest.test_from_file': (
    'expects float64, which JAX reads as float32'
  ),
  _NORMALIZATION + 'BatchNormTest.test_forward_dtype_tf32': _TF_NUMPY,
  _NORMALIZATION + 'BatchNormTest.test_forward_dtype_tf64': _TF_NUMPY,
  _NORMALIZATION + 'LayerNormTest.test_forward_dtype_tf32': _TF_NUMPY,
  _NORMALIZATION + 'LayerNormTest.test_forward_dtype_tf64': _TF_NUMPY,
  _EFFICIENT + 'test_lsh_self_attention_masked_non_causal': (
    'expects masks from the random numbers of earlier JAX (passes'
    ' with jax_threefry_partitionable=False)'
  ),
  _EFFICIENT + 'test_self_attention_tf': _TF_NUMPY,
  'trax.supervised.training_test.TrainingTest.test_train_save_restore_dense': (
    'makes an array of arrays of unequal shapes, which NumPy now rejects'
  ),
}

_MEMORY = 'fills the memory of an accelerator'
_ACCELERATION = 'trax.layers.acceleration_test.AccelerationTest.'

NOT_RUN = {
  _ACCELERATION + 'test_chunk_memory': _MEMORY,
  _ACCELERATION + 'test_chunk_grad_memory': _MEMORY,
}


def provide_for_tests():
  """Provides what the tests import and is missing here."""
  jax.tree_map, jax.tree_structure = jax.tree.map, jax.tree.structure
  sys.modules['jax.config'] = types.SimpleNamespace(config=jax.config)
  sys.modules['jax.test_util'] = jax.test_util = types.SimpleNamespace()
  # Of the backend that is not loaded, tests of others read these settings.
  sys.modules['trax.tf_numpy'] = types.SimpleNamespace(
    extensions=types.SimpleNamespace(tpu_devices=tuple),
    numpy=types.SimpleNamespace(is_allow_float64=bool, set_allow_float64=bool),
  )

  def expand(cases):
    def decorate(test):
      methods = sys._getframe(1).f_locals  # Of the class being defined.
      for i, case in enumerate(cases):
        methods[f'{test.__name__}_{i}'] = functools.partialmethod(test, *case)

    return decorate

  def parameterized_class(cases):
    def decorate(cls):
      for i, attributes in enumerate(cases):
        name = f'{cls.__name__}_{i}'
        derived = type(name, (cls,), {'__module__': cls.__module__})
        for key, value in attributes.items():
          setattr(derived, key, value)
        setattr(sys.modules[cls.__module__], name, derived)

    return decorate

  sys.modules['parameterized'] = types.SimpleNamespace(
    parameterized=types.SimpleNamespace(expand=expand),
    parameterized_class=parameterized_class,
  )


def tests_of(suite):
  """The tests in nested suites, without those in NOT_RUN."""
  for test in suite:
    if isinstance(test, unittest.TestSuite):
      yield from tests_of(test)
    elif test.id() not in NOT_RUN:
      yield test


def run(module):
  """Runs a test module: (number of tests run, {failed test: last line})."""
  loaded = unittest.defaultTestLoader.loadTestsFromName(module)
  suite = unittest.TestSuite(tests_of(loaded))
  with contextlib.redirect_stdout(io.StringIO()):
    result = unittest.TestResult()
    suite.run(result)
  return result.testsRun, {
    test.id(): error.strip().splitlines()[-1]
    for test, error in result.failures + result.errors
  }


def main(modules):
  """Runs `modules` and returns the number of unexpected results."""
  provide_for_tests()
  flags.FLAGS(sys.argv[:1])  # absl's test cases read their flags.
  n_unexpected = 0
  for module in modules:
    start = time.time()
    n_run, failed = run(module)
    known = {test for test in KNOWN_FAILURES if test.startswith(f'{module}.')}
    print(
      f'{module}: {n_run} run, {len(failed)} failed, {len(known)} known to'
      f' fail, {time.time() - start:.0f} s',
      flush=True,
    )
    for test in sorted(failed.keys() - known):
      print(f'  FAILED {test}: {failed[test]}')
    for test in sorted(known - failed.keys()):
      print(f'  PASSED, though known to fail: {test}')
    n_unexpected += len(failed.keys() ^ known)
  return n_unexpected


if __name__ == '__main__':
  sys.exit(1 if main(sys.argv[1:] or MODULES) else 0)

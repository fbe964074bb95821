"""Tests of flash attention: which attentions it takes, and its arguments.

On CPU, XLA's implementation of `jax.nn.dot_product_attention` replaces that of
cuDNN, and takes the same arguments. Where there is a GPU with the kernels, the
same cases run on them.
"""

import dataclasses
import functools
import importlib
import types
import warnings

import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.layers.attention import flash
from trax_hier.layers.attention.flash import ALL_KEYS, Pattern
from trax_hier.layers.attention.softmax import softmax_attention
from trax_hier.layers.base.documents import Documents, set_documents

LENGTHS = (128, 150)
HAS_KERNELS = flash._compute_capability() is not None
DTYPE = jnp.bfloat16 if HAS_KERNELS else jnp.float32


@pytest.fixture(autouse=True)
def implementation(monkeypatch):
  if not HAS_KERNELS:
    monkeypatch.setattr(flash, '_IMPLEMENTATION', 'xla')


def heads(*lengths, n_heads=2, width=16, lead=(2,)):
  """Queries, keys, .. of random numbers, (.., h, length, width)."""
  rng = np.random.default_rng(0)
  return [
    jnp.asarray(rng.normal(size=(*lead, n_heads, n, width)), DTYPE)
    for n in lengths
  ]


def visible(n_queries, n_keys, pattern):
  """The mask of a causal pattern, by its definition in tokens."""
  queries = np.arange(n_queries)[:, None]
  keys = np.arange(n_keys)
  if pattern.past_only:
    keys = keys - pattern.window
    return (keys < queries) & (keys >= queries - pattern.window)
  mask = keys * pattern.key_stride < (queries + 1) * pattern.query_stride
  if pattern.window:
    mask &= keys > queries - pattern.window
  return mask


def check_equal(attend, expected, arrays):
  """Compares the outputs and gradients of two functions of `arrays`."""

  def loss(function, arrays):
    y = function(*arrays).astype(jnp.float32)
    weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    return jnp.sum(y * weights), y

  gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)
  results = [
    jax.jit(functools.partial(gradient, f))(arrays) for f in (attend, expected)
  ]
  leaves = [
    [np.asarray(x, np.float32) for x in jax.tree.leaves(result)]
    for result in results
  ]
  if not HAS_KERNELS:
    for x, y in zip(*leaves, strict=True):
      np.testing.assert_allclose(x, y, 1e-5, 1e-5)
    return
  norms = [np.linalg.norm(y) for y in leaves[1]]
  for x, y, norm in zip(*leaves, norms, strict=True):
    # A gradient can be zero, as that of the queries of a window of one.
    assert np.linalg.norm(x - y) <= 0.03 * max(norm, 0.1 * max(norms))


PATTERNS = {
  'causal': Pattern(),
  'window': Pattern(window=20),
  'window of one': Pattern(window=1),
  'window longer than the sequence': Pattern(window=1000),
  'past': Pattern(window=20, past_only=True),
  'past, longer than the sequence': Pattern(window=200, past_only=True),
  'keys of stride 3': Pattern(key_stride=3),
  'strides 2 and 4': Pattern(query_stride=2, key_stride=4),
}


@pytest.mark.parametrize('length', LENGTHS)
@pytest.mark.parametrize('pattern', PATTERNS.values(), ids=PATTERNS)
def test_causal_patterns(pattern, length):
  n_queries = length * pattern.key_stride // pattern.query_stride
  n_keys = length + (pattern.window if pattern.past_only else 0)
  mask = visible(n_queries, n_keys, pattern)
  check_equal(
    lambda q, k, v: flash.attend(q, k, v, pattern),
    lambda q, k, v: softmax_attention(q, k, v, 0.0, mask, 0.0, None),
    heads(n_queries, n_keys, n_keys),
  )


@pytest.mark.parametrize('length', LENGTHS)
def test_a_bias_of_heads_and_distances(length):
  bias = jnp.asarray(
    np.random.default_rng(1).normal(size=(2, length, length)), jnp.float32
  )
  mask = visible(length, length, Pattern())
  check_equal(
    lambda q, k, v, b: flash.attend(q, k, v, Pattern(), b),
    lambda q, k, v, b: softmax_attention(q, k, v, b, mask, 0.0, None),
    [*heads(length, length, length), bias],
  )


@pytest.mark.parametrize('n_keys', [128, 150])
def test_masked_keys_anywhere(n_keys):
  mask = np.random.default_rng(2).random((2, 1, 1, n_keys)) < 0.6
  mask[1, ..., 40:] = False
  check_equal(
    lambda q, k, v: flash.attend(q, k, v, ALL_KEYS, mask=jnp.asarray(mask)),
    lambda q, k, v: softmax_attention(q, k, v, 0.0, mask, 0.0, None),
    heads(140, n_keys, n_keys),
  )


def test_all_keys_under_two_leading_axes():
  check_equal(
    lambda q, k, v: flash.attend(q, k, v, ALL_KEYS),
    lambda q, k, v: softmax_attention(q, k, v, 0.0, True, 0.0, None),
    heads(130, 140, 140, lead=(2, 3)),
  )


def test_without_a_visible_key_outputs_and_gradients_are_finite():
  mask = jnp.zeros((2, 1, 1, 128), bool)

  def total(q, k, v):
    return jnp.sum(flash.attend(q, k, v, ALL_KEYS, mask=mask))

  results = jax.value_and_grad(total, (0, 1, 2))(*heads(128, 128, 128))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(results))


@pytest.fixture
def cudnn(monkeypatch):
  """Lets JAX trace its kernels of cuDNN where there are none."""
  module = importlib.import_module('jax._src.cudnn.fused_attention_stablehlo')
  versions = types.SimpleNamespace(cudnn_get_version=lambda: 91200)
  monkeypatch.setattr(module, 'cuda_versions', versions)
  monkeypatch.setattr(module, 'check_compute_capability', lambda _: True)
  name = 'is_cuda_compute_capability_equal'
  monkeypatch.setattr(module, name, lambda _: False)
  monkeypatch.setattr(flash, '_IMPLEMENTATION', 'cudnn')


KERNELS = {
  **{name: (pattern, False, False) for name, pattern in PATTERNS.items()},
  'bias': (Pattern(), True, False),
  'all keys': (ALL_KEYS, False, False),
  'masked keys': (ALL_KEYS, False, True),
}


@pytest.mark.parametrize(
  'pattern, has_bias, masked', KERNELS.values(), ids=KERNELS
)
def test_kernels_accept_the_arguments(pattern, has_bias, masked, cudnn):
  """JAX's own checks of the kernels' arguments pass, forward and backward."""
  n_queries = 150 * pattern.key_stride // pattern.query_stride
  n_keys = 150 + (pattern.window if pattern.past_only else 0)
  arrays = [
    jax.ShapeDtypeStruct((2, 4, n, 64), jnp.bfloat16)
    for n in (n_queries, n_keys, n_keys)
  ]
  bias = jax.ShapeDtypeStruct((4, 150, 150), jnp.float32) if has_bias else None
  mask = jnp.ones((2, 1, 1, n_keys), bool) if masked else None

  def total(arrays, bias):
    return jnp.sum(
      flash.attend(*arrays, pattern, bias, mask), dtype=jnp.float32
    )

  gradient = jax.grad(total, argnums=(0, 1) if has_bias else 0)
  calls = [
    e
    for e in jaxprs.equations(jax.make_jaxpr(gradient)(arrays, bias).jaxpr)
    if 'dot_product_attention' in e.primitive.name
  ]
  assert ['bwd' in e.primitive.name for e in calls] == [False, True]
  for call in calls:
    n = n_keys - pattern.past_only
    window = pattern.window if (pattern.window or n) < n else None
    assert call.params['sliding_window_length'] == window
    kind = 'CAUSAL' if pattern.causal else 'PADDING'
    assert call.params['mask_type'].name == kind


# Which attentions the kernels take
# ------------------------------------------------------------------------------
CAUSAL = Pattern()


@dataclasses.dataclass(frozen=True)
class Case:
  """Arguments of `flash.fits`, and a part of the reason if it returns False."""

  reason: str | None
  pattern: Pattern = CAUSAL
  q: tuple = (2, 4, 256, 64)
  k: tuple = (2, 4, 256, 64)
  dtype: type = jnp.bfloat16
  bias: tuple | None = None
  masked: bool = False
  dropout: float = 0.0
  capability: tuple | None = (9, 0)


# Without a reason, no warning is due.
SILENT = ''
WIDE = dict(q=(2, 4, 256, 256), k=(2, 4, 256, 256))
CASES = {
  'causal': Case(None),
  'float16': Case(None, dtype=jnp.float16),
  'scalar bias': Case(None, bias=()),
  'bias equal for all keys': Case(None, bias=(4, 1, 1)),
  'bias of heads': Case(None, bias=(4, 256, 256)),
  'bias with a row axis of 1': Case(None, bias=(1, 4, 256, 256)),
  'bias at a coarse scale': Case(
    None, Pattern(query_stride=3, key_stride=3), bias=(4, 256, 256)
  ),
  'window': Case(None, Pattern(window=64)),
  'past only': Case(
    None, Pattern(window=64, past_only=True), k=(2, 4, 320, 64)
  ),
  'coarse keys': Case(None, Pattern(key_stride=2), k=(2, 4, 128, 64)),
  'cross-attention': Case(None, ALL_KEYS, k=(2, 4, 500, 64), masked=True),
  'wide heads on Hopper': Case(None, **WIDE),
  'float32': Case(SILENT, dtype=jnp.float32),
  'no GPU': Case(SILENT, capability=None),
  'short': Case(SILENT, q=(2, 4, 64, 64), k=(2, 4, 64, 64)),
  'few keys': Case(SILENT, ALL_KEYS, k=(2, 4, 100, 64)),
  'wide heads on Ampere': Case('heads are 256 wide', **WIDE, capability=(8, 0)),
  'wide heads with a window': Case('256 wide', Pattern(window=9), **WIDE),
  'odd heads': Case('60 wide', q=(2, 4, 256, 60), k=(2, 4, 256, 60)),
  'dropout': Case('dropout 0.1', dropout=0.1),
  'mask': Case('mask of keys', masked=True),
  'fine keys': Case('strides', Pattern(query_stride=2), k=(2, 4, 512, 64)),
  'odd strides': Case(
    'strides', Pattern(query_stride=2, key_stride=3), q=(2, 4, 384, 64)
  ),
  'bias of rows': Case('from row to row', bias=(2, 4, 256, 256)),
  'bias with a window': Case(
    'to a window', Pattern(window=64), bias=(4, 256, 256)
  ),
  'bias between strides': Case(
    'between strides',
    Pattern(key_stride=2),
    q=(2, 4, 512, 64),
    bias=(4, 512, 256),
  ),
  'bias of all keys': Case('a window', ALL_KEYS, bias=(4, 256, 256)),
  'a large bias': Case(
    'larger than 256 MiB',
    q=(2, 16, 4096, 64),
    k=(2, 16, 4096, 64),
    bias=(16, 4096, 4096),
  ),
}


@pytest.fixture
def on_gpu(monkeypatch):
  """Pretends that there is a GPU, whose compiler accepts everything."""

  def pretend(capability=(9, 0)):
    monkeypatch.setattr(flash, '_compute_capability', lambda: capability)
    monkeypatch.setattr(flash, '_failure', lambda *_: None)
    flash._say.cache_clear()

  return pretend


def fits(case):
  q, k = (jax.ShapeDtypeStruct(x, case.dtype) for x in (case.q, case.k))
  bias = case.bias
  if bias is not None:
    bias = jax.ShapeDtypeStruct(bias, jnp.float32)
  return flash.fits(q, k, case.pattern, bias, case.masked, case.dropout)


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_which_attentions_fit(case, on_gpu):
  on_gpu(case.capability)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    assert fits(case) == (case.reason is None)
    fits(case)
  messages = [str(w.message) for w in caught]
  assert len(messages) == bool(case.reason)  # Said once.
  assert all(case.reason in message for message in messages)


def test_a_setting_turns_the_kernels_off(on_gpu, monkeypatch):
  on_gpu()
  monkeypatch.setenv('TRAX_HIER_FLASH_ATTENTION', '0')
  assert not fits(Case(None))


def test_what_the_compiler_refuses_falls_back(on_gpu, monkeypatch):
  failure = flash._failure
  on_gpu()
  monkeypatch.setattr(flash, '_failure', failure)
  # Here, no cuDNN can be found.
  monkeypatch.setattr(flash, '_IMPLEMENTATION', 'no such one')
  with pytest.warns(UserWarning, match='cuDNN cannot compute heads .*no such'):
    assert not fits(Case(None, q=(2, 1, 128, 8), k=(2, 1, 128, 8)))


def test_what_the_compiler_accepts_fits(on_gpu, monkeypatch):
  failure = flash._failure
  on_gpu()
  monkeypatch.setattr(flash, '_failure', failure)
  cases = [
    Case(None, pattern, q=(2, 1, 128, 8), k=(2, 1, 128, 8), bias=bias)
    for pattern, bias in ((CAUSAL, (1, 128, 128)), (ALL_KEYS, None))
  ]

  def within_a_loop(x, _):
    assert all(map(fits, cases))
    return x, None

  gradient = jax.grad(lambda x: jax.lax.scan(within_a_loop, x, length=2)[0])
  jax.make_jaxpr(jax.jit(gradient))(1.0)


@pytest.mark.parametrize(
  'backend, device, expected',
  [
    ('gpu', '9.0', (9, 0)),
    ('gpu', '10.3', (10, 3)),
    ('gpu', '7.5', None),
    ('gpu', 'gfx90a', None),
    ('gpu', None, None),
    ('tpu', '9.0', None),
    ('cpu', '9.0', None),
  ],
)
def test_compute_capability(backend, device, expected, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  device = types.SimpleNamespace(compute_capability=device)
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  assert flash._compute_capability() == expected
  with jax.default_device('cpu'):
    assert flash._compute_capability() is None


# Layers
# ------------------------------------------------------------------------------
N = 140
P = functools.partial


def with_shared(positions, mode, **arguments):
  """Self-attention with positions whose weights the model shares."""
  return tl.Serial(
    hl.ShareWeights(*positions.shared),
    hl.SelfAttention(16, 2, positions=positions, mode=mode, **arguments),
  )


SELF = P(hl.SelfAttention, 16, 2)
SLIDE = P(hl.SlidingAttention, 16, 2)
T5, RELATIVE = hl.T5Positions(2), hl.RelativePositions(16, 2)
# Factory, kind of inputs, and number of calls of `attend`.
CAUSAL_LAYERS = {
  'causal': (SELF, 'tokens', 1),
  'coarse': (P(SELF, stride=3), 'tokens', 1),
  'rotary': (P(SELF, positions=hl.RotaryPositions()), 'tokens', 1),
  't5': (P(SELF, positions=T5), 'tokens', 1),
  't5, coarse': (P(SELF, positions=T5, stride=3), 'tokens', 1),
  'relative': (P(with_shared, RELATIVE), 'tokens', 0),
  'window': (P(SELF, window=50), 'tokens', 1),
  'window of all': (P(SELF, window=500), 'tokens', 1),
  'window, t5': (P(SELF, window=50, positions=T5), 'tokens', 0),
  'window, relative': (P(with_shared, RELATIVE, window=50), 'tokens', 0),
  'slide': (P(SLIDE, window=50), 'tokens', 1),
  'slide, all': (P(SLIDE, window=500), 'tokens', 1),
  'slide, t5': (P(SLIDE, window=50, positions=T5), 'tokens', 0),
  'upsampling': (P(hl.AttentionUpsample, 2, 16, 32, 2), 'coarse and fine', 1),
  'shortening': (P(hl.AttentionShorten, 2, 16, 32, 2), 'tokens', 0),
}
LAYERS = {
  **CAUSAL_LAYERS,
  'cross-attention': (P(hl.CrossAttention, 16, 2), 'masked context', 1),
  'encoder attention': (P(hl.EncoderAttention, 16, 2), 'masked', 1),
  # Tokens read tokens and states; states read states and tokens.
  'recurrent cell': (
    P(hl.BlockRecurrentCell, 16, 16, 2, window=128, n_states=130),
    'tokens',
    4,
  ),
}


def inputs_of(kind):
  x, mask = toy.normal(2, N, 16), np.random.default_rng(3).random((2, N)) < 0.5
  match kind:
    case 'masked context':
      return x, toy.normal(2, N, 16, seed=1), mask
    case 'masked':
      return x, mask
    case 'tokens':
      return toy.normal(2, 256, 16)
    case 'coarse and fine':
      return toy.normal(2, 130, 16, seed=1), toy.normal(2, 260, 16)


@pytest.mark.parametrize('make, kind, n_calls', LAYERS.values(), ids=LAYERS)
def test_layers(make, kind, n_calls, on_gpu, monkeypatch):
  """Layers give the same with flash attention, which they call."""
  layer, x = make(mode='eval'), inputs_of(kind)
  weights, state = toy.make(layer, x)
  expected, _ = toy.run(layer, x, weights, state)
  monkeypatch.setattr(flash, '_DTYPES', (jnp.float32,))
  monkeypatch.setattr(flash, '_IMPLEMENTATION', 'xla')
  on_gpu()
  calls, attend = [], flash.attend
  monkeypatch.setattr(
    flash, 'attend', lambda *a, **k: calls.append(a) or attend(*a, **k)
  )
  y, _ = toy.run(make(mode='eval'), x, weights, state)
  assert len(calls) == n_calls
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)


@pytest.mark.parametrize('name', ['causal', 'rotary', 'window', 'upsampling'])
def test_documents_in_a_row_are_kept_apart(name, on_gpu, monkeypatch):
  make, kind, _ = CAUSAL_LAYERS[name]
  layer, x = make(mode='eval'), inputs_of(kind)
  weights, state = toy.make(layer, x)
  n = jax.tree.leaves(x)[-1].shape[1]
  ids = jnp.broadcast_to(jnp.arange(n) >= 100, (2, n)).astype(jnp.int32)
  state = set_documents(layer, state, Documents.from_ids(ids))
  expected, _ = toy.run(layer, x, weights, state)
  monkeypatch.setattr(flash, '_DTYPES', (jnp.float32,))
  monkeypatch.setattr(flash, 'attend', pytest.fail)
  on_gpu()
  with pytest.warns(UserWarning, match='rows hold several documents'):
    y, _ = toy.run(make(mode='eval'), x, weights, state)
  np.testing.assert_allclose(y, expected, 1e-5, 1e-5)

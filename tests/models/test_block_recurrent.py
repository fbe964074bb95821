"""Block-Recurrent Transformer: parity with the paper's equations, and memory.

The reference in `block_recurrent_reference.py` implements the paper's section 3
on plain arrays. It was written from the equations, not from the layers.
"""

import functools

import block_recurrent_reference as reference
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest
import toy

from trax_hier import layers as hl
from trax_hier.compat import ShapeDtype, base
from trax_hier.models import BlockRecurrentLM

P = functools.partial
WINDOW, N_STATES, LENGTH, VOCAB = 16, 8, 64, 50
GATES = {'fixed': hl.FixedGate, 'lstm': hl.LSTMGate}
VARIANTS = {
  f'{gate} {update}': dict(gate=gate, update=update)
  for gate in GATES
  for update in ('skip', 'dual', 'single')
}
VARIANTS['one block read'] = dict(gate='fixed', update='skip', n_read_blocks=1)
FEEDBACK = {
  'feedback fixed skip': dict(gate='fixed', update='skip', feedback=True),
  'feedback lstm single': dict(gate='lstm', update='single', feedback=True),
}
VARIANTS |= FEEDBACK
# These variants cover all layers; CI leaves the others out.
SOME = ['fixed skip', 'lstm dual', 'feedback fixed skip', 'slide']
ALL = [
  name if name in SOME else pytest.param(name, marks=pytest.mark.slow)
  for name in [*VARIANTS, 'slide']
]


def lm(gate='fixed', update='skip', n_read_blocks=2, feedback=False, **kwargs):
  """A factory of toy models with the properties of the published code."""
  states = dict(
    window=WINDOW,
    n_states=N_STATES,
    gate=GATES[gate],
    configuration=update,
    n_read_blocks=n_read_blocks,
  )
  sizes = dict(
    vocab_size=VOCAB,
    d_model=32,
    d_ff=64,
    n_layers=3,
    recurrent_layers=(2,),
    n_heads=2,
    dropout=0.0,
    attention=P(hl.SlidingAttention, window=WINDOW),
    recurrent_attention=P(hl.BlockRecurrentCell, **states),
    feedback=P(hl.FeedbackStack, **states) if feedback else None,
  )
  return P(BlockRecurrentLM, **{**sizes, **kwargs})


def slide(**kwargs):
  return lm(recurrent_layers=(), **kwargs)


class Subject:
  """A model with random weights whose effects are of order 1."""

  def __init__(self, model, batch=2, length=LENGTH, mode='eval'):
    self.layer = model(mode=mode)
    x = np.zeros((batch, length), np.int32), np.ones(batch, bool)
    shapes, state = toy.shapes(self.layer, x)
    self.weights = weights_like(shapes)
    self.fresh = toy.zeros_like(state)
    self.run = jax.jit(
      lambda weights, x, start, state: self.layer.pure_fn(
        (x, start), weights, state, toy.KEY
      )
    )

  def __call__(self, x, start, state):
    """Logits and new state."""
    return self.run(self.weights, x, np.asarray(start), state)


def weights_like(shapes, seed=0):
  """Random matrices that preserve variance; vectors around 1, of both signs."""
  rng = np.random.default_rng(seed)

  def sample(s):
    x = rng.normal(size=s.shape)
    if s.shape[-2:] in ((VOCAB, 32), (N_STATES, 32)):
      return jnp.asarray(x, jnp.float32)
    is_matrix = s.shape[-1] > 2 and s.ndim > 1 and s.shape[-2] > 3
    scale = s.shape[-2] ** -0.5 if is_matrix else 1.0
    return jnp.asarray(x * scale + (not is_matrix), jnp.float32)

  return jax.tree.map(sample, shapes)


@functools.cache
def subject(name):
  return Subject(slide() if name == 'slide' else lm(**VARIANTS[name]))


def tokens(length=LENGTH, batch=2, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(1, VOCAB, (batch, length)).astype(np.int32)


# Parity
# ------------------------------------------------------------------------------
def as_reference(
  weights, recurrent_layers, gate='fixed', update='skip', feedback=False
):
  """The weights of a model, by the names of the reference."""
  leaves = iter(jax.tree.leaves(weights))

  def take(*names):
    return {name: next(leaves) for name in names}

  def take_gate():
    return take(*(['bias'] if gate == 'fixed' else ['wf', 'bf', 'wi', 'bi']))

  def take_states():
    parts = take('initial', 'norm', 'ids', 'wk', 'wv', 'wq', 'wq2')
    parts |= take('scale', 'scale2')
    if update == 'single':
      return parts | {'ffn': take('w1', 'w2') | {'gate': take_gate()}}
    parts['attention'] = take('w') | {'gate': take_gate()}
    if update == 'dual':
      parts |= take('norm2')
      parts['ffn'] = take('w1', 'w2') | {'gate': take_gate()}
    return parts

  def take_layer(reads=False, owns_states=False):
    parts = take(*['norm', 'wq', 'wk', 'wv'] + ['wq2'] * reads, 't5', 'scale')
    if owns_states:
      parts['state'] = take_states()
    if reads:
      parts |= take('scale2')
    return parts | take('wo', 'ffn_norm', 'w1', 'w2')

  def take_stack(n, **kind):
    if not n:
      return []
    stacked = take_layer(**kind)
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(n)]

  params, layers = take('embed'), []
  if feedback:
    states, (i,) = take_states(), recurrent_layers
    layers += take_stack(i - 1, reads=True)
    layers += [take_layer(reads=True) | {'state': states}]
    layers += take_stack(3 - i, reads=True)
  else:
    for i in recurrent_layers:
      layers += take_stack(i - 1 - len(layers))
      layers += take_stack(1, reads=True, owns_states=True)
    layers += take_stack(3 - len(layers))
  params |= {'layers': layers} | take('norm')
  assert next(leaves, None) is None
  return params


@pytest.mark.parametrize('name', ALL)
def test_parity_with_the_equations(name):
  ours, variant = subject(name), VARIANTS.get(name, {})
  variant = {'gate': 'fixed', 'update': 'skip'} | variant
  params = as_reference(
    ours.weights,
    () if name == 'slide' else (2,),
    **{k: v for k, v in variant.items() if k != 'n_read_blocks'},
  )
  config = reference.Config(n_heads=2, window=WINDOW, **variant)
  forward = jax.jit(
    lambda x, start, memory: reference.forward(params, x, start, memory, config)
  )
  memory = reference.fresh_memory(params, 2, config)
  state, last = ours.fresh, np.zeros((2, 1), np.int32)
  starts = [True, True], [False, False], [True, False]
  for i, start in enumerate(starts):
    x = tokens(seed=i)
    last = np.where(np.asarray(start)[:, None], 0, last)
    shifted = np.concatenate([last, x[:, :-1]], axis=1)
    y, state = ours(x, start, state)
    expected, memory = forward(shifted, np.asarray(start), memory)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
    last = x[:, -1:]


# Dependencies of the logits
# ------------------------------------------------------------------------------
FRESH, CONTINUED = [True, True], [False, False]


def other_tokens(x, lane, p):
  """x with another token at position p of a lane or of all lanes."""
  x = x.copy()
  x[lane, p] = x[lane, p] % (VOCAB - 1) + 1
  return x


def document(name, x, lengths):
  """Logits of a document x, read in segments of these lengths."""
  ours = subject(name)
  state, start, outputs = ours.fresh, FRESH, []
  for part in np.split(x, np.cumsum(lengths)[:-1], axis=1):
    y, state = ours(part, start, state)
    outputs.append(y)
    start = CONTINUED
  return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize('name', ALL)
def test_logits_depend_on_earlier_tokens_and_no_others(name):
  x = tokens()
  y = document(name, x, [LENGTH])
  for p in (0, 1, 15, 16, 31, 40, 63):
    changed = document(name, other_tokens(x, slice(None), p), [LENGTH])
    moved = (changed != y).any(axis=-1)
    assert not moved[:, : p + 1].any(), f'earlier logits depend on token {p}'
    # The embedding changes the first of these logits, attention the second.
    assert moved[:, p + 1 : p + 3].all(), f'token {p} has no effect'


@pytest.mark.parametrize('name', ALL)
def test_segments_of_any_length_give_the_same_logits(name):
  x = tokens()
  y = document(name, x, [LENGTH])
  for lengths in [[16] * 4, [32, 32]][: 1 + (name in SOME)]:
    parts = document(name, x, lengths)
    np.testing.assert_allclose(parts, y, 1e-5, 1e-5, err_msg=str(lengths))


def test_without_recurrence_segments_need_not_be_multiples_of_the_window():
  x = tokens()
  y = document('slide', x, [LENGTH])
  parts = document('slide', x, [7, 25, 32])
  np.testing.assert_allclose(parts, y, 1e-5, 1e-5)


@pytest.mark.parametrize('name', SOME)
def test_carried_memory_changes_the_logits(name):
  ours, x = subject(name), tokens()
  _, state = ours(tokens(seed=1), FRESH, ours.fresh)
  y, _ = ours(x, CONTINUED, state)

  def gap(forget):
    kept = jax.tree.map(lambda a: 0 * a if forget(a) else a, state)
    return np.abs(ours(x, CONTINUED, kept)[0] - y)

  is_token, is_states, is_rows = (
    lambda a, tail=tail: a.shape[-len(tail) :] == tail
    for tail in [(2, 1), (2, N_STATES, 32), (2, 2, WINDOW, 16)]
  )
  assert gap(is_token)[:, 0].min() > 1e-4
  assert gap(is_rows)[:, 0].max() > 1e-2
  if name != 'slide':
    assert gap(is_states)[:, -WINDOW:].max() > 1e-2


@pytest.mark.parametrize('name', SOME)
def test_lanes_are_independent(name):
  ours, x = subject(name), tokens()
  fresh, fresh_state = ours(x, FRESH, ours.fresh)
  _, dirty = ours(tokens(seed=1), FRESH, ours.fresh)
  _, dirtier = ours(other_tokens(tokens(seed=1), 1, 60), FRESH, ours.fresh)
  y, state = ours(x, [True, False], dirty)
  np.testing.assert_array_equal(y[0], fresh[0])
  assert np.abs(y[1] - fresh[1]).max() > 0.1
  if name not in FEEDBACK:  # Which has memory outside stacks.
    both = [lane_of(s, 0) for s in (state, fresh_state)]
    jax.tree.map(np.testing.assert_array_equal, *both)

  swapped, _ = ours(x, [False, True], dirty)
  np.testing.assert_array_equal(swapped[1], fresh[1])
  continued, _ = ours(x, CONTINUED, dirty)
  np.testing.assert_array_equal(swapped[0], continued[0])
  np.testing.assert_array_equal(y[1], continued[1])

  for change in (
    ours(other_tokens(x, 1, 3), CONTINUED, dirty),
    ours(x, CONTINUED, dirtier),
  ):
    np.testing.assert_array_equal(change[0][0], continued[0])
    assert (change[0][1] != continued[1]).any()


def lane_of(state, lane):
  """The state of one lane; in stacks the batch is axis 1."""
  return [
    a[lane] if a.shape == (2, 1) else a[:, lane]
    for a in jax.tree.leaves(state)
    if not is_rate(a)
  ]


def is_rate(a):
  """Whether an array of a state is the rate of a Dropout layer."""
  return a.ndim < 2


@pytest.mark.parametrize('p', [3, 15, 20])
def test_receptive_field_of_sliding_attention(p):
  n = 2 * LENGTH
  x = tokens(n)
  halves = [LENGTH, LENGTH]
  y = document('slide', x, halves)
  changed = document('slide', other_tokens(x, slice(None), p), halves)
  moved = (changed != y).any(axis=-1)
  # Token p is the input of position p + 1.
  end = p + 1 + 3 * WINDOW
  assert end + WINDOW < n
  assert moved[:, p + 1 : end + 1].all()
  assert not moved[:, end + 1 :].any()


@pytest.mark.parametrize('name', ALL[:-1])
def test_states_carry_a_token_to_every_later_block(name):
  x = tokens(2 * LENGTH)
  halves = [LENGTH, LENGTH]
  y = document(name, x, halves)
  gap = np.abs(document(name, other_tokens(x, slice(None), 3), halves) - y)
  by_block = gap.reshape(2, -1, WINDOW, VOCAB).max(axis=(2, 3))
  # The influence of a token halves with every block.
  assert (by_block > 1e-4).all(), by_block


@pytest.mark.parametrize('layers', [-1, 0])
def test_number_of_layers(layers):
  with pytest.raises(ValueError, match='n_layers = '):
    lm(n_layers=layers)(mode='eval')


@pytest.mark.parametrize(
  'name, make',
  [
    ('SlidingAttention', slide(positions=hl.RotaryPositions)),
    ('BlockRecurrentCell', lm(n_layers=1, recurrent_layers=(1,))),
    ('FeedbackStack', lm(feedback=True, carry=False)),
  ],
)
def test_carried_keys_cannot_have_rotary_positions(name, make):
  with pytest.raises(
    ValueError, match=f'(keys that {name} carries|{name}: the keys)'
  ):
    make(mode='eval', positions=hl.RotaryPositions)


@pytest.mark.parametrize('d_head', [0, -4])
def test_width_of_heads(d_head):
  with pytest.raises(ValueError, match=f'd_head = {d_head} must be positive'):
    lm(d_head=d_head)(mode='eval')


def test_memory_of_decoding_does_not_grow():
  def n_numbers(max_len):
    layer = lm(max_len=max_len)(mode='predict')
    _, state = toy.shapes(layer, tokens(1))
    return sum(s.size for s in jax.tree.leaves(state))

  assert n_numbers(64) == n_numbers(100_000) < 20_000


@pytest.mark.parametrize(
  'name',
  [
    'fixed skip',
    'slide',
    pytest.param('feedback fixed skip', marks=pytest.mark.slow),
    pytest.param('lstm single', marks=pytest.mark.slow),
  ],
)
def test_without_memory_calls_are_whole_sequences_of_any_length(name):
  ours, x = subject(name), tokens()
  make = slide if name == 'slide' else P(lm, **VARIANTS[name])
  layer = make(carry=False)(mode='eval')
  shapes, state = toy.shapes(layer, x)
  assert jax.tree.structure(shapes) == jax.tree.structure(ours.weights)
  # Feedback keeps memory of one row, for the shapes that its scan carries.
  assert name in FEEDBACK or all(map(is_rate, jax.tree.leaves(state)))
  y = document(name, x, [LENGTH])
  for length in (LENGTH, 40, 13)[: 3 if name == 'fixed skip' else 2]:
    part, _ = toy.run(layer, x[:, :length], ours.weights, toy.zeros_like(state))
    np.testing.assert_allclose(part, y[:, :length], 1e-5, 1e-5)
  row, _ = toy.run(layer, x[:1], ours.weights, toy.zeros_like(state))
  np.testing.assert_allclose(row, y[:1], 1e-5, 1e-5)


def test_segments_must_be_whole_blocks():
  with pytest.raises(
    base.LayerError,
    match=r'BlockRecurrentCell.window = 16 must divide the 40 positions',
  ):
    Subject(lm(), length=40)


@pytest.mark.parametrize('layers', [(0,), (4,), (2, 2)])
def test_recurrent_layers_must_be_among_the_layers(layers):
  with pytest.raises(ValueError, match='numbers from 1 to n_layers = 3'):
    lm(recurrent_layers=layers)(mode='eval')


def test_recurrent_layers_anywhere():
  x = tokens()
  ours = Subject(lm(recurrent_layers=(3, 1), remat=True))
  y, _ = ours(x, FRESH, ours.fresh)
  first, state = ours(x[:, :32], FRESH, ours.fresh)
  second, _ = ours(x[:, 32:], CONTINUED, state)
  both = np.concatenate([first, second], axis=1)
  np.testing.assert_allclose(both, y, 1e-5, 1e-5)
  states = [a for a in jax.tree.leaves(state) if a.shape[-2:] == (N_STATES, 32)]
  assert len(states) == 2 and not np.allclose(*states)


# Decoding
# ------------------------------------------------------------------------------
@functools.cache
def decoder(name):
  """The initial state, and a compiled (tokens, state) -> logits, state."""
  model = slide() if name == 'slide' else lm(**VARIANTS[name])
  layer, weights = model(mode='predict'), subject(name).weights
  shapes, state = toy.shapes(layer, tokens(1))
  assert jax.tree.structure(shapes) == jax.tree.structure(weights)
  step = jax.jit(lambda x, state: layer.pure_fn(x, weights, state, toy.KEY))
  return toy.zeros_like(state), step


ONE_BY_ONE, PREFILL = [1] * LENGTH, [20] + [1] * 44
MIXED = [[7, 16, 17, 24], [1, 15, 16, 32], [LENGTH], [33] + [1] * 31]


@pytest.mark.parametrize('name', ALL)
def test_decoding_is_evaluation(name):
  x = tokens()
  expected = document(name, x, [LENGTH])
  inputs = np.pad(x, [(0, 0), (1, 0)])[:, :LENGTH]
  fresh, step = decoder(name)
  splits = [ONE_BY_ONE, PREFILL]
  splits += MIXED[:3] if name == 'fixed skip' else []
  splits += MIXED[3:] if name == 'one block read' else []
  for lengths in splits:
    assert sum(lengths) == LENGTH
    state, outputs = fresh, []
    for part in np.split(inputs, np.cumsum(lengths)[:-1], axis=1):
      y, state = step(part, state)
      outputs.append(y)
    np.testing.assert_allclose(
      np.concatenate(outputs, axis=1),
      expected,
      1e-5,
      1e-5,
      err_msg=str(lengths),
    )


# Gradients
# ------------------------------------------------------------------------------
LAYERS = {'slide': ()}


@functools.cache
def gradients_of(name):
  """(x, start, state, picked) -> gradients of sum(picked * logits)."""
  ours = subject(name)

  def loss(weights, x, start, state, picked):
    y, _ = ours.layer.pure_fn((x, start), weights, state, toy.KEY)
    return jnp.sum(picked * y)

  gradients = jax.jit(jax.grad(loss))
  return lambda x, start, state, picked: gradients(
    ours.weights, x, np.asarray(start), state, picked
  )


@pytest.mark.parametrize(
  'name',
  [
    'fixed skip',
    'lstm dual',
    'slide',
    pytest.param('lstm single', marks=pytest.mark.slow),
  ],
)
def test_every_weight_gets_a_gradient(name):
  everything = toy.normal(2, LENGTH, VOCAB)
  gradients = gradients_of(name)(
    tokens(), FRESH, subject(name).fresh, everything
  )
  named = as_reference(gradients, LAYERS.get(name, (2,)), *name.split())
  for layer in named['layers']:
    table = np.asarray(layer.pop('t5'))
    # Only distances 1 to 16 occur; the bucket of each is its number.
    assert (np.abs(table[:, 1:17]) > 0).all()
    assert not table[:, 0].any() and not table[:, 17:].any()
  for path, g in jax.tree_util.tree_leaves_with_path(named):
    assert np.isfinite(g).all(), path
    # Some units of the states' feed-forward layers may be off for all states.
    assert (g != 0).mean() > 0.6, path


@pytest.mark.parametrize('name', ['fixed skip', 'lstm dual'])
def test_initial_states_get_gradients_only_where_sequences_start(name):
  ours, picked = subject(name), toy.normal(2, LENGTH, VOCAB)
  _, state = ours(tokens(seed=1), FRESH, ours.fresh)
  for start in (CONTINUED, [False, True], FRESH):
    gradients = gradients_of(name)(tokens(), start, state, picked)
    named = as_reference(gradients, (2,), *name.split())
    first = named['layers'][1]['state']['initial']
    assert np.any(first) == any(start)


def test_gradients_within_a_segment_pass_through_the_states():
  x = tokens() % 39 + 1
  x[:, :WINDOW] = np.arange(WINDOW) % 10 + 40
  # The output layer shares the embeddings; here it uses those below 10.
  picked = np.zeros((2, LENGTH, VOCAB), np.float32)
  picked[:, -WINDOW:, :10] = toy.normal(2, WINDOW, 10)
  rows = {}
  for name in ('fixed skip', 'lstm single', 'slide'):
    gradients = gradients_of(name)(x, FRESH, subject(name).fresh, picked)
    rows[name] = np.asarray(jax.tree.leaves(gradients)[0])[40:]
    assert rows[name].shape == (10, 32)
  assert np.abs(rows['fixed skip']).max(axis=1).min() > 1e-4
  assert np.abs(rows['lstm single']).max(axis=1).min() > 1e-4
  # Three layers see 48 positions, so they would see the end of block 0.
  one = Subject(slide(n_layers=1))

  def loss(weights):
    y, _ = one.layer.pure_fn((x, np.ones(2, bool)), weights, one.fresh, toy.KEY)
    return jnp.sum(picked * y)

  table = jax.tree.leaves(jax.jit(jax.grad(loss))(one.weights))[0]
  assert np.any(table[:39]) and not np.any(table[40:])


# Cost
# ------------------------------------------------------------------------------
def program(model, length):
  """Jaxpr of a forward pass of one sequence, and the shapes of its state."""
  layer = model(mode='eval')
  x = ShapeDtype((1, length), jnp.int32), ShapeDtype((1,), bool)
  weights, state = jax.eval_shape(lambda: layer.init(x, toy.KEY))
  jaxpr = jax.make_jaxpr(layer.pure_fn)(x, weights, state, toy.KEY)
  return jaxpr.jaxpr, state


@pytest.mark.parametrize(
  'name',
  [
    'fixed skip',
    'slide',
    pytest.param('lstm dual', marks=pytest.mark.slow),
  ],
)
def test_cost_is_linear_in_length_and_the_program_does_not_grow(name):
  model = slide() if name == 'slide' else lm(**VARIANTS[name])
  short, long = (program(model, n * WINDOW)[0] for n in (16, 32))
  assert abs(jaxprs.flops(long) / jaxprs.flops(short) - 2) < 0.02
  sizes = {len(list(jaxprs.equations(jaxpr))) for jaxpr in (short, long)}
  assert len(sizes) == 1


def test_cost_and_memory_of_the_published_model():
  ours, plain = (
    P(BlockRecurrentLM, vocab_size=32128, **layers)
    for layers in (dict(), dict(n_layers=13, recurrent_layers=()))
  )
  recurrent, state = program(ours, 4096)
  assert (
    0.95
    < jaxprs.flops(recurrent) / jaxprs.flops(program(plain, 4096)[0])
    < 1.03
  )
  sizes = [a.size for a in jax.tree.leaves(state)]
  # The small arrays are the last token, a flag that a sequence has begun, and
  # the rates of 25 Dropout layers.
  assert sum(n for n in sizes if n > 12) == 13_107_200
  assert sum(n for n in sizes if n <= 12) == 2 + 25
  assert toy.signature(state) == toy.signature(program(ours, 512)[1])

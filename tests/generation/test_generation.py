"""Generation: compiled programs that agree with evaluation."""

import functools
import re

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import toy

from trax_hier import config
from trax_hier.compat import tl
from trax_hier.generation import (
  generate,
  prepare,
  programs,
  sample_text,
  streaming,
)
from trax_hier.generation.sampling import Sampling
from trax_hier.generation.stop_sequences import stop_array
from trax_hier.layers import BlockRecurrentCell, SlidingAttention
from trax_hier.models import BlockRecurrentLM, HourglassLM, TransformerLM

SIZES = {key: value for key, value in toy.SIZES.items() if key != 'max_len'}
MODELS = {
  'transformer': functools.partial(TransformerLM, n_layers=2, **SIZES),
  'hourglass': functools.partial(HourglassLM, hierarchy='1@3', **SIZES),
  'block-recurrent': functools.partial(
    BlockRecurrentLM,
    n_layers=2,
    recurrent_layers=(2,),
    attention=functools.partial(SlidingAttention, window=8),
    recurrent_attention=functools.partial(
      BlockRecurrentCell, window=8, n_states=5
    ),
    carry=False,
    **SIZES,
  ),
}
MODEL = MODELS['transformer']


@functools.cache
def weights_of(name):
  shapes, _ = toy.shapes(MODELS[name](mode='eval'), prompt(4))
  # Logits are products with embeddings, divided by the root of their width.
  scale = 1.0 if name == 'block-recurrent' else 0.3
  return toy.random_like(shapes, scale=scale)


def prompt(length):
  return toy.tokens(length)


def rows(*lengths):
  return [toy.tokens(n, batch=1, seed=n)[0] for n in lengths]


def new_tokens(prompts, n_tokens, **settings):
  return generate(
    MODEL, weights_of('transformer'), prompts, n_tokens, **settings
  )


@pytest.mark.parametrize(
  'name',
  [
    'transformer',
    'block-recurrent',
    pytest.param('hourglass', marks=pytest.mark.slow),
  ],
)
def test_unequal_prompts_equal_one_at_a_time(name):
  # Empty, shorter than a group, and long enough to be read in chunks.
  prompts = rows(0, 2, 17, 40)
  together = generate(MODELS[name], weights_of(name), prompts, 6, temperature=0)
  for row, new in zip(prompts, together, strict=True):
    assert new.shape == (6,) and new.dtype == np.int32
    (alone,) = generate(MODELS[name], weights_of(name), [row], 6, temperature=0)
    np.testing.assert_array_equal(new, alone)


def test_samples_depend_only_on_the_seed_and_the_row():
  first, again, other = (
    new_tokens(prompt(4), 20, seed=seed) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (np.array(first) != other).any()
  same = new_tokens([prompt(4)[0]] * 2, 20)
  assert (same[0] != same[1]).any()
  # They depend on no other prompt, nor on its length or n_tokens.
  (alone,) = new_tokens([prompt(4)[0]], 30)
  together = new_tokens([prompt(4)[0], prompt(9)[0]], 20)
  np.testing.assert_array_equal(alone[:20], together[0])


def noting(traces):
  """The factory of a model that notes the shapes it is traced for."""

  def model(mode, max_len=2048):
    def note(x):
      traces.append(x.shape)
      return x

    layer = MODEL(mode=mode, max_len=max_len)
    return tl.Serial(tl.Fn('Note', note), layer)

  return model


@pytest.mark.parametrize('n_bytes, chunks', [(1, []), (-1, [(1, 16)])])
def test_only_long_prompts_are_read_in_chunks(n_bytes, chunks, monkeypatch):
  weights = ((), weights_of('transformer'))
  fed = 40 * sum(w.nbytes for w in jax.tree.leaves(weights))
  monkeypatch.setattr(programs, '_LONG_PROMPT_BYTES', fed + n_bytes)
  traces = []
  generate(noting(traces), weights, rows(40), 4)
  # The initialization and the model are traced once for all programs.
  assert traces == [(1, 1), (1, 1), *chunks]


def test_programs_do_not_depend_on_a_mesh_of_one_device():
  weights = weights_of('transformer')
  mesh = jax.make_mesh((1,), ('data',))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  found = {
    w.sharding
    for placed in (weights, jax.device_put(weights, everywhere))
    for w in jax.tree.leaves(prepare(MODEL, placed).weights)
  }
  assert len(found) == 1


def test_one_trace_for_all_lengths_and_settings():
  traces = []
  model = noting(traces)
  weights = ((), weights_of('transformer'))
  generate(model, weights, rows(16, 18), 4)
  before = len(traces)
  for settings in (
    dict(temperature=0.0),
    dict(temperature=0.3, seed=5),
    dict(top_k=2),
    dict(top_p=0.5, stop=[[1, 2], [3]]),
    dict(n_ids=4, n_tokens=9),
    dict(on_tokens=lambda new: None),
  ):
    generate(
      model, weights, **{'prompt': rows(17, 30), 'n_tokens': 4, **settings}
    )
  assert len(traces) == before
  generate(model, weights, rows(3), 4)
  assert len(traces) > before


def test_other_gin_bindings_make_another_model():
  name = 'trax_hier.models.TransformerLM.n_layers'

  def make(mode, max_len=2048):
    """A model whose most likely token is the bound value."""
    del mode, max_len
    logits = jnp.eye(5)[gin.query_parameter(name)]
    return tl.Fn('Bound', lambda x: jnp.broadcast_to(logits, (*x.shape, 5)))

  try:
    for value in (3, 1, 3):
      gin.bind_parameter(name, value)
      assert (generate(make, (), [[2]], 4, temperature=0)[0] == value).all()
  finally:
    config.clear()


def cut_at_stop(new, stop):
  """Reference: new tokens before the first stop sequence."""
  for end in range(1, len(new) + 1):
    for s in sorted(stop, key=len, reverse=True):
      if len(s) <= end and list(new[end - len(s) : end]) == list(s):
        return new[: end - len(s)]
  return new


def test_stop_ends_a_row_before_the_sequence():
  free = new_tokens(rows(4, 7), 40, seed=2)
  some = free[0][11:14], free[1][20:22], [free[0][30]]
  stopped = new_tokens(rows(4, 7), 40, seed=2, stop=some)
  for new, whole in zip(stopped, free, strict=True):
    np.testing.assert_array_equal(new, cut_at_stop(whole, some))
  assert len(stopped[0]) < 40
  assert {len(new) for new in stopped} != {40}


def test_a_stop_sequence_matches_no_prompt_tokens():
  (free,) = new_tokens(rows(6), 12, temperature=0)
  (end,) = (row[-1] for row in rows(6))
  (new,) = new_tokens(rows(6), 12, temperature=0, stop=[[end, free[0]]])
  np.testing.assert_array_equal(new, cut_at_stop(free, [[end, free[0]]]))
  assert len(new) > 0


@pytest.mark.parametrize('length', [1, 3, 11])
def test_long_and_many_stop_sequences(length):
  free = new_tokens(rows(4), 40, seed=2)[0]
  never = [[16, 16, 16, 16, i] for i in range(6)]
  stop = [*never, free[20 : 20 + length]]
  np.testing.assert_array_equal(
    new_tokens(rows(4), 40, seed=2, stop=stop)[0], cut_at_stop(free, stop)
  )


def test_streamed_tokens_add_up_to_the_result(monkeypatch):
  # A callback at every token.
  monkeypatch.setattr(streaming, '_SECONDS_PER_CALLBACK', 0)
  free = new_tokens(rows(4, 7), 40, seed=2)
  for stop in ((), [free[0][11:14]], [free[1][37:40], [*free[0][20:22], 1]]):
    chunks = []
    new = new_tokens(rows(4, 7), 40, seed=2, stop=stop, on_tokens=chunks.append)
    assert len(chunks) > 2
    streamed = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
    for a, b, whole in zip(streamed, new, free, strict=True):
      np.testing.assert_array_equal(a, b)
      np.testing.assert_array_equal(b, cut_at_stop(whole, stop))


def test_max_len_can_be_filled_to_the_last_token():
  free = new_tokens(rows(4), 20)
  np.testing.assert_array_equal(new_tokens(rows(4), 20, max_len=24)[0], free[0])
  with pytest.raises(
    ValueError,
    match='4 tokens and n_tokens = 20 exceed max_len = 23: set max_len = 24',
  ):
    new_tokens(rows(4), 20, max_len=23)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(n_tokens=0), 'n_tokens = 0 must be at least 1'),
    (dict(temperature=-1.0), 'temperature = -1.0 must'),
    (dict(temperature=float('nan')), 'temperature = nan must'),
    (dict(top_k=0), 'top_k = 0 must be at least 1'),
    (dict(top_p=0.0), 'top_p = 0.0 must be above 0'),
    (dict(top_p=1.5), 'top_p = 1.5 must be above 0 and at most 1'),
    (dict(n_ids=0), 'n_ids = 0 must be at least 1'),
    (dict(stop=[[1], []]), 'stop must hold sequences of token ids'),
    (dict(stop=[5]), 'stop must hold sequences of token ids'),
    (dict(stop=[[-1, 5]]), 'stop must hold sequences of token ids'),
    (dict(stop=[[0.5]]), 'stop must hold sequences of token ids'),
    (dict(seed=-1), 'seed = -1 must be at least 0'),
    (dict(prompt=[]), 'no rows'),
    (dict(prompt=np.zeros((2, 3))), 'token ids'),
    (dict(prompt=np.zeros((2, 3, 4), int)), 'token ids'),
    (dict(prompt=[np.array([-1])]), 'non-negative'),
    (dict(prompt=[np.array([3, 17])]), 'token 17, but the model has 17 ids'),
  ],
)
def test_bad_arguments(arguments, message):
  given = {'prompt': prompt(4), 'n_tokens': 1, **arguments}
  with pytest.raises(ValueError, match=message):
    generate(MODEL, weights_of('transformer'), **given)


def test_bad_precision():
  with pytest.raises(ValueError, match='one of float32, bfloat16, int8, got'):
    prepare(MODEL, weights_of('transformer'), 'float16')


LOGITS = np.array([0.0, 2.0, 1.0, 2.5, -1.0], np.float32)


def constant(mode, max_len=2048):
  """A model whose logits are always the same."""
  del mode, max_len
  return tl.Fn(
    'Constant', lambda x: jnp.broadcast_to(LOGITS, (*x.shape, len(LOGITS)))
  )


@pytest.mark.parametrize(
  'settings, kept, temperature',
  [
    (dict(), [0, 1, 2, 3, 4], 1.0),
    (dict(temperature=2.0), [0, 1, 2, 3, 4], 2.0),
    (dict(top_k=2), [1, 3], 1.0),
    (dict(top_p=0.9), [1, 2, 3], 1.0),  # 0.53, 0.32, 0.12, 0.02, 0.01
    (dict(n_ids=3, temperature=0.5), [0, 1, 2], 0.5),
  ],
)
def test_frequencies_over_steps_and_rows(settings, kept, temperature):
  new = np.array(generate(constant, (), [[]] * 8, 500, **settings))
  seen = np.bincount(new.ravel(), minlength=len(LOGITS))
  p = scipy.special.softmax(LOGITS[kept].astype(float) / temperature)
  assert seen.sum() == seen[kept].sum()
  assert scipy.stats.chisquare(seen[kept], p * seen.sum()).pvalue > 0.001


@pytest.mark.parametrize(
  'name',
  ['transformer', pytest.param('block-recurrent', marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
  'precision, tolerance',
  [
    ('float32', 0),
    pytest.param('bfloat16', 0.2, marks=pytest.mark.slow),
    ('int8', 0.2),
  ],
)
def test_all_precisions_generate_likely_tokens(name, precision, tolerance):
  prepared = prepare(MODELS[name], weights_of(name), precision)
  (new,) = generate(MODELS[name], prepared, rows(20), 9, temperature=0)
  whole = np.concatenate([rows(20)[0], new])[None]
  layer = MODELS[name](mode='eval')
  _, state = toy.shapes(layer, whole)
  logits, _ = toy.run(layer, whole, weights_of(name), toy.zeros_like(state))
  logits = np.asarray(logits)[0, 20:]
  # New tokens need not be the most likely in float32, but must be close.
  lost = logits.max(-1) - logits[np.arange(9), new]
  assert (lost <= tolerance).all() and np.ptp(logits) > 1.5


@pytest.mark.parametrize(
  'name', ['transformer', pytest.param('hourglass', marks=pytest.mark.slow)]
)
def test_no_step_copies_a_cache(name):
  program = programs.programs_of(MODELS[name], '', 2, 1024, 'float32')
  weights = prepare(MODELS[name], weights_of(name)).weights
  request = programs.Request(
    Sampling(1.0, 17, 1.0, 17), jax.random.PRNGKey(0), 4, stop_array(())
  )
  arguments = np.zeros((2, 1025), np.int32), np.zeros(2, np.int32), request
  decoding = jax.eval_shape(program.start, weights, *arguments)
  text = program.decode.lower(weights, decoding, request, 9).compile().as_text()
  # Caches hold hundreds of rows, each 8 numbers wide.
  assert re.search(r'f32\[4,\d{3,4},8\]\S* dynamic-update-slice', text)
  assert not re.search(r'f32\[4,\d{3,4},8\]\S* copy\(', text)


class Letters:
  """a to p are ids 1 to 16."""

  size = toy.VOCAB

  def encode(self, text):
    return np.array([ord(c) - 96 for c in text], np.int32)

  def decode(self, ids):
    assert 0 not in ids
    return ''.join(chr(96 + i) for i in ids)


def test_text_ends_before_the_first_zero():
  ids = Letters().encode('abc')
  for seed in range(20):
    new = list(new_tokens([ids], 20, temperature=3.0, seed=seed)[0])
    if 0 in new[1:]:
      break
  text = sample_text(
    MODEL, weights_of('transformer'), Letters(), 'abc', 20, 3.0, seed
  )
  assert text == Letters().decode(new[: new.index(0)])


def test_sampled_tokens_are_among_the_first_n_ids():
  new = new_tokens(prompt(4), 30, temperature=9.0, n_ids=3)
  assert set(np.ravel(new)) == {0, 1, 2}

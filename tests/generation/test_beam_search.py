"""Beam search, against plain reference searches over eval-mode logits."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import toy

from trax_hier import layers as hl
from trax_hier.compat import tl
from trax_hier.generation import beam_search, generate, prepare, programs
from trax_hier.generation.sampling import Sampling
from trax_hier.generation.stop_sequences import stop_array
from trax_hier.layers.base.once import Computed
from trax_hier.models import (
  BlockRecurrentLM,
  HourglassLM,
  ScalingTransformer,
  Terraformer,
  TransformerLM,
)

SIZES = {key: value for key, value in toy.SIZES.items() if key != 'max_len'}
MODELS = {
  'transformer': functools.partial(TransformerLM, n_layers=2, **SIZES),
  'hourglass': functools.partial(HourglassLM, hierarchy='1@3', **SIZES),
  'block-recurrent': functools.partial(
    BlockRecurrentLM,
    n_layers=2,
    recurrent_layers=(2,),
    attention=functools.partial(hl.SlidingAttention, window=4),
    recurrent_attention=functools.partial(
      hl.BlockRecurrentCell, window=4, n_states=3
    ),
    carry=False,
    **SIZES,
  ),
  'encoder-decoder': functools.partial(
    ScalingTransformer,
    n_encoder_layers=1,
    n_decoder_layers=1,
    attention=functools.partial(hl.SparseAttention, n_modules=4),
    feed_forward=functools.partial(hl.SparseFF, n_elements_in_block=8),
    positions=functools.partial(hl.LearnedPositions, 40),
    **SIZES,
  ),
  'terraformer': functools.partial(
    Terraformer,
    n_encoder_layers=1,
    n_decoder_layers=1,
    attention=functools.partial(hl.SparseAttention, n_modules=4),
    feed_forward=functools.partial(hl.SparseFF, n_elements_in_block=8),
    recurrence=functools.partial(hl.SRUBranch, d_sru=4),
    positions=functools.partial(hl.LearnedPositions, 40),
    **SIZES,
  ),
}
WITH_SOURCES = 'encoder-decoder', 'terraformer'
QUICK = ('transformer',)
LENGTH = 40  # Tokens of an evaluated row, padding included.
PROMPTS = [toy.tokens(n, batch=1, seed=n)[0] for n in (5, 0, 19)]
SOURCES = [toy.tokens(n, batch=1, seed=n)[0] + 1 for n in (5, 7, 6)]
SOURCES = [np.minimum(source, 16) for source in SOURCES]
STOP = [[3], [2, 5], [1, 4, 6], [7], [0]]
# Length penalty, stop sequences, n_ids.
SETTINGS = [
  (0.0, STOP, 17),
  (0.6, [[i, (i + 1) % 8] for i in range(8)], 8),
  (1.5, [[2], [5], [7, 1], [3, 3], [4, 0, 4]], 17),
  (2.5, [[2], [3], [4], [5], [0, 1]], 7),
]


def inputs(name, sources, tokens):
  return (sources, tokens) if name in WITH_SOURCES else tokens


@functools.cache
def weights(name, seed=0):
  x = np.zeros((1, 4), np.int32)
  shapes, _ = toy.shapes(MODELS[name](mode='eval'), inputs(name, x, x))
  scale = {'transformer': 0.3, 'hourglass': 0.3}.get(name, 0.6)
  return toy.random_like(shapes, seed, scale)


@functools.cache
def evaluator(name):
  layer = MODELS[name](mode='eval')

  @jax.jit
  def evaluate(weights, sources, tokens):
    x = inputs(name, sources, tokens)
    state = toy.zeros_like(toy.shapes(layer, x)[1])
    return layer.pure_fn(x, weights, state, toy.KEY)[0]

  return evaluate


def next_log_p(name, weights, n_ids, source, rows):
  """Log probabilities of the next token after each of several rows."""
  tokens = np.zeros((-(-len(rows) // 8) * 8, LENGTH), np.int32)
  sources = np.zeros((len(tokens), 8), np.int32)
  for to, row in zip(tokens, rows, strict=False):
    to[: len(row)] = row
  sources[:, : len(source)] = source
  logits = evaluator(name)(weights, sources, tokens)
  logits = np.asarray(logits, np.float64)[: len(rows), len(rows[0]), :n_ids]
  return scipy.special.log_softmax(logits, axis=-1)


def cut(new, stop):
  """New tokens before the longest stop sequence at the end, None if none."""
  lengths = [
    len(s) for s in stop if list(s) == new[max(0, len(new) - len(s)) :]
  ]
  return new[: -max(lengths)] if lengths else None


def penalty(length, exponent):
  return ((5 + length) / 6) ** exponent


def plain_search(following, prompt, n_tokens, k, exponent, stop):
  """Beam search with lists; it never ends early."""
  alive, ended = [(0.0, [])], []
  for n in range(1, n_tokens + 1):
    rows = following([[*prompt, *new] for _, new in alive])
    longer = [
      (log_p + step, [*new, token])
      for (log_p, new), steps in zip(alive, rows, strict=True)
      for token, step in enumerate(steps)
    ]
    longer.sort(key=lambda pair: -pair[0])
    alive = [pair for pair in longer if cut(pair[1], stop) is None][:k]
    ended += [
      (log_p / penalty(n, exponent), cut(new, stop))
      for log_p, new in longer[: 2 * k]
      if cut(new, stop) is not None
    ]
  ended += [(log_p / penalty(n_tokens, exponent), new) for log_p, new in alive]
  return max(ended)[1]


def exhaustive(following, prompt, n_tokens, exponent, stop, n_ids):
  """The best of all possible sequences."""
  scores = {}
  known = {}
  for n in range(n_tokens):
    prefixes = list(itertools.product(range(n_ids), repeat=n))
    rows = following([[*prompt, *prefix] for prefix in prefixes])
    known.update(zip(prefixes, rows, strict=True))
  for tokens in itertools.product(range(n_ids), repeat=n_tokens):
    log_p = 0.0
    for n, token in enumerate(tokens):
      log_p += known[tokens[:n]][token]
      left = cut(list(tokens[: n + 1]), stop)
      if left is not None:
        break
    left = list(tokens) if left is None else left
    # A sequence ends at its first stop, so all with this prefix are equal.
    scores[tokens[: n + 1]] = log_p / penalty(n + 1, exponent), left
  return max(scores.values())[1]


def beams(name, prompts, n_tokens, weights_seed=0, **settings):
  if name in WITH_SOURCES:
    settings.setdefault('sources', SOURCES[: len(prompts)])
  given = {'n_beams': 3, 'max_len': 64, **settings}
  return generate(
    MODELS[name], weights(name, weights_seed), prompts, n_tokens, **given
  )


@pytest.mark.parametrize('stop', [[], [[2]], [[1, 0], [2]], [[0, 0, 1]]])
@pytest.mark.parametrize('exponent', [0.0, 0.6, 2.0])
def test_enough_beams_search_exhaustively(exponent, stop):
  n_ids = 3
  for seed in range(2):
    following = functools.partial(
      next_log_p, 'transformer', weights('transformer', seed), n_ids, []
    )
    best = exhaustive(following, PROMPTS[0], 4, exponent, stop, n_ids)
    (new,) = beams(
      'transformer',
      PROMPTS[:1],
      4,
      seed,
      n_beams=41,  # All 81 continuations are among the 2 * 41 candidates.
      length_penalty=exponent,
      stop=stop,
      n_ids=n_ids,
    )
    assert new.tolist() == best


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in MODELS
  ],
)
def test_equals_the_reference(name):
  n_greedy, lengths = 0, set()
  for seed in range(3):
    for exponent, stop, n_ids in SETTINGS:
      settings = dict(length_penalty=exponent, stop=stop, n_ids=n_ids)
      together = beams(name, PROMPTS, 9, seed, **settings)
      for prompt, source, new in zip(PROMPTS, SOURCES, together, strict=True):
        following = functools.partial(
          next_log_p, name, weights(name, seed), n_ids, source
        )
        plain = plain_search(following, prompt, 9, 3, exponent, stop)
        assert new.dtype == np.int32 and new.tolist() == plain
        greedy = plain_search(following, prompt, 9, 1, exponent, stop)
        n_greedy += greedy == plain
        lengths.add(len(plain))
  # Some of the 36 searches find better continuations than greedy decoding.
  assert n_greedy < 32 and len(lengths) > 1


@pytest.mark.parametrize(
  'name',
  ['transformer', pytest.param('encoder-decoder', marks=pytest.mark.slow)],
)
def test_a_row_equals_the_row_alone(name):
  together = beams(name, PROMPTS, 9, stop=STOP)
  # The longest prompt is read in chunks when it is alone.
  for i, new in enumerate(together):
    sources = {} if name == 'transformer' else {'sources': [SOURCES[i]]}
    (alone,) = beams(name, [PROMPTS[i]], 9, stop=STOP, **sources)
    np.testing.assert_array_equal(new, alone)
  # Settings of sampling that beam search allows.
  same = beams(name, PROMPTS, 9, stop=STOP, temperature=0, on_tokens=None)
  assert list(map(list, same)) == list(map(list, together))


def test_one_beam_is_greedy():
  following = functools.partial(
    next_log_p, 'transformer', weights('transformer'), toy.VOCAB, []
  )
  for prompt in PROMPTS:
    (new,) = beams('transformer', [prompt], 9, n_beams=1, temperature=0)
    assert new.tolist() == plain_search(following, prompt, 9, 1, 0.6, [])


LOGITS = np.log([0.5, 0.2, 0.2, 0.1]).astype(np.float32)


def constant(mode, max_len=2048):
  """A model whose probabilities are always the same."""
  del mode, max_len
  return tl.Fn(
    'Constant', lambda x: jnp.broadcast_to(LOGITS, (*x.shape, len(LOGITS)))
  )


def test_the_search_ends_when_no_beam_can_win(monkeypatch):
  n_fed = []

  def trace_back(search, tokens, lengths):
    n_fed.append(np.count_nonzero(tokens, axis=1).tolist())
    return original(search, tokens, lengths)

  original = beam_search.trace_back
  monkeypatch.setattr(beam_search, 'trace_back', trace_back)
  for exponent in (0.0, 1.0):
    rows = generate(
      constant,
      (),
      [[], [3, 3]],
      40,
      n_beams=2,
      length_penalty=exponent,
      stop=[[0]],
    )
    assert [len(row) for row in rows] == [0, 0]
  # Without the penalty, the immediate stop wins at once. With it, beams with
  # probability 0.2, 0.04 and 0.008 could still win, since the penalty of 40
  # tokens divides their log probability by 7.5. A beam with 0.0016 cannot.
  assert n_fed == [[1, 1, 3, 3], [4, 4, 6, 6]]


def test_one_trace_for_all_lengths_and_settings():
  traces = []

  def model(mode, max_len=2048):
    def note(x):
      traces.append(x.shape)
      return x

    return tl.Serial(tl.Fn('Note', note), constant(mode, max_len))

  def search(**settings):
    given = dict(prompt=[[1], [2, 3]], n_tokens=4, n_beams=2)
    generate(model, ((), ()), **{**given, **settings})

  search()
  before = len(traces)
  for settings in (
    dict(prompt=[[1] * 9, []]),
    dict(n_tokens=9, length_penalty=0),
    dict(stop=[[1, 2], [3]], n_ids=3, temperature=0),
  ):
    search(**settings)
  assert len(traces) == before
  search(n_beams=3)
  assert len(traces) > before


def test_fewer_ids_than_beams():
  for stop, n in (([], 6), ([[1]], 6), ([[0], [1]], 0), ([[0, 0, 0]], 0)):
    for new in generate(
      constant, (), [[], [3]], 6, n_beams=5, n_ids=1, stop=stop
    ):
      assert new.tolist() == [0] * n


def traced(name, n_beams):
  """The traced decoding program for a capacity of 1024."""
  prepared = prepare(MODELS[name], weights(name)).weights
  m = 4 if name == 'encoder-decoder' else None
  program = programs.programs_of(MODELS[name], '', 2, 1024, 'float32', m)
  request = programs.Request(
    Sampling(1.0, 17, 1.0, 17), jax.random.PRNGKey(0), 4, stop_array(())
  )
  given = np.zeros((2, 1025), np.int32), np.zeros(2, np.int32), request
  sources = None if m is None else np.zeros((2, m), np.int32)
  decoding = jax.eval_shape(program.start, prepared, *given, sources)
  if n_beams > 1:
    decoding = jax.eval_shape(
      lambda *x: program.start_beams(*x[:2], n_beams, x[2]),
      prepared,
      decoding,
      0.6,
    )
  return program.decode.trace(prepared, decoding, request, 9)


def test_no_step_copies_a_cache():
  text = traced('transformer', 2).lower().compile().as_text()
  # 4 rows of 2 heads; a row of a cache is 8 numbers wide.
  assert re.search(r'f32\[8,\d{3,4},8\]\S* dynamic-update-slice', text)
  assert not re.search(r'f32\[8,\d{3,4},8\]\S* (copy|gather)\(', text)


@pytest.mark.slow
def test_decoding_does_not_contain_the_encoder():
  one, two = (
    str(traced('encoder-decoder', k).jaxpr).count('dot_general') for k in (1, 2)
  )
  assert one == two


def test_reordering_keeps_computed_values():
  def state(b):
    rows = jnp.arange(b * 2.0).reshape(b * 2, 1) // 2
    return rows, Computed(rows), jnp.arange(3), rows.reshape(1, b * 2, 1, 1)

  axes = beam_search.row_axes(state(4), state(2))
  assert jax.tree.leaves(axes) == [0, 0, -1, 1]
  beams = jnp.array([[0, 0], [1, 1]])
  moved, known, fixed, inner = beam_search.reorder_state(state(4), axes, beams)
  assert moved[:, 0].tolist() == [0, 0, 0, 0, 3, 3, 3, 3]
  assert inner.reshape(-1).tolist() == moved[:, 0].tolist()
  np.testing.assert_array_equal(known.value, state(4)[1].value)
  np.testing.assert_array_equal(fixed, [0, 1, 2])
  first = beam_search.repeat_rows(state(2), axes, 2, 2)
  assert first[0][:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_enough_candidates_when_the_most_likely_are_stops():
  stop = stop_array([[i] for i in range(5)])
  candidates = beam_search.extend(
    jnp.array([[0.0, -0.1]]),
    jnp.full((2, stop.shape[1]), -2),
    jnp.broadcast_to(-jnp.arange(8.0), (2, 8)),
    8,
    stop,
  )
  chosen = beam_search.select_beams(candidates, 2)
  assert chosen.tokens.tolist() == [[5, 5]]
  assert np.isfinite(chosen.log_p).all()


def test_the_most_likely_child_takes_the_slot_of_its_parent():
  rng = np.random.default_rng(0)
  for n in range(40):
    log_p = np.sort(rng.normal(size=(1, 12)))[:, ::-1]
    parents, tokens = rng.integers(0, 4, (1, 12)), np.arange(12)[None]
    matched = rng.integers(0, 2, (1, 12)) * (n > 20) * (tokens < 8)
    candidates = beam_search.Candidates(
      *map(jnp.asarray, (log_p, parents, tokens, tokens[..., None], matched))
    )
    chosen = jax.tree.map(
      lambda x: x[0].tolist(), beam_search.select_beams(candidates, 4)
    )
    best = [i for i in range(12) if not matched[0, i]][:4]
    assert sorted(chosen.tokens) == best
    assert chosen.parents == [parents[0, i] for i in chosen.tokens]
    for beam in set(chosen.parents):
      assert chosen.parents[beam] == beam
      first = min(i for i in best if parents[0, i] == beam)
      assert chosen.tokens[beam] == first


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(n_beams=0), 'n_beams = 0 must be at least 1'),
    (dict(n_beams=1, length_penalty=-0.1), 'length_penalty = -0.1 must'),
    (dict(length_penalty=float('nan')), 'length_penalty = nan must'),
    (dict(temperature=0.5), 'leave out temperature'),
    (dict(top_k=2), 'leave out top_k'),
    (dict(top_p=1.0, seed=3), 'leave out top_p, seed'),
    (dict(on_tokens=print), 'n_beams = 3: .* leave out on_tokens'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    beams('transformer', PROMPTS, 4, **arguments)

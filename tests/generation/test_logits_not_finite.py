"""Logits that are not finite end generation; they never become a token."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from trax_hier.compat import tl
from trax_hier.generation import generate

# The logits of the token after each token; those after 1 and 2 are finite.
LOGITS = np.zeros((6, 6), np.float32)
LOGITS[:, 1] = 9
LOGITS[2, 0] = -np.inf
LOGITS[3, 4] = np.nan
LOGITS[4, 4] = np.inf
LOGITS[5] = -np.inf
BAD = 3, 4, 5


def model(mode, max_len=2048):
  """A model whose logits depend on the last token alone."""
  del mode, max_len
  return tl.Fn('Table', lambda x: jnp.asarray(LOGITS)[x])


def new_tokens(*last, **settings):
  """New tokens after prompts that end in these tokens."""
  weights = model('eval').weights
  return generate(model, weights, [[1, x] for x in last], 3, **settings)


@pytest.mark.parametrize(
  'settings',
  [
    dict(temperature=0),
    dict(temperature=0.5),
    dict(top_k=2),
    dict(top_p=0.9),
    dict(on_tokens=lambda rows: None),
    dict(n_beams=2),
  ],
  ids=lambda options: ' '.join(options) or 'greedy',
)
def test_no_token_is_chosen(settings):
  generate_after = functools.partial(new_tokens, **settings)
  assert [len(row) for row in generate_after(1, 2)] == [3, 3]
  for bad in BAD:
    with pytest.raises(
      FloatingPointError, match=r'not finite in 1 of 2 rows; the first is row 1'
    ):
      generate_after(2, bad)


def test_only_the_logits_of_new_tokens_count():
  (new,) = generate(model, model('eval').weights, [[3, 4, 5, 1]], 2, 0)
  np.testing.assert_array_equal(new, [1, 1])


def test_tokens_before_are_streamed(monkeypatch):
  monkeypatch.setitem(globals(), 'LOGITS', np.roll(LOGITS, 2, axis=1))
  # After 1 comes 3, and nothing after 3.
  shown = []

  def other(mode, max_len=2048):
    return model(mode, max_len)

  with pytest.raises(FloatingPointError):
    generate(
      other,
      model('eval').weights,
      [[1]],
      3,
      0,
      on_tokens=lambda rows: shown.extend(rows[0].tolist()),
    )
  assert shown == [3]

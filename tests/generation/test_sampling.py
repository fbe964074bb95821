"""Frequencies of sampled tokens, against their probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from trax_hier.generation.sampling import Sampling, sample_tokens

LOGITS = np.array([0.5, 2.0, -1.0, 1.5, 2.0, -2.0, 0.0, 1.0], np.float32)
ALL = len(LOGITS)
N_SAMPLES = 20_000


@jax.jit
def samples(sampling, seed):
  keys = jax.random.split(jax.random.PRNGKey(seed), N_SAMPLES)
  logits = jnp.broadcast_to(LOGITS, (N_SAMPLES, ALL))
  return sample_tokens(logits, keys, sampling)


def counts(temperature=1.0, top_k=ALL, top_p=1.0, n_ids=ALL):
  sampling = Sampling(temperature, top_k, top_p, n_ids)
  tokens = samples(jax.tree.map(jnp.asarray, sampling), 3)
  assert tokens.dtype == jnp.int32
  return np.bincount(tokens, minlength=ALL)


def expected_probabilities(temperature=1.0, top_k=None, top_p=1.0, n_ids=None):
  """Probabilities by the definition, token by token."""
  p = scipy.special.softmax(LOGITS[:n_ids] / temperature)
  order = sorted(range(len(p)), key=lambda i: (-LOGITS[i], i))[:top_k]
  total = sum(p[i] for i in order)
  mass, keep = 0.0, []
  for i in order:
    if mass < top_p:
      keep.append(i)
    mass += p[i] / total
  q = np.zeros(ALL)
  q[keep] = p[keep]
  return q / q.sum()


@pytest.mark.parametrize(
  'settings',
  [
    dict(),
    dict(temperature=0.5),
    dict(temperature=3.0),
    dict(top_k=3),
    dict(top_k=1),
    dict(top_k=2, temperature=2.0),
    dict(top_p=0.6),
    dict(top_p=1e-6),
    dict(top_p=0.9, temperature=2.0),
    dict(top_k=4, top_p=0.7),
    dict(n_ids=3),
    dict(n_ids=3, top_k=2),
    dict(n_ids=1),
  ],
  ids=str,
)
def test_frequencies_are_the_probabilities(settings):
  seen, expected = (
    counts(**settings),
    expected_probabilities(**settings) * N_SAMPLES,
  )
  possible = expected > 0
  assert not seen[~possible].any()
  assert expected[possible].min() > 2
  assert seen[possible].all()
  if possible.sum() > 1:
    test = scipy.stats.chisquare(seen[possible], expected[possible])
    assert test.pvalue > 0.001


def test_the_chi_square_test_can_fail():
  test = scipy.stats.chisquare(
    counts(), expected_probabilities(temperature=1.05) * N_SAMPLES
  )
  assert test.pvalue < 0.001


@pytest.mark.parametrize('settings', [dict(), dict(top_k=3), dict(top_p=0.5)])
def test_temperature_0_takes_the_lowest_of_the_most_likely_ids(settings):
  assert counts(temperature=0.0, **settings)[1] == N_SAMPLES


def test_top_k_breaks_ties_by_id():
  assert counts(top_k=1)[1] == N_SAMPLES

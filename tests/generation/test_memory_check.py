"""Generation that cannot fit in memory is refused before anything compiles."""

import functools

import pytest
import toy

from trax_hier import environment
from trax_hier import layers as hl
from trax_hier.generation import generate
from trax_hier.models import TransformerLM

WINDOWED = functools.partial(
  hl.DecoderBlock,
  attention=functools.partial(hl.SelfAttention, window=10**8),
)
SIZES = {k: v for k, v in toy.SIZES.items() if k != 'max_len'}


@pytest.mark.parametrize(
  'block, prompts, settings, message',
  [
    (None, 1, {'n_tokens': 10**9}, r'1,073,741,824 tokens .*caches 206'),
    (None, 1, {'n_tokens': 9, 'max_len': 10**9}, '1,000,000,000 tokens'),
    (None, 1, {'n_tokens': 2**31}, 'at most 1,073,741,824 tokens'),
    (None, 1, {'n_tokens': 9, 'n_beams': 10**8}, 'beams: 100,000,000'),
    (None, 10**5, {'n_tokens': 10**5}, 'prompts: 100,000,'),
    (WINDOWED, 1, {'n_tokens': 9}, r'caches 19\.2 GB'),
  ],
)
def test_it_is_refused(monkeypatch, block, prompts, settings, message):
  blocks = {} if block is None else {'block': block}

  def model(mode, max_len=64):
    return TransformerLM(
      n_layers=1, mode=mode, max_len=max_len, **SIZES, **blocks
    )

  weights, _ = toy.shapes(model('eval'), toy.tokens(4))
  memory = 10**10, 'this machine'
  monkeypatch.setattr(environment, 'memory', lambda: memory)
  with pytest.raises(ValueError, match=message):
    generate(model, toy.zeros_like(weights), [[1]] * prompts, **settings)

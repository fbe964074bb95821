"""Parts of messages: suggestions and cut values."""

import pytest

from trax_hier.config import errors

WORDS = ['recurrent_attention', 'attention', 'recurrent_layers']
KNOWN = ['HourglassLM', 'DecoderBlock', 'EncoderDecoderBlock', 'Dense', 'SRU']


@pytest.mark.parametrize(
  'name, found',
  [
    ('Hourglass', ['HourglassLM']),
    ('hourglasslm', ['HourglassLM']),
    ('HuorglassLM', ['HourglassLM']),
    ('Decoder', ['DecoderBlock', 'EncoderDecoderBlock']),
    ('DecoderBlok', ['DecoderBlock', 'EncoderDecoderBlock']),
    ('Zebra', []),
    ('SR', ['SRU']),
    ('', []),
    ('Dense' * 10**5, []),
  ],
)
def test_suggestions_begin_with_the_nearest(name, found):
  ends = ' or '.join(f"'{each}'" for each in found)
  message = errors.suggest(name, KNOWN)
  assert message == (f'; did you mean {ends}?' if found else '')


def test_suggestions_do_not_heed_the_order_of_words():
  found = errors.suggest('attention_recurrent', WORDS)
  assert found.startswith("; did you mean 'recurrent_attention' or ")


def test_cut_in_the_middle():
  assert errors.cut_middle('ab' * 10, 20) == 'ab' * 10
  found = errors.cut_middle('a' * 2000 + 'b' * 2000, 20)
  assert found == 'a' * 10 + '... (3,980 more characters) ...' + 'b' * 10


def test_cut():
  assert errors.cut('x' * 160) == 'x' * 160
  found = errors.cut('x' * 5160)
  assert found == 'x' * 160 + '... (5,000 more characters)'

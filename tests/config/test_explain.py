"""Messages of configurables get the places of the bindings they name."""

import re

import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config


@pytest.fixture
def explained(tmp_path, monkeypatch):
  """Parses a.gin and bindings; returns the explanation of a message."""
  monkeypatch.chdir(tmp_path)

  def run(text, message, *bindings):
    (tmp_path / 'a.gin').write_text(text, encoding='utf-8')
    config.clear()
    config.parse(['a.gin'], bindings)
    return config.explain(ValueError(message))

  yield run
  config.clear()


@pytest.mark.parametrize(
  'text, message, place',
  [
    ('Adam.b2 = 7.0', 'Adam.b2 = 7.0 must be below 1', ' (a.gin:1)'),
    ('Adam.b2 = 7.0', 'Adam: b2 = 7.0 must be below 1', ' (a.gin:1)'),
    ('\nB = 7.0\nAdam.b2 = %B', 'Adam.b2 = 7.0: no', ' (a.gin:2)'),
    ('\nx/Adam.b2 = 7.0', 'Adam.b2 = 7.0: no', ' (a.gin:2)'),
    ('Adam.b2 = 7.0\nx/Adam.b2 = 8.0', 'Adam.b2: no', ' (a.gin:1, a.gin:2)'),
    ('Adam.b2 = 7.0', 'a.gin:1: Adam.b2 = 7.0: no', ''),
    ('Adam.b2 = 7.0', 'Adam.b1 = 7.0: no', ''),
    ('Adam.b2 = 7.0', 'Adam: b2 must be below 1, got 7.0', ' (a.gin:1)'),
    # A layer complains about a value that another configurable passed on.
    ('Adam.b2 = 7.0', 'Sub: b2 = 7.0 must be 1', ' (Adam.b2 at a.gin:1)'),
    ('B = 7.0\nAdam.b2 = %B', 'b2 = 7.0 must be 1', ' (Adam.b2 at a.gin:2)'),
    ('Adam.b2 = 7.0', 'Sub: b2 = 7.01 must be 1', ''),
    ('Adam.b2 = 7.0', 'Sub: b1 = 7.0 must be 1', ''),
    ('Adam.b2 = 7.0', 'MyAdam.b2 = 7.0: no', ''),
    ('Adam.b2 = 7.0', 'Adam.b2x = 7.0: no', ''),
  ],
)
def test_places(explained, text, message, place):
  assert explained(text, message) == message + place


def test_a_binding_of_the_command_line_has_no_line(explained):
  found = explained('Adam.b2 = 0.9', 'Adam.b2 = 7.0: no', 'Adam.b2 = 7.0')
  assert found == 'Adam.b2 = 7.0: no'


def test_a_long_value_does_not_hide_the_legal_ones(explained):
  found = explained(
    'Adam.b2 = 7.0', f"Adam.b2 = '{'y' * 3000}' must be one of 1, 2"
  )
  assert len(found) < 450 and 'more characters)' in found
  assert found.endswith(' must be one of 1, 2 (a.gin:1)')
  found = explained('', f'Adam.b2 = {"1, " * 3000}must be one of 1, 2')
  assert len(found) < 1100 and found.endswith(' must be one of 1, 2')


def test_a_missing_argument_is_told_at_the_call(explained):
  message = (
    'missing\n  No values supplied by Gin or caller for arguments: '
    "['constant']\n  In call to configurable 'multifactor' (<function>)"
  )
  text = 'Adam.b1 = 0.5\nAdam.learning_rate = @multifactor()'
  assert explained(text, message) == (
    'a.gin:2: Adam.learning_rate = @multifactor(): multifactor.constant must '
    "be given a value, as in --config='multifactor.constant = ...'"
  )


@pytest.mark.parametrize(
  'text, shape, binding',
  [
    ('TextFiles.batch_size = 900', (900, 32), 'TextFiles.batch_size = 900'),
    # The largest size counts, and the largest number that divides it.
    ('TextFiles.length = 7\nTextFiles.batch_size = 900', (900, 7), '.* = 900'),
    ('D = 500\nHourglassLM.d_model = %D', (7, 1500), '.*d_model = 500'),
    ("HourglassLM.hierarchy = '3@4000'", (8, 32000), ".* = '3@4000'"),
    ('HourglassLM.dropout = 0.900', (900,), ''),
    ('HourglassLM.n_heads = 8', (800,), ''),
    ('train.steps = 900', (900,), ''),
    ('', (900,), ''),
    ('TextFiles.batch_size = 900', (), ''),
  ],
)
def test_the_binding_of_a_large_array(explained, text, shape, binding):
  explained(text, '')
  assert re.fullmatch(binding, config.size_binding(shape))

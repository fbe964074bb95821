"""Plain gin beside our parser: names of Trax and ours, included files."""

import os

import gin
import pytest

from trax_hier import config
from trax_hier.compat import registration
from trax_hier.storage import configurables  # noqa: F401


@pytest.fixture(autouse=True)
def clear():
  registration.register('of Trax')
  yield
  config.clear()


# The warnings about the same name are equal, so that Python shows one.
@pytest.mark.parametrize(
  'name, selector',
  [
    ('HourglassLM', 'trax.models.HourglassLM'),
    ('models.TransformerLM', 'trax.models.TransformerLM'),
    ('SelfAttention', 'trax.layers.SelfAttention'),
    ('layers.SelfAttention', 'trax.layers.SelfAttention'),
    ('Adam', 'trax.optimizers.Adam'),
    ('train', 'trax.supervised.trainer_lib.train'),
  ],
)
def test_names_that_both_register_mean_those_of_trax(name, selector):
  parameter = {'Adam': 'b1', 'train': 'steps'}.get(name, 'n_heads')
  with pytest.warns(
    UserWarning, match=f'{name} means {selector} here;'
  ) as seen:
    gin.parse_config(f'X = @{name}\n{name}:\n  {parameter} = 1')
  assert len({str(w.message) for w in seen}) == 1
  reference = gin.query_parameter('%X')
  assert reference.configurable.selector == selector
  assert gin.query_parameter(f'{selector}.{parameter}') == 1


def test_names_that_one_registers_and_full_names(recwarn):
  gin.parse_config("""
    Terraformer.d_model = 3
    trax_hier.layers.SelfAttention.window = 4
    trax.models.HourglassLM.d_model = 5
    train_inputs = @trax.data.inputs.sequence_copy_inputs
  """)
  assert gin.query_parameter('trax_hier.models.Terraformer.d_model') == 3
  assert gin.query_parameter('trax_hier.layers.SelfAttention.window') == 4
  # The name in Python, which files of older Trax use.
  reference = gin.query_parameter('%train_inputs')
  assert reference.configurable.selector == 'trax.data.sequence_copy_inputs'
  assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


def test_our_parser_takes_our_names():
  config.parse(bindings=['HourglassLM.d_model = 3', 'SelfAttention.window = 4'])
  assert gin.query_parameter('trax_hier.models.HourglassLM.d_model') == 3


@pytest.mark.parametrize(
  'text', ['NoSuchName.x = 1', 'trax_hier.models.No.x = 1', 'a.b.C.x = 1']
)
def test_unknown_names_stay_errors(text):
  with pytest.raises(ValueError, match='No configurable matching'):
    gin.parse_config(text)
  gin.parse_config(text, skip_unknown=True)


def test_files_are_found_beside_the_file_that_includes_them(
  tmp_path, monkeypatch
):
  (tmp_path / 'a' / 'b').mkdir(parents=True)
  (tmp_path / 'a' / 'main.gin').write_text("include 'b/one.gin'\nX = 1\n")
  (tmp_path / 'a' / 'b' / 'one.gin').write_text("include 'two.gin'\nY = 2\n")
  (tmp_path / 'a' / 'b' / 'two.gin').write_text('X = 3\nZ = 3\n')
  monkeypatch.chdir(tmp_path)
  for file in ('a/main.gin', str(tmp_path / 'a' / 'main.gin')):
    gin.clear_config()
    gin.parse_config_file(file)
    found = [gin.query_parameter(f'%{name}') for name in 'XYZ']
    assert found == [1, 2, 3]
  # As in gin itself, the current folder comes first.
  (tmp_path / 'two.gin').write_text('Z = 4\n')
  gin.parse_config_file('a/main.gin')
  assert gin.query_parameter('%Z') == 4
  with pytest.raises(OSError, match='Unable to open file: two'):
    os.chdir('a')
    gin.parse_config_file('two.gin')

"""Configuration of small fakes: names, types, unused bindings, round trips."""

import os
import random
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gin
import numpy as np
import pytest

from trax_hier import config
from trax_hier.compat import base, tl

# Fakes ------------------------------------------------------------------------


def fakerun(
  model: Callable,
  data: Any = None,
  steps: int = 10,
  name: str = 'run',
  clip: float | None = None,
  debug: bool = False,
):
  return {
    'model': model(),
    'data': data,
    'steps': steps,
    'name': name,
    'clip': clip,
    'debug': debug,
  }


def FakeLM(
  d_model: int = 8,
  dropout: float = 0.1,
  hierarchy: str = '1@1',
  block: Callable | None = None,
  shape: tuple[int, ...] = (1, 2),
  kind: Literal['average', 'linear'] = 'average',
  vocab: Sequence[str] = (),
  mode: str = 'train',
):
  return ('FakeLM', d_model, dropout, hierarchy, shape, kind, vocab, mode) + (
    (block(), block(n_heads=1)) if block else ()
  )


def FakeBlock(n_heads: int = 2, parts: Any = (), old=0.5, **kwargs):
  return ('FakeBlock', n_heads, _called(parts), old)


def FakePart(d_ff: int = 4):
  return ('ours', d_ff)


def TheirFakePart(width: int = 4):
  return ('theirs', width)


class FakeData:
  def __init__(self, path: str = 'a', seed: int = 0):
    self.args = (path, seed)

  def __eq__(self, other):
    return self.args == other.args


class Protocolish:
  """A class that is not a data set."""


def typed_data(data: FakeData, limit: 'int | None' = None):
  return (data.args, limit)


def _called(part):
  if isinstance(part, dict):
    return {k: _called(v) for k, v in part.items()}
  if isinstance(part, list | tuple):
    return type(part)(map(_called, part))
  return part() if callable(part) else part


@pytest.fixture(autouse=True)
def fakes(tmp_path, monkeypatch):
  """Registers the fakes for one test, in an empty current folder."""
  monkeypatch.chdir(tmp_path)
  ours = {f.__name__: f for f in (fakerun, FakeLM, FakeBlock, FakePart)}
  ours |= {f.__name__: f for f in (FakeData, Protocolish, typed_data)}
  selectors, made = [], {}
  for name, fn in ours.items():
    deny = ['mode'] if name == 'FakeLM' else None
    made[name] = gin.external_configurable(
      fn, name, module='trax_hier.testing', denylist=deny
    )
    selectors.append(f'trax_hier.testing.{name}')
  for module in ('trax.testing', 'other.testing'):
    name = 'FakePart' if module == 'trax.testing' else 'Elsewhere'
    made[module] = gin.external_configurable(
      TheirFakePart if module == 'trax.testing' else lambda x=1: x,
      name,
      module=module,
    )
    selectors.append(f'{module}.{name}')
  config.clear()
  yield made
  config.clear()
  for selector in selectors:
    entry = gin.config._REGISTRY.pop(selector)
    gin.config._INVERSE_REGISTRY.pop(entry.wrapped, None)


def parse(text: str, *bindings: str):
  """Parses `text` as the file a.gin."""
  with open('a.gin', 'w') as f:
    f.write(textwrap.dedent(text).lstrip('\n'))
  config.parse(['a.gin'], bindings)


def message(text: str, *bindings: str) -> str:
  with pytest.raises(config.ConfigError) as e:
    parse(text, *bindings)
  return str(e.value)


# Files and bindings -----------------------------------------------------------


def test_later_files_win_and_bindings_come_on_top(fakes, tmp_path):
  (tmp_path / '1.gin').write_text('FakeBlock.n_heads = 1\nFakePart.d_ff = 1\n')
  (tmp_path / '2.gin').write_text('FakeBlock.n_heads = 3\nFakePart.d_ff = 3\n')
  config.parse(['1.gin', '2.gin'], ['FakePart.d_ff = 5'])
  assert fakes['FakeBlock']()[1] == 3
  assert fakes['FakePart']() == ('ours', 5)


def test_include_is_found_next_to_the_including_file(fakes, tmp_path):
  (tmp_path / 'sub/base').mkdir(parents=True)
  (tmp_path / 'sub/a.gin').write_text(
    "include 'base/x.gin'\nFakeBlock.n_heads = %N\n"
  )
  (tmp_path / 'sub/base/x.gin').write_text('N = 7\n')
  config.parse(['sub/a.gin'])
  assert fakes['FakeBlock']()[1] == 7
  at = [b.location for b in config.resolved()]
  assert [(x.file, x.line) for x in at] == [
    ('sub/base/x.gin', 1),
    ('sub/a.gin', 2),
  ]


@pytest.mark.parametrize(
  'name', ['quick.gin', 'gin/quick.gin', 'sub/enwik8.gin', 'gin/sub/enwik8.gin']
)
def test_packaged_files_are_found_from_any_folder(
  fakes, tmp_path, monkeypatch, name
):
  packaged = tmp_path / 'installed'
  (packaged / 'sub').mkdir(parents=True)
  (packaged / 'quick.gin').write_text("include 'sub/enwik8.gin'\n")
  (packaged / 'sub/enwik8.gin').write_text('FakeBlock.n_heads = 9\n')
  monkeypatch.setattr(config.files, 'packaged_gin_dir', lambda: packaged)
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  config.parse([name])
  assert fakes['FakeBlock']()[1] == 9


def test_current_folder_takes_precedence_over_packaged_files(
  fakes, tmp_path, monkeypatch
):
  packaged = tmp_path / 'installed'
  packaged.mkdir()
  (packaged / 'a.gin').write_text('FakeBlock.n_heads = 1\n')
  monkeypatch.setattr(config.files, 'packaged_gin_dir', lambda: packaged)
  parse('FakeBlock.n_heads = 2')
  assert fakes['FakeBlock']()[1] == 2


def test_packaged_gin_dir_of_a_checkout():
  assert config.packaged_gin_dir().name == 'gin'
  assert config.packaged_gin_dir().is_dir()


def test_missing_file_names_the_places_searched(tmp_path):
  with pytest.raises(config.ConfigError) as e:
    config.parse(['sub/nix.gin'])
  assert str(e.value).startswith("there is no gin file 'sub/nix.gin'")
  assert str(tmp_path / 'sub/nix.gin') in str(e.value)
  assert str(config.packaged_gin_dir() / 'sub/nix.gin') in str(e.value)


def test_missing_include_names_the_statement():
  found = message("FakePart.d_ff = 1\ninclude 'base/nix.gin'\n")
  assert found.startswith(
    "a.gin:2: include 'base/nix.gin': there is no gin file 'base/nix.gin'"
  )


def test_missing_file_suggests_a_packaged_one(tmp_path, monkeypatch):
  (tmp_path / 'p/hourglass').mkdir(parents=True)
  (tmp_path / 'p/hourglass/enwik8.gin').write_text('')
  monkeypatch.setattr(config.files, 'packaged_gin_dir', lambda: tmp_path / 'p')
  with pytest.raises(config.ConfigError, match=r"mean 'hourglass/enwik8\.gin'"):
    config.parse(['hourglas/enwik8.gin'])


def test_folder_binary_and_empty_name(tmp_path):
  (tmp_path / 'd').mkdir()
  (tmp_path / 'b.gin').write_bytes(b'\x80\xff\x00')
  for name, expected in [
    ('d', f'{tmp_path / "d"} is a folder, not a gin file'),
    (
      'b.gin',
      f'{tmp_path / "b.gin"} is not a gin file: byte 0 is not UTF-8 text',
    ),
    ('', 'the name of a gin file is empty'),
  ]:
    with pytest.raises(config.ConfigError) as e:
      config.parse([name])
    assert str(e.value) == expected


def test_unreadable_file(tmp_path, monkeypatch):
  (tmp_path / 'a.gin').write_text('')

  def refuse(*args, **kwargs):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr('builtins.open', refuse)
  with pytest.raises(config.ConfigError) as e:
    config.parse(['a.gin'])
  assert str(e.value) == f'cannot read {tmp_path / "a.gin"}: Permission denied'


def test_include_cycle(tmp_path):
  (tmp_path / 'b.gin').write_text("include 'a.gin'\n")
  assert message("include 'b.gin'") == (
    "b.gin:1: include 'a.gin': a file cannot include itself: "
    'a.gin includes b.gin includes a.gin'
  )


def test_an_error_binds_nothing(fakes):
  message('FakeBlock.n_heads = 5\nFakeBlock.n_hads = 6\n')
  assert config.resolved() == []
  assert fakes['FakeBlock']()[1] == 2


def test_import_statement(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / 'hier_fake_module.py').write_text('1 / 0\n')
  assert message('import hier_fake_modul').startswith(
    "a.gin:1: import hier_fake_modul: cannot import 'hier_fake_modul':"
    ' ModuleNotFoundError: No module named'
  )
  assert message('import hier_fake_module').endswith(
    'ZeroDivisionError: division by zero'
  )
  assert '__gin__' in message('from __gin__ import dynamic_registration')
  parse('import json.decoder\nfrom json import encoder\n')
  text = config.operative_text()
  assert '\nimport json.decoder\nfrom json import encoder\n' in text


@pytest.fixture
def module_beside(tmp_path, monkeypatch):
  """A gin file outside of the current folder, and a module beside it."""
  folder = tmp_path / 'models'
  folder.mkdir()
  (folder / 'hier_beside.py').write_text('import hier_beside_helper\n')
  (folder / 'hier_beside_helper.py').write_text('')
  (folder / 'a.gin').write_text('import hier_beside\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  yield folder
  for name in 'hier_beside', 'hier_beside_helper':
    sys.modules.pop(name, None)


@pytest.mark.parametrize('file', ['models/a.gin', '{folder}/a.gin'])
def test_a_module_beside_the_gin_file(module_beside, file):
  before = list(sys.path)
  config.parse([file.format(folder=module_beside)])
  assert 'hier_beside' in sys.modules
  assert sys.path[-1] == str(module_beside)
  assert str(module_beside) in config.import_folders()
  # The folder is searched last, so that it hides no package later on.
  assert sys.path[:-1] in (before, [os.getcwd(), *before])


def test_the_current_folder_comes_before_the_gin_file(module_beside, tmp_path):
  (tmp_path / 'hier_beside.py').write_text('here = True\n')
  config.parse(['models/a.gin'])
  assert sys.modules['hier_beside'].here


def test_a_module_that_is_nowhere(module_beside):
  (module_beside / 'a.gin').write_text('import hier_nowhere\n')
  with pytest.raises(config.ConfigError) as caught:
    config.parse(['models/a.gin'])
  assert str(caught.value).endswith(
    f"No module named 'hier_nowhere'; searched {module_beside.parent} and "
    f'{module_beside}; PYTHONPATH adds other folders'
  )


def test_a_file_of_others_imports_no_module_beside_it(module_beside):
  before = list(sys.path)
  with pytest.raises(config.ConfigError, match='--trust_code'):
    config.parse(['models/a.gin'], is_trusted=False)
  assert 'hier_beside' not in sys.modules and sys.path == before


def test_block_syntax(fakes):
  parse("""
      FakePart:
        d_ff = 3
      big/FakePart:
        d_ff = 30
      """)
  assert fakes['FakePart']() == ('ours', 3)
  with gin.config_scope('big'):
    assert fakes['FakePart']() == ('ours', 30)


# Faults of a statement: exact messages ----------------------------------------

FAULTS = {
  # Names.
  'FakeML.d_model = 1': "there is no configurable 'FakeML'; did you mean",
  'fakelm.d_model = 1': "there is no configurable 'fakelm'; did you mean"
  " 'FakeLM'",
  'Zzqy.x = 1': "there is no configurable 'Zzqy'; is the `import` of its module"
  ' missing?',
  'FakeLM.d_modl = 1': "FakeLM has no parameter 'd_modl'; did you mean"
  " 'd_model'? Its parameters: d_model, dropout, hierarchy, block, shape, kind,"
  ' vocab',
  'FakeLM.zzz = 1': "FakeLM has no parameter 'zzz'. Its parameters: d_model,",
  'FakeBlock.n_head = 1': "FakeBlock has no parameter 'n_head'; did you mean"
  " 'n_heads'? Its parameters: n_heads, parts, old",
  'FakeBlock.kwargs = 1': "FakeBlock has no parameter 'kwargs'. Its",
  'FakeData.self = 1': "FakeData has no parameter 'self'."
  ' Its parameters: path, seed',
  'middle/FakeBlock.n_heds = 1': "FakeBlock has no parameter 'n_heds'; did you",
  "FakeLM.mode = 'eval'": "FakeLM sets its parameter 'mode' itself: gin cannot",
  'FakeLM.block = @FakeBlok': "there is no configurable '@FakeBlok'; did you"
  " mean 'FakeBlock'",
  "FakeBlock.parts = (1, {'a': [@middle/FakePrt]})": 'there is no configurable'
  " '@FakePrt'; did you mean 'FakePart'",
  'FakeLM.d_model = %D_MODEL': 'there is no macro %D_MODEL',
  "FakeBlock.parts = (1, {'a': %NOPE})": 'there is no macro %NOPE',
  'D = %D': 'the macro D refers to itself',
  # Types.
  "FakeLM.d_model = '8'": "FakeLM.d_model takes int, not str '8'; did you mean"
  ' 8?',
  'FakeLM.d_model = 8.0': 'FakeLM.d_model takes int, not float 8.0; did you'
  ' mean 8?',
  'FakeLM.d_model = 8.5': 'FakeLM.d_model takes int, not float 8.5',
  'FakeLM.d_model = True': 'FakeLM.d_model takes int, not bool True',
  'FakeLM.d_model = None': 'FakeLM.d_model takes int, not None',
  'FakeLM.d_model = @FakeBlock': 'FakeLM.d_model takes int, not @FakeBlock',
  'FakeLM.d_model = @FakeData()': 'FakeLM.d_model takes int, not @FakeData()',
  "FakeLM.dropout = '0.1'": "FakeLM.dropout takes float, not str '0.1'; did you"
  ' mean 0.1?',
  'FakeLM.dropout = False': 'FakeLM.dropout takes float, not bool False',
  'FakeLM.hierarchy = 3': 'FakeLM.hierarchy takes str, not int 3',
  'FakeLM.shape = 3': 'FakeLM.shape takes tuple[int, ...], not int 3; did you'
  ' mean (3,)?',
  'FakeLM.shape = [3]': 'FakeLM.shape takes tuple[int, ...], not list [3]; did'
  ' you mean (3,)?',
  "FakeLM.shape = (3, 'a')": 'FakeLM.shape takes tuple[int, ...], not tuple'
  " (3, 'a')",
  "FakeLM.vocab = 'abc'": "FakeLM.vocab takes Sequence[str], not str 'abc'; did"
  " you mean ('abc',)?",
  "FakeLM.kind = 'lineer'": "FakeLM.kind takes one of 'average', 'linear', not"
  " str 'lineer'; did you mean 'linear'?",
  "FakeLM.block = 'FakeBlock'": 'FakeLM.block takes a reference such as @Name'
  " or None, not str 'FakeBlock'; did you mean @FakeBlock?",
  'FakeLM.block = @FakeData()': 'FakeLM.block takes a reference such as @Name'
  ' or None, not @FakeData(); did you mean @FakeData?',
  "FakeLM.block = 'x'": 'FakeLM.block takes a reference such as @Name or None,'
  " not str 'x'",
  'fakerun.debug = 1': 'fakerun.debug takes bool, not int 1',
  "fakerun.debug = 'true'": "fakerun.debug takes bool, not str 'true'; did you"
  ' mean True?',
  "fakerun.clip = '1'": "fakerun.clip takes float or None, not str '1'",
  "FakeBlock.old = 'x'": 'FakeBlock.old takes int or float or None, not'
  " str 'x'",
  'typed_data.data = @FakeData': 'typed_data.data takes FakeData, not'
  ' @FakeData; did you mean @FakeData()?',
  'typed_data.data = @Protocolish()': 'typed_data.data takes FakeData, not'
  ' @Protocolish()',
  "typed_data.limit = 'x'": "typed_data.limit takes int or None, not str 'x'",
  # Syntax.
  'FakeLM.d_model 3': "syntax error: Couldn't parse statement, expected",
  'FakeLM.d_model = ': 'syntax error: Unable to parse value.',
  'FakeLM.hierarchy = 2@6': 'syntax error: Expected newline.',
  'FakeLM.kind = linear': "syntax error: 'linear' is not a value: strings take"
  ' quotes, references a leading @, macros a leading %; Python spells True',
  "FakeLM.kind = 'linear": 'syntax error: ',
  'include base.gin': 'syntax error: ',
}


@pytest.mark.parametrize('binding', FAULTS)
def test_one_message_names_file_line_and_binding(binding):
  in_file = message(f'# comment\n\n{binding}\nFakePart.d_ff = 2\n')
  assert in_file.startswith(f'a.gin:3: {binding.strip()}: {FAULTS[binding]}')
  on_command_line = message('', binding)
  assert on_command_line.startswith(
    f"--config='{binding.strip()}': {FAULTS[binding]}"
  )
  for found in (in_file, on_command_line):
    assert '\n' not in found
    assert not re.search(' at 0x|ast\\.', found)


@pytest.mark.parametrize(
  'binding',
  [
    'FakeLM.dropout = 1',
    'FakeLM.shape = ()',
    'FakeLM.shape = (3, 4, 5)',
    "FakeLM.vocab = ['a', 'b']",
    "FakeLM.vocab = ('a',)",
    'FakeLM.block = None',
    'FakeLM.block = @middle/FakeBlock',
    'FakeLM.block = @FakeBlock()',
    'FakeLM.d_model = @FakePart()',
    'fakerun.clip = None',
    'fakerun.clip = 2',
    "fakerun.data = [1, {'a': @FakeData}]",
    'FakeBlock.old = None',
    'FakeBlock.old = 2',
    'typed_data.data = @FakeData()',
    'typed_data.limit = 3',
  ],
)
def test_right_types_pass(binding):
  parse(binding)


def test_unclosed_bracket_names_the_line_of_its_statement():
  found = message('FakePart.d_ff = 1\n\n# x\nFakeLM.shape = (1\nN = 3\n')
  assert found == (
    "a.gin:5: N = 3: syntax error: Expected ',' or ')'. (the statement starts"
    ' at line 4)'
  )
  found = message('FakePart.d_ff = 1\n\n# x\nFakeLM.shape = (1,\n  2,\n\n')
  assert found.startswith('a.gin:4: FakeLM.shape = (1,: syntax error: ')


# Macros -----------------------------------------------------------------------


def test_macros_expand_through_macros_files_and_containers(fakes):
  parse(
    """
      FakeLM.shape = (%N, %M)
      M = %N
      N = 1
      """,
    'N = 4',
  )
  assert fakes['FakeLM']()[4] == (4, 4)


def test_misspelled_macro_gets_a_suggestion():
  assert message('D_MODEL = 3\nFakeLM.d_model = %D_MODL\n') == (
    'a.gin:2: FakeLM.d_model = %D_MODL: there is no macro %D_MODL; did you mean'
    " 'D_MODEL'?"
  )


def test_type_through_a_macro_names_both_places():
  assert message("D = '8'\nFakeLM.d_model = %D\n") == (
    "a.gin:2: FakeLM.d_model = %D: FakeLM.d_model takes int, not str '8'; did"
    ' you mean 8? (%D is set at a.gin:1)'
  )


def test_required_macro_names_its_users(fakes):
  text = """
      D = %gin.REQUIRED
      TWICE = %D
      FakeLM.d_model = %D
      FakeLM.shape = (1, %TWICE)
      """
  assert message(text) == (
    'a.gin:1: D = %gin.REQUIRED: D must be given a value, as in'
    " --config='D = ...'; used by TWICE (a.gin:2), FakeLM.d_model (a.gin:3),"
    ' FakeLM.shape (a.gin:4)'
  )
  parse(text, 'D = 6')
  assert fakes['FakeLM']()[1] == 6
  assert fakes['FakeLM']()[4] == (1, 6)
  config.check_used()


def test_required_parameter():
  assert message('a/FakeLM.d_model = %gin.REQUIRED') == (
    'a.gin:1: a/FakeLM.d_model = %gin.REQUIRED: a/FakeLM.d_model must be given'
    " a value, as in --config='a/FakeLM.d_model = ...'"
  )


def test_macro_cycle():
  assert 'the macro A refers to itself' in message('A = (%B, 1)\nB = %A\n')


# Ten lines, each a list of ten of the line before.
LAUGHS = 'A0 = 1\n' + ''.join(
  f'A{i} = [{", ".join(10 * [f"%A{i - 1}"])}]\n' for i in range(1, 10)
)
CHAIN = 'A0 = 1\n' + ''.join(f'A{i} = %A{i - 1}\n' for i in range(1, 3000))


@pytest.mark.parametrize(
  'text, fault',
  [
    (LAUGHS, 'a.gin:6: A5 = .*: A5: the values have more than 100,000 items'),
    (CHAIN, 'a.gin:42: A41 = %A40: A41: macros, .* nested more than 40 deep'),
    (f'A = {50 * "["}{50 * "]"}\n', 'a.gin:1: A = .* more than 40 deep'),
  ],
)
def test_macros_that_ask_for_memory_or_time(text, fault):
  found = message(text)
  assert re.fullmatch(fault, found), found
  with pytest.raises(config.ConfigError, match=r'c\.gin: .* (items|deep)$'):
    config.parameters(
      f'{text}\ntrain.mesh = %A2999\nx.y = %A9\nx.z = %A', 'c.gin'
    )


def test_macros_within_the_limits():
  text = CHAIN.partition('A40 ')[0] + 'B = [%A1, %A1]\nC = {1: %B}\n'
  config.parse(bindings=[text])
  assert config.parameters(f'{text}x.y = %C') == {'x.y': '{1: [1, 1]}'}


def test_a_huge_file_is_not_read(tmp_path):
  file = tmp_path / 'huge.gin'
  file.write_bytes(b'#\n' * 2**18)
  with pytest.raises(config.ConfigError) as e:
    config.parse([str(file)])
  assert str(e.value) == (
    f'{file} is not a gin file: it has 524,288 bytes, and a gin file at most '
    '262,144'
  )


@pytest.mark.parametrize(
  'binding, bits, place',
  [
    ('DecoderBlock.d_ff = 67108864', 26, ''),
    ('N = 4294967296\nDecoderBlock.d_ff = %N', 26, ' (%N is set at a.gin:1)'),
    ('TopDownLM.scales = (-9999999999, 1)', 26, ''),
    ('multifactor.warmup_steps = 99999999999999999999999', 31, ''),
    ('train.steps = 2147483648', 31, ''),
  ],
)
def test_whole_numbers_have_a_limit(binding, bits, place):
  import trax_hier.models
  import trax_hier.training  # noqa: F401

  found = message(binding)
  assert f'takes whole numbers below 2 ** {bits}, not ' in found
  assert found.endswith(place) and found.startswith('a.gin:')


def test_a_value_in_a_message_is_one_short_line():
  found = message(f'DecoderBlock.d_ff = [{9999 * "1, "}]')
  assert len(found) < 500 and '\n' not in found


# Names that both trax and trax_hier register ----------------------------------


def test_short_name_means_trax_hier_and_full_name_trax(fakes):
  parse("""
      FakePart.d_ff = 5
      testing.FakePart.d_ff = 6
      trax.testing.FakePart.width = 7
      FakeBlock.parts = (@FakePart, @trax.testing.FakePart)
      """)
  assert fakes['FakePart']() == ('ours', 6)
  assert fakes['trax.testing']() == ('theirs', 7)
  assert fakes['FakeBlock']()[2] == (('ours', 6), ('theirs', 7))
  text = config.operative_text()
  assert '\nFakePart.d_ff = 6\n' in text
  assert '\ntrax.testing.FakePart.width = 7\n' in text
  assert '\nFakeBlock.parts = (@FakePart, @trax.testing.FakePart)\n' in text


def test_ambiguous_name_in_trax_hier_asks_for_the_full_name():
  gin.external_configurable(
    lambda x=1: x, 'FakePart', module='trax_hier.testing2'
  )
  try:
    found = message('FakePart.d_ff = 1')
  finally:
    gin.config._REGISTRY.pop('trax_hier.testing2.FakePart')
  assert found == (
    "a.gin:1: FakePart.d_ff = 1: 'FakePart' is ambiguous: write the full name,"
    ' trax.testing.FakePart or trax_hier.testing.FakePart or'
    ' trax_hier.testing2.FakePart'
  )


# Bindings without effect ------------------------------------------------------


def unused(**kwargs) -> str:
  with pytest.raises(config.ConfigError) as e:
    config.check_used(**kwargs)
  return str(e.value)


def test_binding_of_an_uncalled_configurable():
  parse('FakePart.d_ff = 1')
  assert unused() == (
    'a.gin:1: FakePart.d_ff = 1: nothing calls FakePart, so the binding has no'
    ' effect'
  )
  config.check_used(called_later=['FakePart'])


def test_binding_whose_callers_pass_the_argument(fakes):
  # The call of a macro is in the record of calls, too.
  parse('FakePart.d_ff = 1\nN = 4\nFakeBlock.n_heads = %N')
  fakes['FakeBlock']()
  fakes['FakePart'](d_ff=2)
  fakes['FakePart'](3)
  assert "every caller of FakePart passes 'd_ff', so" in unused()
  fakes['FakePart']()
  config.check_used()


def test_a_passed_argument_names_the_binding_of_the_outermost_caller():
  from trax_hier import models

  parse(
    """
    BlockRecurrentLM.vocab_size = 17
    BlockRecurrentLM.block = @b/DecoderBlock
    b/DecoderBlock.feed_forward = @SparseFF
    SlidingAttention.n_heads = 4
    """
  )
  models.BlockRecurrentLM(mode='eval')
  faults = unused()
  assert "'feed_forward' (bind BlockRecurrentLM.feed_forward instead)" in faults
  assert "'n_heads' (bind BlockRecurrentLM.n_heads instead)" in faults


def test_binding_in_another_scope(fakes):
  parse('middle/FakePart.d_ff = 1')
  fakes['FakePart']()
  with gin.config_scope('middles'):
    fakes['FakePart']()
  assert (
    "FakePart is called in no scope and scope 'middles', never in scope"
    " 'middle'"
  ) in unused()
  with gin.config_scope('middle'), gin.config_scope('inner'):
    fakes['FakePart']()
  config.check_used()


def test_unused_macros(fakes):
  parse('steps = 5\nD = 1\nE = %D\nFakePart.d_ff = %E\n')
  assert unused() == (
    '4 bindings have no effect:\n'
    '  a.gin:1: steps = 5: no binding uses the macro %steps (a parameter would'
    ' be Name.parameter)\n'
    '  a.gin:2: D = 1: only bindings without effect use %D\n'
    '  a.gin:3: E = %D: only bindings without effect use %E\n'
    '  a.gin:4: FakePart.d_ff = %E: nothing calls FakePart'
  )
  fakes['FakePart']()
  assert unused().startswith('a.gin:1: steps = 5: ')


def test_unused_macros_of_similar_names(fakes):
  parse('D_MODEL = 1\nD_MODLE = 2\nFakePart.d_ff = %D_MODEL\n')
  fakes['FakePart']()
  assert "(a parameter would be Name.parameter; did you mean 'D_MODEL'?)" in (
    unused()
  )


def test_packaged_files_may_have_unused_macros(fakes):
  del fakes
  config.parse(['tiny.gin'], ['D = 1'])
  assert unused().startswith("--config='D = 1': no binding uses the macro %D")


def test_many_faults_are_counted(fakes):
  del fakes
  parse(''.join(f'M{i} = 1\n' for i in range(1000)))
  lines = unused().splitlines()
  assert (len(lines), lines[-1]) == (22, '  and 980 more')


def test_value_hidden_by_a_scope_counts_as_used(fakes):
  parse('FakePart.d_ff = 1\nmiddle/FakePart.d_ff = 2\n')
  with gin.config_scope('middle'):
    assert fakes['FakePart']() == ('ours', 2)
  config.check_used()


def test_replacing_a_component_excuses_its_bindings(fakes):
  text = """
      N = 3
      fakerun.model = @FakeLM
      FakeLM.block = @FakeBlock
      FakeBlock.n_heads = %N
      """
  parse(text, 'fakerun.model = @FakePart')
  fakes['fakerun']()
  config.check_used()
  assert 'FakeBlock' not in config.operative_text()
  assert 'N = 3' not in config.operative_text()
  config.clear()
  # Not excused: bindings after the override, or after one of a plain value.
  parse(text, 'fakerun.model = @FakePart', 'FakeBlock.old = 1')
  fakes['fakerun']()
  assert unused().startswith("--config='FakeBlock.old = 1': nothing calls")
  config.clear()
  parse(text + '\nfakerun.steps = 3\nFakePart.d_ff = 1\n', 'fakerun.steps = 4')
  fakes['fakerun']()
  assert 'FakePart.d_ff = 1: nothing calls FakePart' in unused()


def test_required_values_of_a_replaced_component_are_not_asked_for(fakes):
  text = """
      P = %gin.REQUIRED
      fakerun.model = @FakeLM
      fakerun.data = @FakeData()
      FakeData.path = %P
      """
  parse(text, 'fakerun.data = @Protocolish()')
  fakes['fakerun']()
  config.check_used()
  config.clear()
  other = message(text, 'fakerun.model = @FakeBlock')
  assert 'P must be given a value' in other


def test_explain_shortens_the_messages_of_gin(fakes):
  parse('big/fakerun.steps = 3')
  with pytest.raises(TypeError) as e, gin.config_scope('big'):
    fakes['fakerun']()
  assert config.explain(e.value) == (
    'big/fakerun.model must be given a value, as in'
    " --config='big/fakerun.model = ...'"
  )

  def check():
    config.parse(bindings=['fakerun.stps = 3'])

  parse('fakerun.model = @FakePart')
  with pytest.raises(config.ConfigError) as e:
    fakes['fakerun'](model=check)
  assert '\n' in str(e.value)
  assert config.explain(e.value).endswith(' debug')
  assert config.explain(RuntimeError('a\nb')) == 'a\nb'


def test_explain_gives_a_message_on_one_line(fakes):
  del fakes
  assert config.explain(ValueError('a = Serial[\n  b\n]')) == 'a = Serial[ b ]'
  assert config.explain(MemoryError()) == 'there is not enough memory'


def test_explain_keeps_the_message_of_a_layer():
  def fail(x):
    raise ValueError('n_heads = 3 does not fit')

  layer = tl.Serial(tl.Serial(tl.Fn('Fails', fail)))
  with pytest.raises(base.LayerError) as e:
    layer(np.ones(2))
  message = 'Fails: n_heads = 3 does not fit (got (2,) float64)'
  assert str(e.value) == config.explain(e.value) == message


def test_value_of_a_parameter(fakes):
  parse("""
      N = 3
      FakeLM.d_model = %N
      fakerun.model = @middle/FakeBlock
      middle/FakeBlock.n_heads = %N
      fakerun.data = [@FakeData()]
      FakeData.path = 'x'
      """)
  assert config.value('FakeLM.d_model') == 3
  assert config.value('trax_hier.testing.FakeLM.d_model') == 3
  assert config.value('fakerun.model')() == fakes['FakeBlock'](n_heads=3)
  assert config.value('fakerun.data') == [fakes['FakeData']()]
  with pytest.raises(config.ConfigError, match='shape must be given'):
    config.value('FakeLM.shape')
  with pytest.raises(config.ConfigError, match="no configurable 'FakeML'"):
    config.value('FakeML.shape')


def test_explain_names_a_parameter_required_in_python():
  @gin.configurable(module='trax_hier.testing')
  def needs(x=gin.REQUIRED):
    return x

  try:
    with pytest.raises(RuntimeError) as e:
      needs()
  finally:
    gin.config._REGISTRY.pop('trax_hier.testing.needs')
  assert config.explain(e.value) == (
    "Required bindings for `needs` not provided in config: ['x']"
  )


# The operative config ---------------------------------------------------------

WHOLE = r"""
    import json.decoder
    N = 3
    ALL = (%N, 'x')
    UNUSED_NUMBER = 4
    fakerun.model = @FakeLM
    fakerun.name = 'it\'s "quoted" # not a comment, {braces} \n two lines'
    fakerun.data = @FakeData()
    fakerun.clip = None
    FakeData.path = "C:\\data"
    FakeLM.block = @middle/FakeBlock
    FakeLM.dropout = 1e999
    FakeLM.shape = (1, %N, -3)
    FakeLM.vocab = ['a long word number one', 'a long word number two', '%N @x']
    FakeBlock.n_heads = 8
    middle/FakeBlock.old = %UNUSED_NUMBER
    middle/FakeBlock.parts = {
      'zz': @deep/er/FakePart,
      'a': [@trax.testing.FakePart, @FakePart(), None, True, ()],
      'all': %ALL,
    }
    deep/FakePart.d_ff = 40
    deep/er/FakePart.d_ff = 41
    FakePart.d_ff = 2
    """


def test_operative_config_repeats_the_run(fakes):
  parse(WHOLE)
  first = fakes['fakerun']()
  config.check_used()
  text = config.operative_text()
  assert text.startswith('# Operative configuration')
  assert '\n# Read from: a.gin\n' in text
  assert '\nfakerun.steps = 10\n' in text  # a default
  assert 'FakeLM.mode' not in text  # denied to gin
  assert max(map(len, text.splitlines())) <= 81

  config.clear()
  assert fakes['FakeLM']() != first['model']
  config.clear()
  with open('operative.gin', 'w') as f:
    f.write(text)
  config.parse(['operative.gin'])
  assert fakes['fakerun']() == first
  config.check_used()
  again = config.operative_text()
  assert again.replace('operative.gin', 'a.gin') == text


def test_operative_config_keeps_bindings_called_later(fakes):
  parse('N = 7\nFakePart.d_ff = %N\nFakeBlock.n_heads = 3\n')
  fakes['FakeBlock']()
  config.check_used(called_later=['FakePart'])
  text = config.operative_text()
  config.clear()
  config.parse(bindings=[text])
  assert fakes['FakePart']() == ('ours', 7)


def test_resolved_gives_the_location_of_each_value():
  parse('N = 7\nmiddle/FakePart.d_ff = %N\n', 'N = 8')
  macro, binding = config.resolved()
  assert macro.name == 'N'
  assert macro.value == 8
  assert macro.location.file is None
  assert binding.name == 'middle/FakePart.d_ff'
  assert binding[:3] == ('middle', 'trax_hier.testing.FakePart', 'd_ff')
  assert binding.location == config.Location(
    'a.gin', 2, 'middle/FakePart.d_ff = %N'
  )


def test_parameters_of_gin_text():
  text = """
import json
import subprocess
import sys
A = 1
B = (%A, 2)
x.y = [%B, @z(), 'text %A']
s/x.y = %C
x.long = \\
    {'a': %A}
"""
  assert config.parameters(text) == {
    'x.y': "[(1, 2), @z(), 'text %A']",
    's/x.y': '%C',
    'x.long': "{'a': 1}",
  }


# Mutations --------------------------------------------------------------------


@pytest.mark.filterwarnings('ignore:invalid escape')
def test_mutated_files_parse_or_give_one_message():
  whole = textwrap.dedent(WHOLE)
  rng = random.Random(0)
  failed = 0
  for _ in range(300):
    text = list(whole)
    for _ in range(rng.randint(1, 3)):
      i = rng.randrange(len(text))
      text[i : i + rng.randint(0, 3)] = rng.choice(
        [
          '',
          '(',
          ')',
          "'",
          '@',
          '%',
          '=',
          '\n',
          'q',
          '\\',
          '\t',
          '\0',
          'é',
          '0',
        ]
      )
    try:
      parse(''.join(text))
    except config.ConfigError as e:
      failed += 1
      assert re.match(r'a\.gin:\d+: ', str(e)), e
      assert '\n' not in str(e)
    config.clear()
  assert failed > 150

"""A fault in a gin file gives one clear message, before any compilation.

Each operator below makes one mistake that people make, in a gin file of the
repository at a smoke-test size. The trainer must then exit with code 2 and one
message that names the place.
"""

import collections
import contextlib
import dataclasses
import inspect
import itertools
import random
import re
import typing
from pathlib import Path

import jax
import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config, trainer
from trax_hier.config import names

GIN = Path(config.packaged_gin_dir())
FILES = sorted(
  str(path.relative_to(GIN))
  for path in GIN.rglob('*.gin')
  if path.parent.name != 'base' and not path.name.startswith(('smoke', 'tiny'))
)
N_MUTANTS = 240
_STATEMENT = re.compile(r'([A-Za-z][\w./]*) = (\S(?:.*[^\\])?)')
# Words of Python errors, which mean nothing to a user.
_JARGON = (
  'Traceback',
  'NoneType',
  'has no attribute',
  'not subscriptable',
  'not iterable',
  'unexpected keyword',
  'positional argument',
  'not supported between',
  'unsupported operand',
  'AttributeError',
  'AssertionError',
  'IndexError',
  'KeyError',
  'ZeroDivisionError',
  'TypeError',
)


class NoPlace(Exception):
  """A file has no statement that an operator applies to."""


class Mutant(typing.NamedTuple):
  """A file with one fault.

  Attributes:
    operator: Name of the operator that made it.
    text: Its text.
    named: Texts, one of which the message must contain.
  """

  operator: str
  text: str
  named: tuple[str, ...]


@dataclasses.dataclass
class Statement:
  """`name = value` at a line, counted from 0, and its annotation."""

  line: int
  name: str
  value: str

  @property
  def is_macro(self):
    return '.' not in self.name

  @property
  def hint(self):
    if self.is_macro:
      return None
    configurable, _, parameter = self.name.rpartition('.')
    selector = names.resolve(configurable.rpartition('/')[2])
    made = names.registry()[selector].wrapped
    return inspect.signature(made).parameters[parameter].annotation


class Source:
  """The lines of a file, and its statements that no later one overrides."""

  def __init__(self, text, rng):
    self.lines, self.rng = text.splitlines(), rng
    found = {}
    for i, line in enumerate(self.lines):
      if match := _STATEMENT.fullmatch(line):
        found[match[1]] = Statement(i, match[1], match[2])
    self.statements = list(found.values())

  def included(self, text=None):
    """The texts of the included files."""
    text = '\n'.join(self.lines) if text is None else text
    texts = []
    for name in re.findall("^include '(.*)'", text, re.M):
      inner = (GIN / name).read_text()
      texts += [inner, *self.included(inner)]
    return texts

  @property
  def model(self):
    """Name of the model."""
    text = '\n'.join([*self.lines, *self.included()])
    return re.findall(r'^train\.model = @(\w+)', text, re.M)[0]

  def pick(self, fits):
    """One of the statements that fit; raises NoPlace if none does."""
    fitting = [s for s in self.statements if fits(s)]
    if not fitting:
      raise NoPlace
    return self.rng.choice(fitting)

  def mutant(self, statement, line, *named):
    """The file with another line in place of a statement."""
    operator = inspect.stack()[1].function
    lines = list(self.lines)
    lines[statement.line] = line
    named = named or (f'mutant.gin:{statement.line + 1}:',)
    return Mutant(operator, '\n'.join(lines) + '\n', named)

  def with_line(self, line, *named):
    """The file with one more line at a random place between statements."""
    at = self.rng.choice(self.statements).line
    lines = [*self.lines[:at], *line.split('\n'), *self.lines[at:]]
    operator = inspect.stack()[1].function
    named = named or (f'mutant.gin:{at + 1}:',)
    return Mutant(operator, '\n'.join(lines) + '\n', named)

  def set(self, name, values, *named):
    """The file with a binding to an illegal value at its end."""
    operator = inspect.stack()[1].function
    value = self.rng.choice(values)
    text = '\n'.join([*self.lines, f'{name} = {value}', ''])
    return Mutant(operator, text, named or (name, name.rpartition('.')[2]))


def is_number(statement):
  return re.fullmatch(r'[0-9.e-]+', statement.value) and not statement.is_macro


def is_integer(statement):
  return statement.hint is int and statement.value.isdigit()


# Operators: each returns a mutant of a file, or raises NoPlace.


def misspelled_configurable(source):
  """No configurable has a name that ends in 'Q'."""
  s = source.pick(lambda s: not s.is_macro)
  configurable, _, parameter = s.name.rpartition('.')
  return source.mutant(s, f'{configurable}Q.{parameter} = {s.value}')


def misspelled_parameter(source):
  """No parameter has a name that ends in 'q'."""
  s = source.pick(lambda s: not s.is_macro)
  return source.mutant(s, f'{s.name}q = {s.value}')


def misspelled_reference(source):
  """A reference to an unknown name."""
  s = source.pick(lambda s: s.value.startswith('@'))
  return source.mutant(s, f'{s.name} = {re.sub("@(.*/)?", "@Q", s.value)}')


def misspelled_macro(source):
  """A macro that nothing defines."""
  s = source.pick(lambda s: s.value.startswith('%') and '.' not in s.value)
  return source.mutant(s, f'{s.name} = {s.value}_Q')


def lost_macro(source):
  """A macro in use without a definition."""
  included = '\n'.join(source.included())
  values = [s.value for s in source.statements]
  s = source.pick(
    lambda s: (
      s.is_macro
      and (f'%{s.name}' in values or f'%{s.name}\n' in included)
      and sum(line.startswith(f'{s.name} =') for line in source.lines) == 1
      and f'\n{s.name} =' not in included
    )
  )
  return source.mutant(s, '', f'%{s.name}')


def lost_bracket(source):
  """A bracket that is not closed."""
  s = source.pick(lambda s: s.value[-1] in ')]')
  return source.mutant(s, f'{s.name} = {s.value[:-1]}', 'mutant.gin:')


def lost_quote(source):
  """A string that is not closed."""
  s = source.pick(lambda s: s.value[-1] == "'")
  return source.mutant(s, f'{s.name} = {s.value[:-1]}', 'mutant.gin:')


def curly_quotes(source):
  """Typographic quotes around a string."""
  s = source.pick(lambda s: s.value[-1] == "'")
  value = s.value.replace("'", '\u2019')
  return source.mutant(s, f'{s.name} = {value}')


def lost_equals(source):
  """A statement without its `=`."""
  s = source.pick(lambda s: True)
  return source.mutant(s, f'{s.name} {s.value}')


def two_equals(source):
  """`==` in place of `=`."""
  s = source.pick(lambda s: True)
  return source.mutant(s, f'{s.name} == {s.value}')


def no_value(source):
  """A binding without its value."""
  s = source.pick(lambda s: True)
  return source.mutant(s, f'{s.name} =', 'mutant.gin:')


def bare_word(source):
  """A string without quotes."""
  s = source.pick(lambda s: True)
  return source.mutant(s, f'{s.name} = many')


def arithmetic(source):
  """Gin evaluates no expressions."""
  s = source.pick(is_number)
  return source.mutant(s, f'{s.name} = 2 * {s.value}')


def lost_at(source):
  """A reference without its @ is a bare word."""
  s = source.pick(lambda s: s.value.startswith('@'))
  return source.mutant(s, f'{s.name} = {s.value[1:]}')


def quoted_reference(source):
  """A string in place of a reference."""
  s = source.pick(lambda s: s.value.startswith('@') and not s.is_macro)
  return source.mutant(s, f"{s.name} = '{s.value}'", s.name)


def conflict(source):
  """A conflict marker of git."""
  return source.with_line('<<<<<<< HEAD')


def prose(source):
  """A comment without its #."""
  return source.with_line('larger models need a smaller rate')


def string_for_number(source):
  """A string in place of a number."""
  s = source.pick(is_number)
  return source.mutant(s, f"{s.name} = 'many'")


def none_for_number(source):
  """None in place of a number that is not optional."""
  s = source.pick(lambda s: s.hint in (int, float) and is_number(s))
  return source.mutant(s, f'{s.name} = None')


def list_for_number(source):
  """A list in place of a number."""
  s = source.pick(is_number)
  return source.mutant(s, f'{s.name} = [{s.value}]')


def float_for_integer(source):
  """A fraction in place of an integer."""
  s = source.pick(is_integer)
  return source.mutant(s, f'{s.name} = {s.value}.5')


def boolean_for_integer(source):
  """A boolean in place of an integer."""
  s = source.pick(is_integer)
  return source.mutant(s, f'{s.name} = True')


def number_for_string(source):
  """A number in place of a string."""
  s = source.pick(lambda s: s.value[-1] == "'" and not s.is_macro)
  return source.mutant(s, f'{s.name} = 3')


def called_factory(source):
  """A called factory in place of the factory."""
  s = source.pick(lambda s: re.fullmatch(r'@\w+', s.value) and not s.is_macro)
  return source.mutant(s, f'{s.name} = {s.value}()', s.name)


def uncalled_data(source):
  """A class of data sets in place of a data set."""
  s = source.pick(lambda s: s.value == '@Synthetic()' and 'data' in s.name)
  return source.mutant(s, f'{s.name} = {s.value[:-2]}', s.name)


def required(source):
  """A required value that the user does not give."""
  s = source.pick(lambda s: s.name != 'train.init_from' and not s.is_macro)
  return source.mutant(s, f'{s.name} = %gin.REQUIRED')


def missing_include(source):
  """A missing file."""
  return source.with_line("include 'base/nowhere.gin'")


def missing_import(source):
  """A missing module."""
  return source.with_line('import nowhere.at_all')


def circular_include(source):
  """A file that includes itself."""
  return source.with_line("include 'mutant.gin'")


def circular_macros(source):
  """Two macros that refer to each other."""
  return source.with_line('ROUND = %ABOUT\nABOUT = %ROUND', 'ROUND', 'ABOUT')


def not_text(source):
  """A file in another encoding; `main` writes it."""
  return source.with_line('# Größe \udcff', 'UTF-8')


def bad_numbers_of_steps(source):
  """Counts such as the number of steps are at least 1."""
  name = source.rng.choice(['steps', 'eval_every', 'accumulate_steps'])
  return source.set(f'train.{name}', [0, -3])


def bad_sizes(source):
  """Sizes of a model are at least 1."""
  name = source.rng.choice(['d_model', 'd_ff', 'vocab_size', 'n_heads'])
  return source.set(f'{source.model}.{name}', [0, -16], name)


def too_many_heads(source):
  """The number of heads must divide the width."""
  if source.model == 'BlockRecurrentLM':
    raise NoPlace
  return source.set(f'{source.model}.n_heads', [3, 5, 10**9], 'n_heads')


def bad_dropout(source):
  """Dropout is a rate, at least 0 and below 1."""
  return source.set(f'{source.model}.dropout', [-0.1, 1.0])


def bad_hierarchy(source):
  """A hierarchy must be a palindrome of nested shorten factors."""
  if source.model != 'HourglassLM':
    raise NoPlace
  bad = ["'3@3 2@2'", "'3@'", "'abc'", "'1@2 4@3 1@2'", "''", "'2x3'", "'1@0'"]
  return source.set('HourglassLM.hierarchy', bad)


def bad_choice(source):
  """A string that is not one of the choices."""
  name, values = source.rng.choice(
    [
      ('train.compute_dtype', ["'float16'", "'int8'"]),
      ('Synthetic.task', ["'cpoy'", "''"]),
      ('multifactor.factors', ["'constant * x'", "''", "'linear warmup'"]),
    ]
  )
  return source.set(name, values)


def bad_batches(source):
  """A batch has at least one row and one token."""
  name = source.rng.choice(['batch_size', 'length', 'n_eval_rows'])
  return source.set(f'Synthetic.{name}', [0, -8])


def small_vocabulary(source):
  """The data has more ids than the model."""
  return source.set(f'{source.model}.vocab_size', [2, 40], 'vocab_size')


def unhashable_key(source):
  """A dictionary whose key is a list."""
  s = source.pick(lambda s: not s.is_macro)
  key = source.rng.choice(['[1]', '{}', '(1, [2])'])
  return source.mutant(s, f'{s.name} = {{{key}: 1}}')


def name_of_gin(source):
  """Names that serve gin itself."""
  s = source.pick(lambda s: True)
  name = source.rng.choice(['gin.constant', 'macro', 'gin.macro'])
  return source.mutant(s, f'{s.name} = @{name}()')


def huge_literal(source):
  """A number that Python does not convert, or a long string."""
  s = source.pick(is_number)
  value = source.rng.choice(['9' * 5000, "'" + 'y' * 3000 + "'", '[' * 3000])
  return source.mutant(s, f'{s.name} = {value}')


def odd_character(source):
  """A character that no statement has."""
  s = source.pick(lambda s: True)
  character = source.rng.choice(['\0', '\ufeff', '?', '$', '\u2028'])
  return source.mutant(s, f'{character}{s.name} = {s.value}', 'mutant.gin:')


def bad_seed(source):
  """A seed is a number of 63 bits."""
  return source.set('train.seed', [-1, 2**63, 2**64])


def unknown_home(source):
  """The home folder of nobody."""
  return source.set('train.init_from', ["'~nosuchuser/run'"], '~nosuchuser')


def unused_scope(source):
  """A binding in a scope in which nothing is called."""
  return source.set(f'nowhere/{source.model}.d_ff', [64])


def unused_configurable(source):
  """A binding of a configurable that nothing calls."""
  return source.set('HashingLM.width', [3], 'HashingLM')


def no_data_there(source):
  """A path that does not exist."""
  lines = [
    *source.lines,
    'train.data = @TextFiles()',
    "TextFiles.path = '/nowhere/at/all'",
    'TextFiles.vocab = None',
    'TextFiles.batch_size = 8',
    'TextFiles.length = 64\n',
  ]
  return Mutant('no_data_there', '\n'.join(lines), ('/nowhere/at/all',))


def wrong_kind(source):
  """A reference to another kind of component."""
  name, value = source.rng.choice(
    [
      ('train.data', '@Adam()'),
      ('train.data', "'enwik8'"),
      (f'{source.model}.positions', '@Adam'),
      (f'{source.model}.positions', '@Synthetic'),
      (f'{source.model}.positions', '@NoPositions()'),
    ]
  )
  return source.set(name, [value])


def bad_layers(source):
  """Impossible numbers of layers."""
  bad = {
    'HourglassLM': ('vanilla_layers', ['(1, -1)', '(1, 1, 1)', '2']),
    'TransformerLM': ('n_layers', ['-1']),
    'BlockRecurrentLM': ('recurrent_layers', ['(0,)', '(99,)', '3']),
    'Terraformer': ('n_decoder_layers', ['0', '-1']),
    'ScalingTransformer': ('n_encoder_layers', ['-1', '(1, 1)']),
    'TopDownLM': ('scales', ['(4, 3, 1)', '()', '(-1,)']),
    'BottomUpLM': ('n_layers', ['(1,)', '4']),
  }
  if source.model not in bad:
    raise NoPlace
  name, values = bad[source.model]
  return source.set(f'{source.model}.{name}', values, name)


OPERATORS = (
  misspelled_configurable,
  misspelled_parameter,
  misspelled_reference,
  misspelled_macro,
  lost_macro,
  lost_bracket,
  lost_quote,
  curly_quotes,
  lost_equals,
  two_equals,
  no_value,
  bare_word,
  arithmetic,
  lost_at,
  quoted_reference,
  conflict,
  prose,
  string_for_number,
  none_for_number,
  list_for_number,
  float_for_integer,
  boolean_for_integer,
  number_for_string,
  called_factory,
  uncalled_data,
  required,
  missing_include,
  missing_import,
  circular_include,
  circular_macros,
  not_text,
  bad_numbers_of_steps,
  bad_sizes,
  too_many_heads,
  bad_dropout,
  bad_hierarchy,
  bad_choice,
  bad_batches,
  bad_layers,
  wrong_kind,
  unused_configurable,
  no_data_there,
  unhashable_key,
  name_of_gin,
  huge_literal,
  odd_character,
  bad_seed,
  unknown_home,
)
# Found only after tracing the model, which takes seconds.
TRACED = small_vocabulary, unused_scope


def smoke_size(name):
  """A file followed by its smoke-test sizes."""
  text = (GIN / name).read_text()
  smoke = (GIN / 'smoke.gin').read_text()
  if name.startswith(('scaling', 'terraformer')) and name != 'scaling/text.gin':
    sources = (GIN / 'smoke_sources.gin').read_text()
    smoke = sources.replace("include 'smoke.gin'", smoke)
  return f'{text}\n{smoke}'


def mutants():
  """The same 200 mutants at every call: operators in turn, random files."""
  rng = random.Random(0)
  operators = itertools.chain(TRACED * 2, itertools.cycle(OPERATORS))
  found = []
  while len(found) < N_MUTANTS:
    mutant, operator = None, next(operators)
    while mutant is None:
      with contextlib.suppress(NoPlace):
        mutant = operator(Source(smoke_size(rng.choice(FILES)), rng))
    found.append(mutant)
  return found


class Built(Exception):
  """Everything is built; compilation would be next."""


@pytest.fixture
def main(tmp_path, monkeypatch, capsys):
  """Runs the trainer on a text; returns code, message, number of compilations.

  Raises `Built` instead of compiling the training step.
  """
  monkeypatch.chdir(tmp_path)
  check_used = config.check_used

  def checked(*args, **kwargs):
    check_used(*args, **kwargs)
    raise Built

  monkeypatch.setattr(config, 'check_used', checked)
  compiled = []

  def listen(event, duration, **_):
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append(duration)

  def run(text):
    compiled.clear()
    config.clear()
    Path('mutant.gin').write_text(text, errors='surrogateescape')
    code = trainer.main(['--config_file=mutant.gin', '--output_dir=run'])
    err = capsys.readouterr().err
    assert not list(Path().glob('run/*'))
    return code, err, len(compiled)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield run
  jax.monitoring.unregister_event_duration_listener(listen)
  config.clear()


def check(main, mutant):
  """Asserts that a mutant gives one clear message, before compilation."""
  code, message, compiled = main(mutant.text)
  about = f'{mutant.operator}: {message}'
  assert code == 2, about
  assert message.startswith('trax_hier.trainer: '), about
  assert message.endswith('\n') and message.count('\n') == 1, about
  assert len(message) < 700, about
  assert any(name in message for name in mutant.named), about
  assert not any(word in message for word in _JARGON), about
  if mutant.operator not in {operator.__name__ for operator in TRACED}:
    assert not compiled, about


def test_all_operators_make_mutants():
  made = mutants()
  assert made == mutants()
  assert len({mutant.text for mutant in made}) > 0.95 * N_MUTANTS
  counts = collections.Counter(mutant.operator for mutant in made)
  assert set(counts) == {f.__name__ for f in (*OPERATORS, *TRACED)}
  assert min(counts.values()) >= 2


def test_each_fault_is_one_message_before_any_compilation(main):
  for mutant in mutants()[2 * len(TRACED) :]:
    check(main, mutant)


@pytest.mark.slow
def test_faults_found_by_tracing(main):
  for mutant in mutants()[: 2 * len(TRACED)]:
    check(main, mutant)


@pytest.mark.parametrize(
  'name',
  [
    'block_recurrent/xl_512.gin',
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in FILES
      if name != 'block_recurrent/xl_512.gin'
    ),
  ],
)
def test_files_without_a_fault_are_built(main, name):
  with pytest.raises(Built):
    main(smoke_size(name))


def test_every_file_without_a_fault_parses(tmp_path):
  for name in FILES:
    config.clear()
    (tmp_path / 'whole.gin').write_text(smoke_size(name))
    config.parse([str(tmp_path / 'whole.gin')])
  config.clear()

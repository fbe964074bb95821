"""`trax-hier list` reads the source, and agrees with what gin knows."""

import inspect
import re
import subprocess
import sys

import pytest

import trax_hier.storage.configurables  # noqa: F401
from trax_hier import config
from trax_hier.commands import listing_files, listing_source
from trax_hier.config import names
from trax_hier.config.types import parameter_hints, takes_reference
from trax_hier.layers.base import slots

OURS = {
  selector.rpartition('.')[2]: selector
  for selector, _ in names.registry().items()
  if selector.startswith('trax_hier.')
}


def test_all_configurables_are_listed():
  found = {f'{x.module}.{name}' for name, x in listing_source.parts().items()}
  assert found == set(OURS.values())
  assert all(x.summary for x in listing_source.parts().values())


@pytest.mark.parametrize('name', OURS)
def test_arguments_are_those_that_gin_binds(name):
  part = listing_source.parts()[name]
  assert [a.name for a in part.arguments] == config.bindable_parameters(
    OURS[name]
  )
  signature = inspect.signature(names.registry()[OURS[name]].wrapped)
  for argument in part.arguments:
    default = signature.parameters[argument.name].default
    if argument.default is None:
      assert default is inspect.Parameter.empty
    elif inspect.isclass(default) or inspect.isfunction(default):
      assert argument.default == default.__name__
    else:
      assert eval(argument.default) == default


def test_kinds_are_those_of_the_slots():
  kinds = {k: x for k, x in vars(slots).items() if isinstance(x, slots.Kind)}
  listed = listing_source.kinds()
  assert list(listed) == list(kinds)
  for name, kind in kinds.items():
    found = listed[name]
    assert (found.signature, found.parts) == (kind.signature, kind.parts)
    assert found.noun == kind.noun


def test_all_slots_are_listed():
  takes_part = {
    f'{name}.{parameter}'
    for name, selector in OURS.items()
    if selector.startswith(('trax_hier.layers.', 'trax_hier.models.'))
    for parameter, hint in parameter_hints(
      names.registry()[selector].wrapped
    ).items()
    if takes_reference(hint) and parameter != 'kernel_initializer'
  }
  listed = {
    f'{part.name}.{slot}'
    for part in listing_source.parts().values()
    for slot in part.slots
  }
  assert listed == takes_part - {'Repeat.block'}


def test_defaults_fit_their_slots():
  kinds = listing_source.kinds()
  for part in listing_source.parts().values():
    for argument in part.arguments:
      if kind := part.slots.get(argument.name):
        fitting = (*kinds[kind].parts, 'None', None)
        assert argument.default in fitting, (part.name, argument)


def test_gin_files_have_a_line_and_say_what_they_need():
  files = {f.name: f for f in listing_files.gin_files()}
  root = config.packaged_gin_dir()
  assert files.keys() == {
    path.relative_to(root).as_posix()
    for path in root.rglob('*.gin')
    if path.parent.name != 'base'
  }
  assert all(20 < len(f.summary) < 160 for f in files.values())
  for name in 'quickstart.gin', 'text.gin', 'terraformer/pairs.gin':
    config.clear()
    bindings = [f"{macro} = 'x'" for macro in files[name].required]
    config.parse([name], bindings)
    for i in range(len(bindings)):
      with pytest.raises(config.ConfigError, match='must be given'):
        config.clear()
        config.parse([name], bindings[:i] + bindings[i + 1 :])
  assert files['text.gin'].required == ('DATA',)
  assert 'TextFiles.vocab' in files['text.gin'].header


@pytest.mark.parametrize(
  'name, lines',
  [
    ((), ['quickstart.gin', 'HourglassLM', 'SelfAttention', 'TextFiles']),
    (('files',), ['text.gin +DATA +A small Hourglass on your own text']),
    (('mix/hourglass_sparse.gin',), ['Parameters: ']),
    (('configurables',), ['SelfAttention +Causal self-attention']),
    (('slots',), ['a gate: x, x, x -> x +BlockRecurrentCell.gate +@FixedGate']),
    (
      ('SelfAttention',),
      [
        r'window +int \| None +None +Number of positions',
        'd_model +int +required',
        'qkv +factory +@DenseQKV',
        'SelfAttention.output takes a projection: @Dense, @NoProjection',
        'fits into: DecoderBlock.attention, .*',
      ],
    ),
    (('@Adam',), ['b1 +float +0.9', 'fits into: train.optimizer$']),
    (('multifactor',), ['fits into: .*Adam.learning_rate']),
    (('LearnedPositions',), ['fits into: .*BlockRecurrentLM.positions']),
    (
      ('HourglassLM.shorten',),
      [
        'takes a shortening: @AverageShorten, @LinearShorten, @AttentionShorten'
      ],
    ),
  ],
)
def test_what_is_printed(program, name, lines):
  code, out, err = program('list', *name)
  assert (code, err) == (0, '')
  for line in lines:
    assert re.search(line, out, re.MULTILINE), line


@pytest.mark.parametrize(
  'name, message',
  [
    ('SelfAtention', "no configurable 'SelfAtention'; did you mean 'SelfAtt"),
    ('file', "did you mean 'files'"),
    ('enwik8.gin', "no gin file 'enwik8.gin'; did you mean 'hourglass/enwik8"),
    ('Adam.beta', "no argument of Adam 'beta'"),
  ],
)
def test_unknown_names(program, name, message):
  code, out, err = program('list', name)
  assert (code, out, len(err.splitlines())) == (2, '', 1)
  assert err.startswith('trax-hier list: ') and message in err


@pytest.mark.parametrize(
  'arguments', [['--version'], ['list'], ['list', 'SelfAttention']]
)
def test_jax_is_not_imported(arguments):
  code = f"""
import sys
from trax_hier import cli
try:
  cli.main({arguments})
finally:
  assert not {{'jax', 'numpy', 'trax'}} & sys.modules.keys()
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stderr) == (0, '') and done.stdout


def test_version_is_one_line(program, capsys):
  with pytest.raises(SystemExit) as end:
    program('--version')
  assert not end.value.code
  out = capsys.readouterr().out
  assert re.fullmatch(
    r'trax-hier [\d.]+ \(jax [\d.]+, trax [\d.]+, Python [\d.]+\)\n', out
  )

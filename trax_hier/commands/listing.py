"""`trax-hier list`: the gin files and the configurables, without JAX."""

import argparse
import itertools
import textwrap
from collections.abc import Iterable

from trax_hier.commands.failures import Failure

HELP = 'list gin files, models, layers and what fits where'
DESCRIPTION = """
Lists what there is to configure. Without NAME, an overview. NAME is one of

  files                     the gin files, each with a line and what it needs
  hourglass/enwik8.gin      a gin file: its header
  configurables             models, layers, data sets, ... each with a line
  slots                     the arguments that take a part, and the parts
  SelfAttention             a configurable: its arguments, defaults, slots, and
                            the slots that it fits into
  DecoderBlock.attention    an argument; if it is a slot, also what fits
"""

_TITLES = {
  'trax_hier.models': 'models, for train.model',
  'trax_hier.layers': 'layers',
  'trax_hier.data': 'data sets, for train.data, and vocabularies',
  'trax_hier.training': 'training: optimizers, schedules and train itself',
}
_TEXTS = 'TextFiles', 'DocumentLanes', 'TextPairs'
# Where configurables go that fit into no slot, by name or module.
_PLACES = {
  'trax_hier.models': ['train.model'],
  'trax_hier.data': ['train.data', 'SpanCorruption.data'],
  'SpanCorruption': ['train.data'],
  'TextPairs': ['train.data'],
  'Subwords': [f'{x}.vocab' for x in _TEXTS],
  'Tiktoken': [f'{x}.vocab' for x in _TEXTS],
  'Adafactor': ['train.optimizer'],
  'Adam': ['train.optimizer'],
  'SGD': ['train.optimizer'],
  'multifactor': [f'{x}.learning_rate' for x in ('Adafactor', 'Adam', 'SGD')],
}
_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  parser.add_argument('name', nargs='?', metavar='NAME', help='see above')


def main(arguments: argparse.Namespace) -> None:
  """Prints the list."""
  name = arguments.name
  sections = {
    None: _print_overview,
    'files': _print_files,
    'configurables': _print_configurables,
    'slots': _print_slots,
  }
  if name in sections:
    sections[name]()
  elif name.endswith('.gin'):
    _print_file(name.removeprefix('gin/'))
  else:
    _print_part(*name.removeprefix('@').partition('.')[::2])


def _print_overview():
  from trax_hier.commands.listing_files import gin_files
  from trax_hier.commands.listing_source import parts
  from trax_hier.commands.printing import print_heading

  files = gin_files()
  print(f'{len(files)} gin files (trax-hier list files)')
  for folder, group in itertools.groupby(
    files, lambda f: f.name.rpartition('/')[0]
  ):
    names = [f.name.removeprefix(f'{folder}/') for f in group]
    _print_wrapped(f'{folder}/' if folder else '', names)
  for module, group in itertools.groupby(
    parts().values(), lambda part: part.module
  ):
    print_heading(_TITLES[module])
    _print_wrapped('', [part.name for part in group])
  print(
    '\ntrax-hier list configurables: each with a line; slots: what fits where; '
    'NAME: one of them'
  )


def _print_wrapped(title: str, names: Iterable[str]) -> None:
  text = f'{title}: ' * bool(title) + ', '.join(names)
  print(textwrap.fill(text, _WIDTH, subsequent_indent='    '))


def _print_files():
  from trax_hier.commands.listing_files import gin_files
  from trax_hier.commands.printing import print_table

  rows = [(f.name, ', '.join(f.required), f.summary) for f in gin_files()]
  print_table(('gin file', 'needs', 'what it is'), rows)


def _print_file(name):
  from trax_hier.commands.listing_files import gin_files

  files = {f.name: f for f in gin_files()}
  if name not in files:
    raise _unknown('gin file', name, files)
  print(files[name].header)
  if files[name].required:
    print(f'Must be given: {", ".join(files[name].required)}')


def _print_configurables():
  from trax_hier.commands.listing_source import parts
  from trax_hier.commands.printing import print_heading, print_table

  for module, group in itertools.groupby(
    parts().values(), lambda part: part.module
  ):
    print_heading(_TITLES[module])
    print_table(('name', 'what it is'), [(p.name, p.summary) for p in group])


def _print_slots():
  from trax_hier.commands.listing_source import kinds, parts
  from trax_hier.commands.printing import print_table

  rows = []
  for kind_name, kind in kinds().items():
    slots = [
      f'{part.name}.{slot}'
      for part in parts().values()
      for slot, found in part.slots.items()
      if found == kind_name
    ]
    head = f'{kind.noun}: {kind.signature}'.removesuffix(': ')
    fitting = [f'@{part}' for part in kind.parts]
    for row in itertools.zip_longest([head], slots, fitting, fillvalue=''):
      rows.append(row)
    rows.append(('', '', ''))
  print_table(('takes', 'slots', 'parts that fit'), rows[:-1])
  print(
    '\nA part of your own fits if its inputs and outputs do: x (b, l, d), x/2 '
    '(b, l/2, d), y (b, l, d_out), mask (b, l).'
  )


def _print_part(name, argument):
  from trax_hier.commands.listing_source import kinds, parts
  from trax_hier.commands.printing import print_table

  if name not in parts():
    known = [*parts(), 'files', 'configurables', 'slots']
    raise _unknown('configurable', name, known)
  part = parts()[name]
  shown = [a for a in part.arguments if argument in ('', a.name)]
  if argument and not shown:
    named = [a.name for a in part.arguments]
    raise _unknown(f'argument of {name}', argument, named)
  print(f'{part.module}.{name}')
  print(part.summary)
  if shown:
    print()
    rows = [(a.name, *_type_and_default(a), a.text) for a in shown]
    print_table(('argument', 'type', 'default', 'meaning'), rows)
  for slot, kind_name in part.slots.items():
    if argument in ('', slot):
      kind = kinds()[kind_name]
      print(f'\n{name}.{slot} takes {kind.noun}:', end=' ')
      print(', '.join(f'@{each}' for each in kind.parts))
  if not argument:
    _print_uses(name)


def _type_and_default(argument):
  factory = argument.takes_factory
  default = argument.default
  if default is None:
    default = 'required'
  elif factory and default != 'None':
    default = f'@{default}'
  return ('factory' if factory else argument.type), default


def _print_uses(name):
  from trax_hier.commands.listing_source import kinds, parts

  uses = [*_PLACES.get(name, _PLACES.get(parts()[name].module, ()))]
  uses += [
    f'{part.name}.{slot}'
    for part in parts().values()
    for slot, kind_name in part.slots.items()
    if name in kinds()[kind_name].parts
  ]
  if uses:
    print()
    _print_wrapped('fits into', uses)


def _unknown(what, name, known):
  from trax_hier.config.errors import cut, suggest

  hint = suggest(name, known) or '; `trax-hier list` shows all'
  return Failure(f"there is no {what} '{cut(name)}'{hint}", 2)

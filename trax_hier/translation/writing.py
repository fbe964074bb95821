"""The text of a translated gin file."""

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import PurePath

from trax_hier.config import text
from trax_hier.config.files import Reference
from trax_hier.config.foreign import Setting
from trax_hier.translation.draft import SECTIONS
from trax_hier.translation.translate import Translation

_WIDTH = 100
_LINE = '# ' + 78 * '='
# The first macros, in this order; the others follow.
_FIRST = (
  'DATA',
  'VOCAB',
  'VOCAB_SIZE',
  'D_MODEL',
  'D_FF',
  'N_HEADS',
  'N_LAYERS',
  'DROPOUT',
)


def file_text(
  translation: Translation,
  config_files: Sequence[str],
  output: str,
  n_parameters: int | None = None,
) -> str:
  """Returns the text of the new gin file.

  Args:
    translation: What it says.
    config_files: The old files, for the header.
    output: Path of the new file, for the header.
    n_parameters: Number of parameters of the model, if it is known.
  """
  draft = translation.draft
  lines = _header(translation, config_files, output, n_parameters)
  order = [name for name in _FIRST if name in draft.macros]
  order += [name for name in draft.macros if name not in order]
  lines += [f'{name} = {_value(draft.macros[name])}' for name in order]
  for title in SECTIONS:
    lines += ['', f'# {title}', _LINE]
    for name, value in draft.sections[title].items():
      lines += _binding(name, value)
  lines += _remarks(translation)
  return '\n'.join([*lines, ''])


def _header(translation, config_files, output, n_parameters):
  draft = translation.draft
  files = ', '.join(map(str, config_files))
  required = [n for n, v in draft.macros.items() if _value(v) == _REQUIRED]
  given = [f'''--config="{name} = '...'"''' for name in required]
  run = [
    f'python -m trax_hier.trainer --config_file={shlex.quote(output)}',
    *given,
    f'--output_dir=runs/{shlex.quote(PurePath(output).stem)}',
  ]
  title = f'{translation.model}, translated from {translation.origin}: {files}'
  lines = [*_comment(title), '#']
  if n_parameters is not None:
    lines.append(f'# Parameters: {n_parameters:,}')
  separator = ' \\\n#                 '
  lines.append(f'# Run:        {separator.join(run)}')
  if draft.decisions:
    lines += ['#', '# Yours to decide:']
    for name, what in draft.decisions.items():
      lines += _comment(f'{name}: {what}', '    ')
  lines += ['#', *_comment(_counts(translation)), '']
  return lines


_REQUIRED = '%gin.REQUIRED'


def _counts(translation):
  """How many of the old settings are not in the new file."""
  counts = {
    'lost or different': len(translation.draft.lost),
    'unknown': len(translation.unknown),
    'of parts not used or of data': sum(translation.unused.values()),
    'without effect on results': len(translation.draft.harmless),
  }
  listed = ', '.join(f'{what}: {n}' for what, n in counts.items() if n)
  if not listed:
    return 'All old settings have a counterpart.'
  return f'Old settings that this file does not have ({listed}): see its end.'


def _remarks(translation):
  """The last section: all settings that are not in the new file."""
  draft, lines = translation.draft, []
  if draft.lost:
    lines += ['#', '# The model or its training differs, or a setting is lost:']
    for setting, reason in draft.lost:
      said = f'{_said(setting)} -- {reason}' if setting else reason
      lines += _comment(said, '    ')
  if translation.unknown:
    lines += ['#', '# Unknown settings, which are left out:']
    for setting in translation.unknown:
      lines += _comment(_said(setting), '    ')
  if translation.unused:
    listed = ', '.join(f'{n} ({k})' for n, k in translation.unused.items())
    title = '# Settings of parts not used, and of data that are replaced:'
    lines += ['#', title]
    lines += _comment(listed, '    ')
  if draft.harmless:
    names = dict.fromkeys(setting.key for setting in draft.harmless)
    lines += ['#', '# Settings that change no result here:']
    lines += _comment(', '.join(names), '    ')
  if not lines:
    return []
  return ['', '# Not translated', _LINE, *lines[1:]]


def _said(setting: Setting) -> str:
  """'file:line: name = value' of an old binding, on one line."""
  if setting.location.file is None:
    return str(setting.location)
  scope = f'{setting.scope}/' if setting.scope else ''
  name = f'{scope}{setting.selector}'
  if setting.parameter:
    name += f'.{setting.parameter}'
  value = ' '.join(text.write(setting.value).split())
  return f'{setting.location.short}: {name} = {value}'


def _binding(name, value):
  """`name = value`, whose value may take several lines."""
  written = _value(value)
  if '\n' not in written and len(name) + len(written) < _WIDTH:
    return [f'{name} = {written}']
  return [f'{name} = \\', *(f'    {line}' for line in written.splitlines())]


def _value(value):
  if isinstance(value, Reference) and value.name == 'gin.REQUIRED':
    return _REQUIRED
  return text.write(value)


def _comment(sentence, indent=''):
  """A sentence as lines of a comment."""
  return textwrap.wrap(
    sentence,
    _WIDTH,
    initial_indent=f'# {indent}',
    subsequent_indent=f'#   {indent}',
    break_long_words=False,
    break_on_hyphens=False,
  )

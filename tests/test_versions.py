"""The tested versions, and the warning of others."""

import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import jax
import pytest
from packaging.requirements import Requirement

from trax_hier import versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def test_project_requires_tested_versions():
  assert set(versions.TESTED) <= set(PROJECT['dependencies'])
  # They have an upper bound.
  assert not any('99' in Requirement(x).specifier for x in versions.TESTED)


def test_readme_names_tested_versions():
  readme = ' '.join((ROOT / 'README.md').read_text().split())
  names = [c.rpartition(' ')[2] for c in PROJECT['classifiers']]
  numbers = re.findall(r'[\d.]+', ' '.join(versions.TESTED))
  first, (major, minor), trax = numbers[0], numbers[1].split('.'), numbers[2]
  assert (
    f'Python {names[0]} to {names[-1]}, JAX {first} to {major}.{int(minor) - 1}'
    f' and trax {trax}'
  ) in readme


def test_constraints_are_tested_versions():
  lines = (ROOT / 'constraints.txt').read_text().splitlines()
  pinned = dict(line.split('==') for line in lines)
  for tested in map(Requirement, versions.TESTED):
    assert pinned[tested.name] in tested.specifier


VERSIONS = ['0.4.38', '0.9.2', '0.10', '0.10.2', '0.12.0.1', '0.12.9', '0.13.0']
VERSIONS += [
  '0.13',
  '0.13.0.dev1+abc',
  '0.100',
  '1.0',
  '1.4.0',
  '1.4.1',
  '1.4.2',
]


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('tested', versions.TESTED)
def test_comparison_is_that_of_pip(version, tested):
  expected = version in Requirement(tested).specifier
  assert versions._satisfies(version, tested) == expected


def test_unreadable_version_is_not_tested():
  assert not versions._satisfies('unknown', versions.TESTED[0])


def test_no_warning_of_tested_versions():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    versions.warn_of_untested()


def test_loaded_version_counts(monkeypatch):
  monkeypatch.setattr(jax, '__version__', '99.1')
  with pytest.warns(UserWarning, match=r'not tested with jax 99\.1;') as caught:
    versions.warn_of_untested()
  (one,) = caught
  assert str(one.message).endswith(f"pip install '{versions.TESTED[0]}'")


def test_import_warns_once_in_one_line(tmp_path):
  for name in ('jax', 'trax'):
    folder = tmp_path / f'{name}-99.1.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text(f'Name: {name}\nVersion: 99.1\n')
  done = subprocess.run(
    [sys.executable, '-c', 'import trax_hier.environment, trax_hier.cli'],
    env=os.environ | {'PYTHONPATH': f'{tmp_path}:{ROOT}'},
    capture_output=True,
    text=True,
    check=True,
  )
  (line,) = done.stderr.splitlines()
  assert 'jax 99.1 and trax 99.1' in line
  for tested in versions.TESTED:
    assert f"'{tested}'" in line

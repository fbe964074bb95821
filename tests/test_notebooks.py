"""Notebooks run from top to bottom, and their stored outputs are readable."""

import itertools
import os
import re
import shlex
import subprocess
import tomllib
import venv
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / 'notebooks').glob('*.ipynb'))
MAX_BYTES = 400_000  # of a file
MAX_WIDTH = 100  # characters of a line of printed text
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
REPOSITORY = PROJECT['urls']['Repository']
COLAB = REPOSITORY.replace(
  'https://github.com', 'https://colab.research.google.com/github'
)

each_notebook = pytest.mark.parametrize('path', FILES, ids=lambda p: p.stem)


def read(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  return notebook


def code_of(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def execute(notebook, folder, **options):
  """Runs all cells in a folder; a failing shell command is an error."""
  for cell in code_of(notebook):
    if re.search(r'^!', cell.source, re.MULTILINE):
      # A tag marks the commands that must fail.
      code = 2 if 'refused' in cell.metadata.get('tags', ()) else 0
      cell.source += f'\nassert _exit_code == {code}, _exit_code'
  settings = {'metadata': {'path': str(folder)}}
  NotebookClient(notebook, resources=settings, **options).execute()


@each_notebook
def test_all_cells_run(path, tmp_path, monkeypatch):
  monkeypatch.setenv('TRAX_HIER_SMOKE', '1')
  notebook = read(path)
  execute(notebook, tmp_path, timeout=300)
  for cell in code_of(notebook)[2:]:
    assert cell.outputs, cell.source
    for output in cell.outputs:
      assert output.get('name') != 'stderr', output.text


@pytest.mark.slow
@each_notebook
def test_all_cells_run_at_full_size(path, tmp_path, monkeypatch):
  monkeypatch.delenv('TRAX_HIER_SMOKE', raising=False)
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  execute(read(path), tmp_path, timeout=600)


def texts_of(cell):
  """Yields the text outputs of a cell."""
  for output in cell.outputs:
    yield output.get('text', '')
    yield output.get('data', {}).get('text/plain', '')


@each_notebook
def test_outputs_come_from_one_run_from_top_to_bottom(path):
  cells = code_of(read(path))
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))
  for cell in cells:
    for output in cell.outputs:
      assert output.output_type != 'error'
      assert output.get('name') != 'stderr', output.text
    # Consecutive outputs to stdout are shown as separate boxes.
    kinds = [(o.output_type, o.get('name')) for o in cell.outputs]
    pairs = itertools.pairwise(kinds)
    assert ('stream', 'stdout') not in (a for a, b in pairs if a == b)
    for text in texts_of(cell):
      assert not re.search(r'/(home|root|tmp|work|usr|content)/', text), text


@each_notebook
def test_files_are_small_and_lines_short(path):
  assert path.stat().st_size < MAX_BYTES
  for cell in code_of(read(path)):
    for text in texts_of(cell):
      lines = [line for line in text.splitlines() if len(line) > MAX_WIDTH]
      assert not lines, lines


@each_notebook
def test_first_cells(path):
  header, install, parameters, *_ = read(path).cells
  assert header.source.startswith('# ')
  assert f'({COLAB}/blob/main/notebooks/{path.name})' in header.source
  assert 'minute' in header.source
  assert 'parameters' in parameters.metadata.tags
  assert "SMOKE = bool(os.environ.get('TRAX_HIER_SMOKE'))" in parameters.source
  assert install.source == read(FILES[0]).cells[1].source


def packages(text):
  """The set of packages that the last pip command of a text installs."""
  command = text.replace('\\\n', ' ').split('pip install')[-1]
  return {word for word in shlex.split(command) if not word.startswith('-')}


def test_notebooks_install_the_dependencies():
  required = set(PROJECT['dependencies'])
  # Only tensorflow-datasets, which notebooks do not install, needs
  # importlib_resources.
  required -= {'trax==1.4.1', 'importlib_resources'}
  installed = packages(read(FILES[0]).cells[1].source)
  assert required <= installed
  assert f'git+{REPOSITORY}\n' in read(FILES[0]).cells[1].source
  readme = (ROOT / 'README.md').read_text()
  (block,) = re.findall(r'```bash\n(pip install --no-deps.*?)```', readme, re.S)
  assert packages(block) == installed


@pytest.mark.slow
def test_runs_in_a_fresh_environment(tmp_path, monkeypatch):
  """As on Colab, Jupyter is installed and the package is not."""
  monkeypatch.setenv('TRAX_HIER_SMOKE', '1')
  notebook = read(FILES[0])
  address = r'git\+https://\S+'
  install, n = re.subn(address, str(ROOT), notebook.cells[1].source)
  assert n == 1
  notebook.cells[1].source = install
  nbformat.write(notebook, tmp_path / 'notebook.ipynb')
  venv.create(tmp_path / 'fresh', with_pip=True)
  python = tmp_path / 'fresh' / 'bin' / 'python'
  for arguments in (
    ['-m', 'pip', 'install', '-q', 'nbconvert', 'ipykernel'],
    ['-m', 'nbconvert', '--to=notebook', '--execute', 'notebook.ipynb'],
  ):
    done = subprocess.run(
      [python, *arguments],
      cwd=tmp_path,
      # Finds the environment's programs, as activating it does.
      env={**os.environ, 'PATH': f'{python.parent}:{os.environ["PATH"]}'},
      check=False,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr


@each_notebook
def test_files_named_in_the_text_exist(path):
  text = '\n'.join(
    c.source for c in read(path).cells if c.cell_type == 'markdown'
  )
  links = re.findall(r'\]\(([^)#]+)', text)
  local = [link for link in links if '://' not in link]
  assert len(local) > 4
  assert [link for link in local if not (path.parent / link).exists()] == []
  inside = re.findall(rf'{REPOSITORY}/(?:blob|tree)/main/([^)#]+)', text)
  assert [name for name in inside if not (ROOT / name).exists()] == []
  for name in re.findall(r'`((?:\w+/)*\w+\.gin)`', text):
    assert list((ROOT / 'gin').rglob(name)) or name == 'config.gin'


@each_notebook
def test_no_notebook_redefines_a_name_of_the_library(path):
  import trax_hier.layers
  import trax_hier.models

  known = {*trax_hier.layers.__all__, *trax_hier.models.__all__}
  for cell in code_of(read(path)):
    defined = set(re.findall(r'^(?:def|class) (\w+)', cell.source, re.M))
    assert not defined & known

"""Paths of remote storage are refused, except those of data."""

import os
import sys

import pytest
from messages import messages

from trax_hier import cli, config, trainer
from trax_hier.data import enwik8, prepare, subwords
from trax_hier.storage import export
from trax_hier.training import read_metrics

URLS = 'gs://b/x', 's3://b/x', 'https://b/x', 'gs:/b/x'
MESSAGE = 'files are read and written in local folders only: mount the remote'

QUICKSTART = '--config_file=quickstart.gin'
FLAGS = [
  (trainer.main, [QUICKSTART, '--output_dir={}']),
  (trainer.main, ['--output_dir=out', '--config_file={}']),
  (cli.main, ['describe', '--config_file={}']),
  (cli.main, ['evaluate', '--run={}']),
  (cli.main, ['generate', '--prompt=a', '--run={}']),
  (cli.main, ['generate', '--run=x', '--prompt_file={}']),
  (cli.main, ['generate', '--run=x', '--prompt=a', '--source_file={}']),
  (cli.main, ['export', '--output=out', '--run={}']),
  (cli.main, ['export', '--run=x', '--output={}']),
  (cli.main, ['compare', 'x', '{}']),
  (cli.main, ['compare', 'x', 'y', '--output={}.png']),
  *(
    (cli.main, ['import_trax', QUICKSTART, '--weights=w', '--output=o', flag])
    for flag in ('--weights={}', '--vocab={}', '--config_file={}')
  ),
  (cli.main, ['import_trax', QUICKSTART, '--weights=w', '--output={}']),
  (subwords.main, ['--text=text', '--output={}']),
]
# Data sets with their other required arguments, and the binding of the path.
BINDINGS = [
  ('StandardLibrary', '', 'train.init_from'),
  ('TextFiles', 'length path', 'TextFiles.vocab'),
]
DATA_BINDINGS = [
  ('TextFiles', 'length', 'TextFiles.path'),
  ('Enwik8', 'length', 'Enwik8.path'),
  ('ImageBytes', '', 'ImageBytes.path'),
  ('DocumentLanes', 'length', 'DocumentLanes.path'),
  ('PaddedDocuments', 'length', 'PaddedDocuments.path'),
  ('TextPairs', 'source_length target_length source target', 'TextPairs.path'),
]
VALUES = {'path': "'text'", 'source': "'a'", 'target': "'b'"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """An empty current folder but for a text."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'text').write_text('text ' * 100)
  yield
  config.clear()


def check(main, arguments, named, capsys, message=MESSAGE):
  assert main(arguments) == 2
  out, err = capsys.readouterr()
  assert messages(out) == '' and len(err.splitlines()) == 1
  assert f': {named}: {message}' in err
  assert os.listdir() == ['text']


@pytest.mark.parametrize('url', URLS)
def test_flags(capsys, url):
  for main, arguments in FLAGS:
    arguments = [x.format(url) for x in arguments]
    # `Path`, to which some flags are converted, keeps one slash.
    named = arguments[-1]
    if main is subwords.main and named.startswith('--output'):
      named = named.replace('//', '/')
    check(main, arguments, named, capsys)


@pytest.mark.parametrize('url', URLS)
@pytest.mark.parametrize(
  'data, others, binding', BINDINGS, ids=[b for *_, b in BINDINGS]
)
def test_bindings(capsys, url, data, others, binding):
  check_binding(capsys, url, data, others, binding)


def check_binding(capsys, url, data, others, binding, message=MESSAGE):
  named = f"{binding} = '{url}'"
  bindings = [f'train.data = @{data}()', f'{data}.batch_size = 2', named]
  bindings += [f'{data}.{x} = {VALUES.get(x, 8)}' for x in others.split()]
  arguments = [QUICKSTART, *(f'--config={x}' for x in bindings)]
  arguments.append('--output_dir=out')
  check(trainer.main, arguments, named, capsys, message)


PACKAGES = {
  'gs://b/x': 'fsspec gcsfs',
  's3://b/x': 'fsspec s3fs',
  'https://b/x': 'fsspec aiohttp requests',
}


@pytest.fixture
def bare(monkeypatch):
  """No package for remote stores is installed."""
  monkeypatch.setitem(sys.modules, 'fsspec', None)


@pytest.mark.parametrize('url', PACKAGES)
@pytest.mark.parametrize(
  'data, others, binding', DATA_BINDINGS, ids=[b for *_, b in DATA_BINDINGS]
)
def test_addresses_of_data_need_packages(
  capsys, bare, url, data, others, binding
):
  message = f'needs packages for {url[:-3]}: pip install {PACKAGES[url]}'
  check_binding(capsys, url, data, others, binding, message)


def test_an_address_of_data_that_lacks_a_slash(capsys):
  for data, others, binding in DATA_BINDINGS:
    check_binding(capsys, 'gs:/b/x', data, others, binding)


def test_the_address_of_a_text_to_train_a_vocabulary(capsys, bare):
  url = 'gs://b/x'
  message = 'needs packages for gs://: pip install fsspec gcsfs'
  arguments = ['--output=out', f'--text={url}']
  check(subwords.main, arguments, f'--text={url}', capsys, message)


@pytest.mark.parametrize('url', URLS)
def test_python_and_data_programs(capsys, url):
  for function in (export.load, read_metrics):
    with pytest.raises(ValueError, match=MESSAGE):
      function(url)
  for main, flags in ((prepare.main, ['--name=x']), (enwik8.main, [])):
    assert main([*flags, f'--output_dir={url}']) == 1
    assert MESSAGE in capsys.readouterr().err
  assert os.listdir() == ['text']

"""Fixtures that run `trax-hier`, on a run from memory where that is enough."""

import dataclasses
import functools

import numpy as np
import pytest
import toy
from messages import messages

from trax_hier import cli, config
from trax_hier.commands import flags
from trax_hier.models import TransformerLM
from trax_hier.storage import runs

MODEL = functools.partial(
  TransformerLM, 256, d_model=8, d_ff=8, n_heads=2, n_layers=1
)


@pytest.fixture(autouse=True)
def clear_config():
  yield
  config.clear()


@pytest.fixture
def program(capsys):
  """Runs the program; returns code, stdout, stderr without its activities."""

  def run(*arguments):
    code = cli.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, messages(err)

  return run


@dataclasses.dataclass
class FakeRun:
  """A `Run` of random weights, without a folder."""

  data: object
  model: object = MODEL
  compute_dtype: str = 'float32'
  folder: str = 'a/run'
  mesh: object = None
  loss_chunk: object = None

  def load_weights(self, step, say):
    del step, say
    return 7, toy.random_like(
      toy.shapes(self.model(mode='eval'), np.ones((1, 4), np.int32))[0]
    )


@pytest.fixture
def fake_run(monkeypatch):
  """Makes --run open a `FakeRun` of the given fields, which it returns."""
  monkeypatch.setattr(flags, 'check_files', lambda arguments: None)

  def use(*args, **fields):
    run = FakeRun(*args, **fields)
    monkeypatch.setattr(runs, 'open_run', lambda *_: run)
    return run

  return use

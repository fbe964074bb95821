"""Settings of the tests of generation."""

import pytest

from trax_hier.generation import programs


@pytest.fixture(autouse=True)
def chunks_for_all_prompts(monkeypatch):
  """Reads prompts in chunks that are too short for it, as models are tiny."""
  monkeypatch.setattr(programs, '_LONG_PROMPT_BYTES', 0)

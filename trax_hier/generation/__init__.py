"""Generation: prompts in, sampled tokens out, by compiled programs."""

from trax_hier.generation.generate import (
  Prepared,
  generate,
  prepare,
  sample_text,
)

__all__ = ['Prepared', 'generate', 'prepare', 'sample_text']

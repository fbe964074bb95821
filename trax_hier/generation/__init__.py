"""Generation: continues prompts by sampling or beam search."""

from trax_hier.generation.generate import (
  Prepared,
  generate,
  prepare,
  sample_text,
)

__all__ = ['Prepared', 'generate', 'prepare', 'sample_text']

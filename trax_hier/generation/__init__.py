"""Generation: continues prompts by sampling or beam search.

* `generate`: the entry points; `arguments` checks their arguments.
* `programs`: the compiled decoding loop, which all calls share; `kept`: how
  long programs are kept.
* `sampling`, `beam_search`: how the loop chooses tokens.
* `stop_sequences`, `streaming`: early ends, and tokens as they are sampled.
* `rouge`: scores of summaries.
"""

from trax_hier.generation.generate import (
  Prepared,
  generate,
  prepare,
  sample_text,
)

__all__ = ['Prepared', 'generate', 'prepare', 'sample_text']

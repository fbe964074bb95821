"""Runs Trax's own trainer: `python -m trax_hier.trax_trainer --help`.

    python -m trax_hier.trax_trainer --config_file=reformer_copy.gin \\
        --config='train.steps = 100' --output_dir=runs/copy

`trax-trainer` is the same program. It is `python -m trax.trainer` of Trax 1.4.1
on current JAX: same flags, gin files, loop and checkpoints. TensorFlow is
loaded only if the data need it. Files that a gin file includes may lie beside
it.

Models of trax_hier take part by `import trax_hier.models` in the gin file. A
name that Trax registers too, such as HourglassLM, means Trax's; the full name
selects ours. An encoder-decoder needs `KeepTargets`:

    import trax_hier.models
    train.model = @KeepTargets
    KeepTargets.model = @Terraformer
    Terraformer.vocab_size = 32

BlockRecurrentLM trains without memory between batches:

    train.model = @BlockRecurrentLM
    BlockRecurrentLM.carry = False

On Linux, the program starts itself again with huge memory pages for the CPU,
unless GLIBC_TUNABLES is set, even to nothing.

Exit codes: 1 the training has failed, 2 a flag or the configuration is invalid,
130 Ctrl-C.
"""

import sys
from collections.abc import Sequence

from trax_hier.commands.failures import fail, interrupted
from trax_hier.commands.huge_pages import restart_with_huge_pages
from trax_hier.environment import flag_names, print_any_text

_PROGRAM = 'trax-trainer'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code.

  Args:
    argv: The arguments; None means those of this process.
  """
  print_any_text()
  arguments = flag_names(argv)
  asks_help = {'-h', '--help', '--helpfull', '--helpshort'} & set(arguments)
  if argv is None and not asks_help:
    restart_with_huge_pages()
  from trax_hier.compat import trainer
  from trax_hier.config import ConfigError

  if asks_help:
    print(__doc__, trainer.help_text(), sep='\n')
    return 0
  try:
    trainer.run([_PROGRAM, *arguments])
  except ConfigError as error:
    return fail(_PROGRAM, error, 2)
  except KeyboardInterrupt:
    return interrupted(_PROGRAM, 'interrupted')
  return 0


if __name__ == '__main__':
  sys.exit(main())

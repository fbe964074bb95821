"""Trains a model from gin files: `python -m trax_hier.trainer --help`.

    python -m trax_hier.trainer --config_file=gin/quickstart.gin \\
        --config='train.steps = 200' --output_dir=runs/quickstart

`trax-hier train` is the same program.

Each error is one message on standard error. Exit codes:

    1    checkpoints or data cannot be read, the loss is not finite, the disk is
         full
    2    a flag or the configuration is invalid, or another trainer writes to
         the output_dir; nothing has been compiled
    130  Ctrl-C; the trainer has saved a checkpoint, unless it was pressed twice
    143  SIGTERM; the trainer has saved a checkpoint (129 for SIGHUP)

To resume a stopped run, repeat its command.

On several hosts, run the same command in one process per host, with an
output_dir on a shared file system and --distributed or, where JAX does not
recognize the cluster:

    … --coordinator=10.0.0.1:1234 --n_processes=2 --process_id=0
"""

import argparse
import os
import sys
from collections.abc import Sequence

from trax_hier.commands import train
from trax_hier.commands.failures import Failure, fail
from trax_hier.commands.flags import check_files
from trax_hier.commands.huge_pages import restart_with_huge_pages
from trax_hier.environment import flag_names, print_any_text, quiet_logs

_PROGRAM = 'trax_hier.trainer'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  print_any_text()
  quiet_logs()
  parser = argparse.ArgumentParser(
    prog=f'python -m {_PROGRAM}',
    description=train.DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  train.add_arguments(parser)
  arguments = parser.parse_args(flag_names(argv))
  if argv is None and not arguments.no_huge_pages:
    restart_with_huge_pages()
  try:
    check_files(arguments)
  except Failure as failure:
    return fail(_PROGRAM, failure, failure.code)
  return train.main(arguments, _PROGRAM)


if __name__ == '__main__':
  code = main()
  sys.stdout.flush()
  sys.stderr.flush()
  if code:
    # Threads of the failed run may still raise errors; do not print them.
    os._exit(code)

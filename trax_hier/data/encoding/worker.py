"""A process that encodes shards; `tokens` starts it.

It reads the numbers of shards, one a line, and answers each by 'done', or by
'failed', the number of the error of the system or 0, and the reason. It ends
when its input ends: with the process that has started it, whatever ends that.
"""

import os
import pickle
import sys
from pathlib import Path

from trax_hier.data.encoding.shards import encode_shard, read_plan


def main(folder: str) -> None:
  """Encodes shards of the plan in a folder until the input ends."""
  answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)  # What a package prints is no answer.
  plan = read_plan(Path(folder))
  with (plan.scratch / 'vocab.pickle').open('rb') as file:
    vocab = pickle.load(file)
  for line in sys.stdin:
    answer = 'done'
    try:
      encode_shard(plan, int(line), vocab)
    except OSError as error:
      answer = f'failed {error.errno or 0} {error.strerror or error}'
    except ValueError as error:
      answer = f'failed 0 {error}'
    try:
      print(' '.join(answer.split()), file=answers, flush=True)
    except BrokenPipeError:  # The process that has started this one is killed.
      os._exit(1)


if __name__ == '__main__':
  main(sys.argv[1])

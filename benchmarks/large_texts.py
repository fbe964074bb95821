"""Large texts: encoding speed, start time and memory of `TextFiles`.

    python benchmarks/large_texts.py --megabytes=1000 --processes=1,2

The text is a file, repeated up to the size. Each row is a process of its own,
on as many CPUs as the column says: it starts a data set of bytes, or of
subwords without and with the tokens in the data cache. Memory is what is not
backed by files, and the peak of all.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

_ROW = """
import os, resource, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[3])])
from trax_hier.data import TextFiles
begin = time.perf_counter()
data = TextFiles(sys.argv[1], 8, 512, vocab=sys.argv[2] or None)
data.train_batch(0)
seconds = time.perf_counter() - begin
data.fingerprint()
for step in range(200):
  data.train_batch(step)
status = open('/proc/self/status', encoding='utf-8').read()
anonymous = int(status.split('RssAnon:')[1].split()[0]) / 1e3
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(seconds, anonymous, peak)
"""


def run_row(text: str, vocab: str, n_cpus: int, cache: str) -> list[float]:
  """Returns seconds to start, and megabytes of memory: anonymous and peak."""
  done = subprocess.run(
    [sys.executable, '-c', _ROW, text, vocab, str(n_cpus)],
    env=os.environ | {'TRAX_HIER_DATA_CACHE': cache},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return [float(x) for x in done.stdout.split()]


def main() -> None:
  """Prints a line for each measurement."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  add = parser.add_argument
  add('--text', default='', help='file to repeat; default: the Python library')
  add('--megabytes', type=int, default=100)
  add('--vocab_size', type=int, default=4000)
  add('--processes', default='1,2')
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    source = flags.text and pathlib.Path(flags.text).read_bytes()
    if not source:
      library = pathlib.Path(os.__file__).parent
      source = b''.join(x.read_bytes() for x in sorted(library.glob('*.py')))
    start, text = folder / 'start.txt', folder / 'text.txt'
    start.write_bytes(source[:3_000_000])
    size = flags.megabytes * 1_000_000
    with text.open('wb') as file:
      while file.tell() < size:
        file.write(source[: size - file.tell()])
    vocab = str(folder / 'my.model')
    subwords = [sys.executable, '-m', 'trax_hier.data.subwords']
    subprocess.run(
      [
        *subwords,
        f'--text={start}',
        f'--output={vocab}',
        f'--size={flags.vocab_size}',
      ],
      check=True,
      stdout=subprocess.DEVNULL,
    )

    def show(what, n_cpus, vocab, cache):
      seconds, anonymous, peak = run_row(str(text), vocab, n_cpus, cache)
      print(
        f'{what}, {n_cpus} CPUs: {seconds:.2f} s, {size / 1e6 / seconds:,.1f} '
        f'MB/s; memory {anonymous:,.0f} MB, peak with files {peak:,.0f} MB'
      )

    print(f'{flags.megabytes} MB, {flags.vocab_size} pieces')
    show('bytes', 1, '', f'{name}/none')
    for n_cpus in map(int, flags.processes.split(',')):
      cache = f'{name}/cache{n_cpus}'
      show('tokens, first start', n_cpus, vocab, cache)
      show('tokens, later start', n_cpus, vocab, cache)


if __name__ == '__main__':
  main()

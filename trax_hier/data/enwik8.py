"""Downloads and verifies enwik8: python -m trax_hier.data.enwik8 --help."""

import argparse
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from trax_hier.data.sources import enwik8
from trax_hier.environment import expand_home, flag_names, print_any_text

_URL = 'http://mattmahoney.net/dc/enwik8.zip'
_TIMEOUT = 60  # seconds without a response


def download(output_dir: Path, url: str = _URL) -> Path:
  """Downloads enwik8 into a folder and verifies it, unless it exists.

  The file is written under another name and renamed once it is verified.

  Args:
    output_dir: Folder for the file, created if missing.
    url: URL of a .zip archive that contains enwik8.

  Returns:
    The path of the unpacked file.

  Raises:
    OSError: if the download or the writing fails.
    ValueError: if the downloaded or the existing file is not enwik8.
  """
  output_dir = expand_home(output_dir, f'--output_dir={output_dir}')
  target = output_dir / 'enwik8'
  if target.exists():
    enwik8.check(enwik8.read(target), checksum=True)
    return target
  output_dir.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=output_dir) as scratch:
    packed, unpacked = Path(scratch, 'enwik8.zip'), Path(scratch, 'enwik8')
    with (
      urllib.request.urlopen(url, timeout=_TIMEOUT) as response,
      packed.open('wb') as file,
    ):
      shutil.copyfileobj(response, file)
    tokens = enwik8.read(packed)
    enwik8.check(tokens, checksum=True)
    tokens.tofile(unpacked)
    unpacked.replace(target)
  return target


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code, 1 after a message on stderr."""
  parser = argparse.ArgumentParser(
    prog='python -m trax_hier.data.enwik8',
    description='Downloads enwik8 (36 MB packed, 100 MB) and verifies it.',
  )
  parser.add_argument(
    '--output_dir', type=Path, required=True, help='folder for the file'
  )
  parser.add_argument('--url', default=_URL, help='default: %(default)s')
  print_any_text()
  flags = parser.parse_args(flag_names(arguments))
  try:
    path = download(flags.output_dir, flags.url)
  except (OSError, HTTPException, ValueError) as error:
    print(
      f'enwik8 from {flags.url} into {flags.output_dir}: {error}',
      file=sys.stderr,
    )
    return 1
  print(f"Verified. In gin: Enwik8.path = '{path}'")
  return 0


if __name__ == '__main__':
  sys.exit(main())

"""The messages of a program."""


def messages(printed):
  """What a program has printed, without its activities."""
  lines = printed.splitlines(keepends=True)
  return ''.join(line for line in lines if not line.endswith(' ...\n'))

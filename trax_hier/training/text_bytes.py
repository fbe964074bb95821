"""Bits per byte of models whose tokens are not bytes."""


def count_text_bytes(
  data: object,
  split: str,
  n_batches: int | None = None,
  *context: int | None,
) -> int | None:
  """Returns the bytes of text that the scored tokens of a split encode.

  Args:
    data: Data set; if it has no `count_bytes`, they are not known.
    split: 'valid' or 'test'.
    n_batches: Number of batches to count, from the first one on; None counts
      all.
    *context: Window and stride of the batches, if they are not the default.

  Returns:
    Their number; None if tokens are bytes or encode no text, or if their bytes
    are not known.
  """
  if data.unit != 'token' or not hasattr(data, 'count_bytes'):
    return None
  if n_batches is None:
    return data.count_bytes(split)
  return data.count_bytes(split, n_batches, *context)


def bits_per_byte(bits_per_token: float, tokens: float, n_bytes: int) -> float:
  """Returns bits per byte of text.

  Args:
    bits_per_token: Mean over the scored tokens.
    tokens: Sum of their weights.
    n_bytes: Bytes of text that they encode.

  Example:
    >>> bits_per_byte(8.0, tokens=100.0, n_bytes=400)
    2.0
  """
  return bits_per_token * tokens / n_bytes

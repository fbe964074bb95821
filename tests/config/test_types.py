"""Annotations in words, for messages."""

from collections.abc import Callable, Sequence

import pytest

from trax_hier.config import types

REFERENCE = 'a reference such as @Name'
SEVERAL = 'a tuple of references such as (@Name, @Other)'


@pytest.mark.parametrize(
  'hint, words',
  [
    (int | None, 'int or None'),
    (tuple[float, ...], 'tuple[float, ...]'),
    (Callable, REFERENCE),
    (Callable[..., int] | Sequence[Callable[..., int]], SEVERAL),
    (Callable | tuple[Callable, ...], f'{REFERENCE} or {SEVERAL}'),
  ],
)
def test_describe(hint, words):
  assert types.describe(hint).endswith(words)

"""The weights of an export, for a model that is configured elsewhere.

`training.initial_weights` uses this module; it may not import it.
"""

import re
from pathlib import Path
from typing import Any

from trax_hier.compat import base
from trax_hier.storage.export import (
  CONFIG_FILE,
  FACTS_FILE,
  WEIGHTS_FILE,
)
from trax_hier.storage.export_digests import has_digests
from trax_hier.storage.export_facts import read_facts
from trax_hier.storage.tensor_files import different_tensors, read_tensors
from trax_hier.storage.tensor_names import tensor_names


def differences(
  folder: Path, layer: base.Layer, shapes: Any
) -> dict[str, tuple[str, str]]:
  """Compares the shapes of an export with those of a model.

  Args:
    folder: The export.
    layer: The model in 'train' or 'eval' mode.
    shapes: Shapes of its weights, as nested tuples.

  Returns:
    {name: (shape in the export, shape in the model)} of the tensors that
    differ; 'none' if one of them has no such tensor.

  Raises:
    ValueError: The export is damaged.
  """
  return different_tensors(folder / WEIGHTS_FILE, layer, shapes)


def read(
  folder: Path, layer: base.Layer, shapes: Any
) -> tuple[int | None, Any]:
  """Reads the weights of an export into the tree of a model.

  Args:
    folder: The export.
    layer: The model in 'train' or 'eval' mode.
    shapes: Shapes of its weights, as nested tuples.

  Returns:
    The number of training steps, None if unknown, and the weights in float32.

  Raises:
    ValueError: The export is damaged, or of another model.
  """
  facts = read_facts(
    folder,
    folder / FACTS_FILE,
    folder / CONFIG_FILE,
    (WEIGHTS_FILE, FACTS_FILE),
  )
  weights = read_tensors(
    folder / WEIGHTS_FILE, layer, shapes, has_digests(facts)
  )
  return facts['step'], weights


def array_names(layer: base.Layer, shapes: Any) -> list[str]:
  """Names the arrays of a model in the order of `jax.tree.leaves`.

  An array that is stacked over blocks is named 'blocks.*.attention...'.
  """
  names = {}
  for name, place in tensor_names(layer, shapes).items():
    if place.index:
      name = re.sub(r'\bblocks\.\d+\.', 'blocks.*.', name)
    names.setdefault(place.leaf, name)
  return [names[leaf] for leaf in sorted(names)]

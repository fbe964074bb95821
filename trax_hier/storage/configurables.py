"""Importing this registers every configurable of the package with gin."""

import trax_hier.data
import trax_hier.layers
import trax_hier.models
import trax_hier.training  # noqa: F401

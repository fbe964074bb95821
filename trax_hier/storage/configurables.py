"""Importing this module registers all configurables of trax_hier with gin."""

import trax_hier.data
import trax_hier.layers
import trax_hier.models
import trax_hier.training  # noqa: F401

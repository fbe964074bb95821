"""Compatibility layer: trax 1.4.1 on current JAX.

The only package that imports trax. Importing it

*   makes trax quick to import in the whole process, and loads TensorFlow only
    when something needs it (`import_hook`);
*   patches trax 1.4.1 where it uses features that JAX has since removed
    (`patches`). Each patch affects only the trax module that needs it, and
    never JAX itself.

Import it before trax. Otherwise it warns, and patches the modules that are
already loaded.

Trax's modules register their configurables in gin when they are imported, and
at the latest when plain gin asks for a name that it does not know
(`registration`), so that `import trax` and `gin.parse_config_file(...)` work as
in Trax. `trax_hier.config.plain_gin` tells the two name spaces apart.

Exports:
  tl: `trax.layers`.
  base: `trax.layers.base`.
  ShapeDtype: A shape and a dtype; the argument of `Layer.init`.
  signature: The `ShapeDtype` of an array, or of each array in a nest.
"""

import warnings

from trax_hier.compat import import_hook
from trax_hier.compat.patches import PATCHES
from trax_hier.compat.registration import register
from trax_hier.config import plain_gin

if import_hook.install(PATCHES):
  warnings.warn(
    'trax was imported before trax_hier.compat. It is now patched in place, but'
    ' was slow to import and may have loaded TensorFlow: import'
    ' trax_hier.compat first.',
    stacklevel=2,
  )

from trax import layers as tl
from trax.layers import base
from trax.shapes import ShapeDtype, signature

plain_gin.install(register)

__all__ = ['ShapeDtype', 'base', 'signature', 'tl']

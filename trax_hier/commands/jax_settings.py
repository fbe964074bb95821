"""JAX's persistent cache of programs."""

import contextlib
import os

from trax_hier.commands.failures import print_note

_MAX_BYTES = 4 * 10**9
_SETTING = 'jax_persistent_cache_min_compile_time_secs'
# By default, JAX keeps only what compiles for a second, but programs that
# compile faster take seconds together. The smallest ones are quick to compile,
# and JAX looks at every file of the cache to add one.
_MIN_SECONDS = 0.1


def set_up_jax() -> None:
  """Lets JAX reuse programs in later processes.

  The cache of programs is `trax_hier/compiled` in the user's cache folder and
  holds at most 4 GB. JAX_COMPILATION_CACHE_DIR chooses another folder,
  JAX_ENABLE_COMPILATION_CACHE=0 disables the cache.
  """
  import jax

  if _SETTING.upper() not in os.environ:
    jax.config.update(_SETTING, _MIN_SECONDS)
  if jax.config.jax_compilation_cache_dir is not None:
    return
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = os.path.join(os.path.expanduser(cache), 'trax_hier', 'compiled')
  has_home = not folder.startswith('~')
  if has_home:
    with contextlib.suppress(OSError):  # The home folder may be read-only.
      os.makedirs(folder, exist_ok=True)
  if not (has_home and os.access(folder, os.W_OK)):
    print_note(
      f'compiled programs are not kept for later: {folder} cannot be written; '
      'JAX_COMPILATION_CACHE_DIR chooses another folder'
    )
    return
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_compilation_cache_max_size', _MAX_BYTES)

"""JAX's persistent cache of compiled programs."""

import os

_MAX_BYTES = 4 * 10**9


def enable_compilation_cache() -> None:
  """Lets JAX reuse compiled programs in later processes.

  The cache is `trax_hier/compiled` in the user's cache folder and holds at most
  4 GB. JAX_COMPILATION_CACHE_DIR chooses another folder,
  JAX_ENABLE_COMPILATION_CACHE=0 disables the cache.
  """
  import jax

  if jax.config.jax_compilation_cache_dir is not None:
    return
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = os.path.join(os.path.expanduser(cache), 'trax_hier', 'compiled')
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return  # The home directory may be read-only.
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_compilation_cache_max_size', _MAX_BYTES)

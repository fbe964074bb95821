"""Efficient Transformers over long sequences as Trax layer combinators."""

__version__ = '0.1.0'


def __getattr__(name):
  # JAX is imported when a model is loaded, not by `import trax_hier`.
  if name == 'load':
    from trax_hier.export import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

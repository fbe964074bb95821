"""Settings of the whole test suite; this runs before anything imports JAX."""

import os

# Toy models run for microseconds and compile for seconds: compile cheaply.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_use_fusion_emitters=false',
  ]
)


def pytest_configure(config):
  """Lets tests that share compiled programs run in one process of xdist."""
  config.addinivalue_line('markers', 'xdist_group: tests for one process')
  if config.getoption('dist', 'no') == 'load':
    config.option.dist = 'loadgroup'

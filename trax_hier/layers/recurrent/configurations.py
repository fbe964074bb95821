"""Configurations of a recurrent layer: where a state update has gates.

s (b, s, d), o (b, s, 2 h d_head) -> new states (b, s, d); o are the outputs of
the states' attentions to states and to tokens. To add a configuration, add a
function of d_model, d_ff and the factories of gate and normalization to
`CONFIGURATIONS`.

Letters: b batch, s states, d d_model, h heads.
"""

from trax_hier.compat import tl
from trax_hier.layers.base.dense import Linear


def _skip(d_model, d_ff, gate, norm):
  """One gate after the attention, and no feed-forward layer."""
  del d_ff, norm
  return _gated([], [Linear(d_model)], gate())


def _dual(d_model, d_ff, gate, norm):
  """A gate after the attention and a gate after the feed-forward layer."""
  return tl.Serial(
    _skip(d_model, d_ff, gate, norm),
    tl.Select([0, 0]),  # s', s'
    _gated([norm(), Linear(d_ff), tl.Relu()], [Linear(d_model)], gate()),
  )


def _single(d_model, d_ff, gate, norm):
  """One gate after the attention and the feed-forward layer."""
  del norm
  gate = gate()
  # The published code applies tanh here, whatever the gate.
  tanh = [] if gate.paper_candidate else [tl.Tanh()]
  return _gated([Linear(d_ff), tl.Relu()], [Linear(d_model), *tanh], gate)


def _gated(hidden, candidate, gate):
  """s, x -> gate(s, candidate(h), h) with h = hidden(x)."""
  return tl.Serial(  # s, x
    tl.Parallel(None, tl.Serial(*hidden)),
    tl.Select([0, 1, 1]),  # s, h, h
    tl.Parallel(None, tl.Serial(*candidate), None),
    gate,
  )


CONFIGURATIONS = {'skip': _skip, 'dual': _dual, 'single': _single}

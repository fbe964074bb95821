"""Locality-sensitive-hashing (LSH) attention, by Trax's layer."""

import jax.numpy as jnp

from trax_hier.compat import tl
from trax_hier.config import configurable
from trax_hier.layers.attention.prefix import roll_rows
from trax_hier.layers.base.carry import refuse_carry
from trax_hier.layers.base.checks import check_arguments


class _PureLSHSelfAttention(tl.PureLSHSelfAttention):
  """Trax's layer for inputs (queries and keys, values, ..) of any precision.

  Rotary positions make queries float32. If values are not, the gradient of
  Trax's layer fails.
  """

  def forward_and_or_backward(
    self, inputs, state, rng, output_grad=None, **settings
  ):
    qk, v, *mask = inputs
    in_float32 = [x.astype(jnp.float32) for x in (qk, v)]
    if output_grad is not None:
      output_grad = output_grad.astype(jnp.float32)
    output, state, grads = super().forward_and_or_backward(
      (*in_float32, *mask), state, rng, output_grad, **settings
    )
    if output is not None:
      output = output.astype(v.dtype)
    if grads is not None:
      grads = grads[0].astype(qk.dtype), grads[1].astype(v.dtype), *grads[2:]
    return output, state, grads


@configurable(module='trax_hier.layers', denylist=['masked', 'carry'])
def LSHAttention(
  d_model: int,
  n_heads: int = 8,
  chunk_len: int = 128,
  n_hashes: int = 2,
  dropout: float = 0.0,
  causal: bool = True,
  masked: bool = False,
  mode: str = 'train',
  carry: bool = False,
):
  """Self-attention within hash buckets: (b, l, d) -> (b, l, d).

  Queries and keys share one projection and have rotary positions. The length
  must be a multiple of `chunk_len`. If causal, a position attends to no later
  position, but the buckets also hold later positions, which thus influence
  which earlier positions it attends to. The hashes are random. For both reasons
  decoding cannot equal evaluation, so there is no predict mode. Buckets, scores
  and attention weights are float32 in models of any precision.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model.
    chunk_len: Length of the chunks of the sequence sorted by bucket; a position
      attends to its own chunk, the previous one and, unless causal, the next.
    n_hashes: Number of hashing rounds.
    dropout: Dropout rate of the attention weights and of the output.
    causal: Whether positions attend to no later position; False only for
      encoders, whose attention is also masked.
    masked: Whether the layer takes a second input, mask (b, l) bool. Rows where
      it is False are not attended to, but take room in buckets; they must be
      the first rows of a sequence.
    mode: 'train' or 'eval'.
    carry: Must be False.

  Raises:
    ValueError: `mode` is 'predict', `carry` is True, `causal` is False without
      `masked`, n_heads does not divide d_model, or chunk_len or n_hashes is not
      positive; in a call: the length is not a multiple of chunk_len.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> attention = LSHAttention(d_model=8, n_heads=2, chunk_len=4)
    >>> print(tree(attention, (2, 12, 8)).text(depth=0))
    layer              parameters   in           out
    LSHAttention ...          216   (2, 12, 8)   (2, 12, 8)

  Source: Reformer (arXiv 2001.04451); Hourglass (arXiv 2110.13711), ImageNet64.
  """
  check_arguments(
    'LSHAttention',
    d_model=d_model,
    n_heads=n_heads,
    chunk_len=chunk_len,
    n_hashes=n_hashes,
    mode=mode,
  )
  if mode == 'predict':
    raise ValueError('LSHAttention has no predict mode; use SelfAttention')
  if not (causal or masked):
    # The layers of language models have no mask.
    raise ValueError(
      'LSHAttention.causal = False lets the positions of a language model '
      'attend to later ones: it must be True, except in an encoder, such as '
      'Terraformer.encoder_attention, which sets it to False itself'
    )
  refuse_carry('LSHAttention', carry, mode, 'has no memory')

  def check_length(x):
    if x.shape[1] % chunk_len:
      raise ValueError(
        f'length {x.shape[1]} is not a multiple of LSHAttention.chunk_len = '
        f'{chunk_len}'
      )
    return x

  attend = tl.Serial(
    tl.Fn('CheckLength', check_length),
    tl.PureLSHSelfAttentionWrapper(
      n_heads=n_heads,
      d_qk=d_model // n_heads,
      d_v=d_model // n_heads,
      causal=causal,
      masked=masked,
      output_dropout=dropout,
      attention_dropout=dropout,
      pure_lsh_implementation=_PureLSHSelfAttention,
      mode=mode,
      num_weights=2,
      weights_format='model',
      rotary_position_emb=True,
      chunk_len=chunk_len,
      n_chunks_after=0 if causal else 1,
      n_hashes=n_hashes,
    ),
  )
  if not masked:
    return attend
  # Trax masks position i by negating i, which cannot mask position 0: masked
  # rows must be last.
  return tl.Serial(  # x, mask
    tl.Select([0, 1, 1]),
    tl.Fn(
      'HiddenLast', lambda x, mask: (roll_rows(x, mask, -1), mask[:, ::-1]), 2
    ),
    attend,
    tl.Fn('HiddenFirst', lambda x, mask: roll_rows(x, mask, 1)),
  )

"""Attention layers, position schemes, and caches of keys and values.

* `causal_attention`, `cross_attention`, `sliding_attention`, `lsh_attention`:
  the layers; sparse ones are in `layers.sparse`.
* `positions`: the interface of position schemes; `learned_positions`,
  `relative_positions`, `rotary_positions` and `t5_positions` implement it.
* `dot_product`, `softmax`, `heads`, `qk_normalization`: parts of the layers.
* `cache`, `prefix`: keys and values of earlier calls and of a prefix.
"""

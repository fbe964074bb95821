"""Sparse layers of Scaling Transformers.

* `sparse_ff`: feed-forward layers.
* `sparse_attention`, `sparse_qkv`: attention and its projections.
* `multiplicative_dense`, `modular_conv`: parts of the projections.
"""

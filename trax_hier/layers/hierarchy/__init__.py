"""Hierarchical layers: shortened and multi-scale sequences.

* `shorten`, `upsample`: shortening and upsampling layers.
* `shortened_stack`: layers on a shortened sequence, as in Hourglass.
* `scales`: blocks of tokens at several scales, and when they are complete.
* `retina_attention`, `aggregation`: layers that read several scales.
* `scale_attention`, `attend_to_scales`: the attention that these two use.
* `groups`: decoding of layers that run once per group of tokens.
"""

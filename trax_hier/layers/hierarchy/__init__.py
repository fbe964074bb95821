"""Hierarchical layers: shortened and multi-scale sequences.

* `shorten`, `upsample`: shortening and upsampling layers.
* `shortened_stack`: layers on a shortened sequence, as in Hourglass.
* `dynamic_stack`: layers on segments of variable length.
* `routers`, `boundary_rules`: where segments start.
* `segments`: segments and their numbers; `dynamic_shorten`, `dynamic_upsample`:
  to one vector for each, and back.
* `scales`: blocks of tokens at several scales, and when they are complete.
* `retina_attention`, `aggregation`: layers that read several scales.
* `scale_attention`, `attend_to_scales`: the attention that these two use.
* `groups`: decoding of layers that run once per group of tokens.
"""

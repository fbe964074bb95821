"""Hierarchy: shorter sequences, and sequences at several scales.

* `shorten`, `upsample`: shortenings and upsamplings, one function each.
* `shortened_stack`: layers at a shortened level, as in Hourglass.
* `scales`: blocks of tokens at several scales, and their causal rule.
* `retina_attention`, `aggregation`: layers that read several scales.
* `scale_attention`, `attend_to_scales`: the attention that both use.
* `groups`: decoding of layers that run once per group.
"""

"""Inspection: the layer tree of a model, its receptive field, probes."""

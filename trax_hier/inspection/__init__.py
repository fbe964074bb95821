"""Inspection of models: layer tree, receptive field, probes in training."""

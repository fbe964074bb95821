"""Layers that all others are made of."""

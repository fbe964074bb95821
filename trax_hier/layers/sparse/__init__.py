"""Sparse layers of Scaling Transformers."""

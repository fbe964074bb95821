"""Attention layers, position schemes, and caches of keys and values."""

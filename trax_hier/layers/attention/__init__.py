"""Attention: cores, position schemes, caches and masks."""

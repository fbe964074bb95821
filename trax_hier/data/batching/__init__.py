"""Batching: forms batches of tokens, each a pure function of its number."""

"""Batching: how tokens become batches, batch i a pure function of i."""

"""Hierarchy: shorten, upsample, and sequences at several scales."""

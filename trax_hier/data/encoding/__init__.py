"""Encoding: texts to token files, once, in parallel, kept in the data cache."""

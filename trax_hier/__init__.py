"""Efficient Transformers over long sequences as Trax layer combinators."""

__version__ = '0.1.0'

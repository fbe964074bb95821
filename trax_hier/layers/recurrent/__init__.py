"""Recurrent layers: the block-recurrent cell, its gates, SRU."""

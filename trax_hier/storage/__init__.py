"""Storage: runs, exports and checkpoints of Trax, opened and converted."""

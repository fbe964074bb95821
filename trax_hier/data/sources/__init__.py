"""Sources: the data sets, one per file."""

"""Sources: data sets, each in a file of its own."""

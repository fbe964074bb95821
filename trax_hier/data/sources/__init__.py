"""Sources: the data sets, one per file.

To add one, write a configurable function that returns a `DataSet` and export it
from `trax_hier.data`. `json_pairs` and `prepared_documents` read files for the
others.
"""

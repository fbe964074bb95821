"""Sources: the data sets, one per file.

To add one, write a configurable function that returns a `DataSet` and export it
from `trax_hier.data`. `OwnData` is for data sets outside this package. Modules
without a configurable, such as `json_pairs`, read files for the others.
"""

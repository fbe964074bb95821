"""Corpora: the documents of files, folders and other sources, as one text.

`corpus` opens a corpus, memory-mapped; `listing` finds its files, `documents`
reads them, and `remote` and `tfds_source` fetch those that are elsewhere.
"""

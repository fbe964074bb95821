"""Vocabularies: encode text as token ids and decode ids to text.

To add one, implement `Vocab`, export the class from `trax_hier.data`, and add
it to `storage.export`, which saves vocabularies.
"""

"""Vocabularies: encode text as token ids and decode ids to text.

To add one, implement `TextVocab`, export the class from `trax_hier.data`, open
its file in `text_vocabs`, and add it to `vocab_files`, for exports.
"""

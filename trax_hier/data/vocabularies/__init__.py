"""Vocabularies: encode text as token ids and decode ids to text."""

"""Translates gin files of Trax and meliad; see `translate.translate`.

* `source`: the bindings of the old files, and which of them are used.
* `draft`: the bindings of the new file, and what is said of the old ones.
* `trax_model`, `trax_hourglass`, `trax_attention`, `trax_sizes`: Trax's models.
* `trax_training`, `trax_data`: the rest of Trax.
* `own`: models of ours in files for Trax's trainer.
* `meliad`, `meliad_attention`, `meliad_training`: meliad.
* `writing`: the text of the new file.

The names themselves are in `config.old_names`. Nothing here imports JAX.
"""

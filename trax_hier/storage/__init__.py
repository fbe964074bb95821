"""Opens runs, saves and loads exported models, imports Trax checkpoints.

* `runs`, `run_folder`: read a run, to evaluate it or sample from it;
  `training.run` resumes one.
* `export`: saves and loads exported models; `model_card` writes their README.
* `tensor_files`, `tensor_names`: the safetensors file of an export.
* `export_weights`: the weights of an export for `train.init_from`.
* `import_trax`: weights of Trax's own models; `trax_files` reads their files,
  `trax_order` converts them, `trax_misfits` finds arguments that would fit.
* `configurables`: registers all configurables with gin.
"""

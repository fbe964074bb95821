"""Opens runs, saves and loads exported models, imports Trax checkpoints.

* `runs`, `run_folder`: read a run, to evaluate it or sample from it;
  `training.run` resumes one.
* `export`: saves and loads exported models; `model_card` writes their README.
* `tensor_files`, `tensor_names`: the safetensors file of an export.
* `import_trax`, `trax_files`: weights of Trax's own models.
* `configurables`: registers all configurables with gin.
"""

"""Opens runs, saves and loads exported models, imports Trax checkpoints."""

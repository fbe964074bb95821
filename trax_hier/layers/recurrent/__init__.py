"""Recurrent layers.

* `block_recurrent_cell`, `feedback_stack`: the layers of Block-Recurrent
  Transformers.
* `vertical_attention`: tokens attend to tokens and states.
* `recurrent_states`: states attend to states and tokens, block by block.
* `gates`, `configurations`: the gates of the states, and their placement.
* `sru`: simple recurrent units.
"""

"""Logs metrics to files and services (sinks); prints progress.

* `sink`: the interface of a sink.
* `jsonl`, `tensorboard`, `weights_and_biases`: the sinks.
* `metrics_log`: opens the sinks of a run and passes each entry to them.
* `report`, `console`: progress lines.
"""

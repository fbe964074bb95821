#!/usr/bin/env bash
# Memory per device of a training step of a large model on 64 devices: compiled
# for simulated CPU devices, with weights and optimizer state split over all.
set -euo pipefail

describe() {
  echo "\$ trax-hier describe $*"
  trax-hier describe "$@" | sed -n '/^model:/,/^devices:/p; /^FLOPs/,$p'
  echo
}

pip list 2>/dev/null | grep -E '^(jax|jaxlib) '
describe --config_file=hourglass/1b.gin --config="DATA = ''" \
  --batch=128,4098 --devices=64
describe --config_file=terraformer/17b.gin --config="DATA = ''" \
  --batch=64,256,512 --devices=64 --config="train.mesh = {'fsdp': 64}"

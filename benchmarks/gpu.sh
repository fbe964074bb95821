#!/usr/bin/env bash
# Benchmarks on one GPU in ten minutes, the most valuable first.
#
#   benchmarks/gpu.sh --output=DIR [--wheels=DIR] [--enwik8=FILE] [--minutes=10]
#       [--parts=contract,train,torch,block_recurrent,...] [--tiny]
#
# Needs a Python with JAX for the GPU ($PYTHON, python3 by default), not
# TensorFlow. The wheels of a folder are installed for this run only: trax,
# gin-config and tensorboardX, where they are missing, and the peer
# hourglass-transformer-pytorch. docs/gpu.md says how to download them.
#
# Each part has a limit of seconds and its own file of results, which grows as
# figures are measured: a part that is cut off loses nothing. `pair` gets the
# time that is left. --tiny is a smoke test on CPU.
set -uo pipefail

output= wheels= enwik8= minutes=10 tiny=
all=contract,train,torch,block_recurrent,sparse_decode,memory,pair
parts=$all
for flag in "$@"; do
  case $flag in
    --output=*) output=${flag#*=} ;;
    --wheels=*) wheels=${flag#*=} ;;
    --enwik8=*) enwik8=${flag#*=} ;;
    --minutes=*) minutes=${flag#*=} ;;
    --parts=*) parts=${flag#*=} ;;
    --tiny) tiny=--tiny ;;
    *) echo "gpu.sh: unknown argument $flag; see its first lines" >&2; exit 2 ;;
  esac
done
if [ -z "$output" ]; then
  echo "gpu.sh: --output=DIR is missing: the folder for results" >&2
  exit 2
fi
for name in ${parts//,/ }; do
  case ,$all, in
    *,"$name",*) ;;
    *) echo "gpu.sh: unknown part $name; known are $all" >&2; exit 2 ;;
  esac
done
if [ -n "$enwik8" ] && ! [ -f "$enwik8" ]; then
  echo "gpu.sh: --enwik8=$enwik8: no such file" >&2
  exit 2
fi
mkdir -p "$output" && output=$(cd "$output" && pwd) || exit 2
[ -n "$enwik8" ] && enwik8=$(realpath "$enwik8")
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
summary=$output/summary.txt

note() { echo "$*" | tee -a "$summary"; }

: > "$summary"
for name in ${parts//,/ }; do rm -f "$output/$name.txt"; done
if [ -n "$wheels" ]; then
  "$python" -m pip install -q --no-deps --no-index --no-compile \
    --disable-pip-version-check --target "$site" "$wheels"/*.whl || exit 2
fi
export PYTHONPATH=$site:$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore::SyntaxWarning
export TF_CPP_MIN_LOG_LEVEL=2 XLA_PYTHON_CLIENT_MEM_FRACTION=0.9
[ -n "$tiny" ] && export JAX_PLATFORMS=cpu

"$python" - > "$output/device.tmp" 2>&1 << 'END'
import sys
import jax
import trax_hier.compat
device = jax.devices()[0]
print(f'jax {jax.__version__} on {device.device_kind}, {jax.device_count()} '
      f'device(s), Python {sys.version.split()[0]}')
sys.exit(0 if device.platform == 'gpu' else 3)
END
status=$?
note "$(tail -n 1 "$output/device.tmp")"
rm "$output/device.tmp"
if [ $status -ne 0 ] && ! { [ $status -eq 3 ] && [ -n "$tiny" ]; }; then
  note "gpu.sh: no GPU that JAX can use, or a package is missing (--wheels)"
  exit 2
fi

left() { echo $((minutes * 60 - SECONDS - 10)); }

# run NAME LIMIT COMMAND...: results go to NAME.txt.
run() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  case ,$parts, in *,"$name",*) ;; *) return ;; esac
  [ -n "$tiny" ] && limit=$((10 * limit)) # CPUs may be slow.
  [ "$limit" -gt "$(left)" ] && limit=$(left)
  if [ "$limit" -lt 15 ]; then
    note "$name: skipped: no time left"
    return
  fi
  timeout -k 5 "$limit" "$@" > "$output/$name.txt" 2>&1
  status=$?
  case $status in
    0) note "$name: done in $((SECONDS - start)) s" ;;
    124 | 137) note "$name: cut off after $limit s" ;;
    *) note "$name: FAILED ($status) after $((SECONDS - start)) s" ;;
  esac
}

cd "$root/benchmarks" || exit 2
if [ -n "$tiny" ]; then
  recurrent=(--d_model=32 --length=1024 --step_batch=1 --xl=512 --rounds=1)
  sparse=(--tiny --layers=2 --rounds=1 --n_new=4)
else
  recurrent=(--d_model=1024 --length=4096 --step_batch=4 --xl=2048 --rounds=7)
  sparse=(--layers=24 --rounds=3 --n_new=64)
fi
gpu=("$python" gpu.py)
run contract 70 "${gpu[@]}" contract $tiny --seconds=${tiny:+2}60
run train 120 "${gpu[@]}" train $tiny
run torch 25 "${gpu[@]}" torch $tiny
run block_recurrent 50 "$python" block_recurrent.py --parts=step \
  --dtype=bfloat16 "${recurrent[@]}"
run sparse_decode 45 "$python" sparse_decode.py --parts=decode --peers=none \
  --rows=dense,FF,FF+QKV --capacities=256 --precision=bfloat16 "${sparse[@]}"
run memory 25 "${gpu[@]}" memory $tiny
seconds=$(left)
[ "$seconds" -gt 300 ] && seconds=300
run pair "$seconds" "${gpu[@]}" pair $tiny --seconds=$((seconds - 15)) \
  ${enwik8:+"--enwik8=$enwik8"}

cd "$output" || exit 2
for name in summary ${parts//,/ }; do
  [ -f "$name.txt" ] || continue
  printf '\n== %s\n' "$name"
  tail -n 25 "$name.txt" | cut -c 1-200
done
! grep -q FAILED summary.txt

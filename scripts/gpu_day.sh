#!/usr/bin/env bash
# All that needs an NVIDIA GPU, most valuable first, within nine minutes: scripts/gpu_day.sh OUTPUT [OPTION...]
# For a machine that is lent for minutes. Each step has a time of its own, and leaves what it found in
# OUTPUT before the next begins. `make gpu` is the same without limits. Options as of benchmarks/gpu.py.
set -euo pipefail
output=$(realpath -m "${1:?usage: scripts/gpu_day.sh OUTPUT [OPTION...]}")
cd "$(dirname "$0")/.."
mkdir -p "$output"
{ nvidia-smi || true; free -g; nproc; } >"$output/machine.txt" 2>&1
exec "${PYTHON:-python3}" benchmarks/gpu.py --output "$output" --minutes 9 "${@:2}"

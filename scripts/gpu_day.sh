#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, most valuable first, in nine minutes:
# scripts/gpu_day.sh OUTPUT [OPTION...]
# For a machine that is available for minutes only. Each step has its own time limit and writes its
# results to OUTPUT before the next begins. `make gpu` does the same without limits. The options are
# those of benchmarks/gpu.py.
set -euo pipefail
output=$(realpath -m "${1:?usage: scripts/gpu_day.sh OUTPUT [OPTION...]}")
cd "$(dirname "$0")/.."
mkdir -p "$output"
{ nvidia-smi || true; free -g; nproc; } >"$output/machine.txt" 2>&1
exec "${PYTHON:-python3}" benchmarks/gpu.py --output "$output" --minutes 9 "${@:2}"

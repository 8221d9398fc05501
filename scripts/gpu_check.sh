#!/usr/bin/env bash
# Everything that wants a GPU, in ten minutes: what matters most comes first, and a run that is cut off leaves its files.
#
#   scripts/gpu_check.sh OUT           # on a GPU; figures in OUT/*.json and *.log, the page in OUT/benchmarks-gpu.md
#   scripts/gpu_check.sh OUT cpu       # tiny shapes on a CPU: whether the script itself runs
#
# Run it from the repository's root, in an environment with the package and its test extras.
set -uo pipefail
out=${1:?usage: scripts/gpu_check.sh OUT [cpu]}
device=${2:-cuda}
mkdir -p "$out"
python=${PYTHON:-python}
if [ "$device" = cpu ]; then large=tiny larger=tiny-xl steps=3 few=2 dtype=float32; else large=D larger=E steps=25 few=4 dtype=bfloat16; fi
began=$SECONDS

stage() {  # name, seconds at most, command: its output goes to OUT/name.log, and a line says how it ended
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  timeout --signal=INT --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1
  echo "$name: exit $? after $((SECONDS - start)) s (of $((SECONDS - began)))" | tee -a "$out/stages.txt"
}

page() {  # from whatever figures there are so far
  local found=()
  for file in steps runs few-steps compiled larger; do [ -s "$out/$file.json" ] && found+=("$out/$file.json"); done
  [ ${#found[@]} -eq 0 ] || stage page 60 "$python" scripts/benchmark.py --page-of "${found[@]}" --docs "$out/benchmarks-gpu.md"
}

bench() {  # name, seconds at most, flags of scripts/benchmark.py
  local name=$1 limit=$2
  shift 2
  stage "$name" "$limit" "$python" scripts/benchmark.py --device "$device" --dtypes "$dtype" --no-drift --no-facts --json "$out/$name.json" "$@"
}

{ date -u; nvidia-smi; "$python" -c "import torch, diffusers; print(torch.__version__, diffusers.__version__, torch.cuda.is_available())"; } >"$out/machine.txt" 2>&1
bench steps 120 --shapes "$large" --rounds 5                       # one step: ours, low memory, speed levels, diffusers
[ "$device" = cpu ] || stage parity 150 "$python" -m pytest -m gpu -n 0 tests/test_on_a_device.py  # every feature, float64
bench runs 120 --shapes "$large" --run-steps "$steps" --rounds 2   # noise to frames, speed levels, memory
bench few-steps 60 --shapes "$large" --run-steps "$few" --rounds 3
page
stage training 60 "$python" scripts/benchmark_training.py --device "$device" --paired 5 --precision bf16 --batch 4
stage batch 60 "$python" scripts/benchmark.py --shapes C --rounds 2 --no-drift --no-facts
bench larger 120 --shapes "$larger" --rounds 2
bench compiled 180 --shapes "$large" --rounds 3 --compiled         # minutes of compiling: last
page
cat "$out/stages.txt"

#!/usr/bin/env bash
# Make groma-tiny from nothing: every stage, one after the other.
#
#   scripts/make_tiny.sh [FOLDER]      FOLDER (runs/tiny) takes checkpoints and logs of all stages
#
# Interrupted, it goes on where it was when called again. PROCESSES sets the number of processes (2); on a machine with
# a GPU use 1.
set -euo pipefail
cd "$(dirname "$0")/.."
RUNS=${1:-runs/tiny}
PROCESSES=${PROCESSES:-2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# glibc gives large tensors back to the system when they are freed, and every step fetches them again page by page
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
mkdir -p "$RUNS"

# stage NAME RECIPE [--from CHECKPOINT ...]: train unless the stage is finished; logs beside its checkpoints
stage() {
    local out="$RUNS/$1" recipe=$2
    shift 2
    [[ -f "$out/finished" ]] && return
    .venv/bin/torchrun --standalone --nproc-per-node "$PROCESSES" -m groma.cli train "$recipe" --out "$out" --resume "$@" \
        2>>"$out.log"
    touch "$out/finished"
}

# newest NAME: the last checkpoint of a stage
newest() { printf '%s\n' "$RUNS/$1"/step-* | tail -n 1; }

[[ -f src/groma/assets/groma-tiny/tokenizer.json ]] || .venv/bin/python scripts/make_tiny_tokenizer.py
stage speak tiny-speak
stage crops tiny-pretrain-crops
stage pretrain tiny-pretrain --from "$(newest crops)"
stage regions tiny-pretrain-regions --from "$(newest speak)" --from "$(newest pretrain)"
stage detect tiny-detect --from "$(newest regions)"
stage align tiny-align --from "$(newest speak)" --from "$(newest regions)" --from "$(newest detect)"
stage instruct tiny-instruct --from "$(newest speak)" --from "$(newest align)"
.venv/bin/python scripts/pack_tiny.py "$(newest instruct)/model" src/groma/assets/groma-tiny

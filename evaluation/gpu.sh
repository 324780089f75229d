#!/usr/bin/env bash
# All that only a GPU can show, in at most nine minutes: each step within its own time, its results written
# as they come, so that a run that is cut off leaves what it has.
#
#     evaluation/gpu.sh evaluation/results/gpu.md               on a machine with a GPU
#     evaluation/gpu.sh --rehearse OUT.md                       every step at small size on the CPU
#
# Python is $PYTHON, or python3. It needs lost_reg and its dependencies; pytest and hypothesis for the tests.
# A new measurement for GPUs is one more step at the end; the seconds of all steps add up to 540 at most.
set -uo pipefail

rehearse=; [ "${1:-}" = --rehearse ] && { rehearse=1; shift; }
[ $# -eq 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
out=$(realpath -m "$1")
python=$(type -P "${PYTHON:-python3}") || { echo "There is no ${PYTHON:-python3}" >&2; exit 2; }
python=$(realpath -s "$python")
cd "$(dirname "$0")/.." || exit 2
trap 'exit 130' INT TERM
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=0

# TITLE SECONDS COMMAND...: adds a section with what the command prints, and how it ended if not well.
step() {
    local title=$1 limit=$2 errors began=$SECONDS; shift 2
    [ $rehearse ] && limit=600  # a slow CPU cuts nothing off
    errors=$(mktemp)
    printf '\n## %s\n\n    %s\n\n' "$title" "${*/#$python/python}" >>"$out"
    timeout --foreground --kill-after=5 "$limit" "$@" >>"$out" 2>"$errors"
    local code=$?
    case $code in
        0) ;;
        124 | 137) printf '\n**Cut off after %s s.**\n' "$limit" >>"$out" ;;
        *) printf '\n**Failed (exit code %s):** %s\n' "$code" "$(tail -n 5 "$errors")" >>"$out" ;;
    esac
    [ $code -eq 0 ] || failed=1
    rm -f "$errors"
    echo "$title: $((SECONDS - began)) s, exit code $code"
}

if [ $rehearse ]; then
    device=cpu
    export LOST_REG_TEST_DEVICE=cpu
    measured=(tiny) end_to_end=(--precision fp32 --images 4 --shrink 8 --rounds 1 --batch-size 2)
    tests=(-k "settings or lost_is") agreement=(--backbone tiny --limit 2 --precision bf16)
    sweep=(--backbone tiny --images 2 --shrink 8 --rounds 1)
    registers=(--backbone timm:vit_tiny_patch16_224 --shrink 8 --batch-size 1 --rounds 1)
    memory=(--backbone tiny --images 4 --shrink 8 --batch-size 4)
    decoding=(--images 4 --shrink 8 --rounds 1 --workers 1)
    methods=(--backbone tiny --images 1 --rounds 1 --batch-size 2)
else
    device=cuda
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
        { echo "$python has no torch that sees a CUDA device: --rehearse runs every step on the CPU" >&2; exit 2; }
    measured=(dino_vits16 dinov2_vitb14_reg dinov2_vitl14_reg)
    end_to_end=(--precision bf16 --precision fp32 --images 40 --seconds 1 --rounds 3 --batch-size auto --workers 16)
    tests=()
    sweep=(--backbone dinov2_vitb14_reg --precision bf16 --images 200)
    decoding=(--images 200 --workers 1 --workers 4 --workers 8 --workers 16)
    registers=(--backbone dinov2_vitl14 --precision bf16 --batch-size 16)
    memory=(--backbone dinov2_vitb14_reg --images 160 --batch-size 64)
    agreement=(--backbone tiny --backbone dino_vits16 --backbone dinov2_vits14_reg)
    methods=(--backbone dino_vitb16 --precision bf16 --images 1 --batch-size 64)
fi

{
    printf '# On a GPU\n\nMade by `evaluation/gpu.sh%s`' "${rehearse:+ --rehearse}"
    printf ' on %s, at commit %s.\n' "$(date -u +%F)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    if type -P nvidia-smi >/dev/null; then
        printf '\n    '
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    fi
} >"$out" || exit 2

for backbone in "${measured[@]}"; do
    step "End to end beside the backbone alone: $backbone" 90 \
        "$python" evaluation/benchmark.py --device $device --backbone "$backbone" --plain-images 0 "${end_to_end[@]}"
done
step "Methods beside the backbone" 30 \
    "$python" evaluation/costs.py methods --device $device "${methods[@]}"
step "Tests that need CUDA" 40 "$python" -m pytest tests/test_cuda.py -p no:cacheprovider "${tests[@]}"
step "Agreement of GPU and CPU" 30 "$python" evaluation/agreement.py --device $device "${agreement[@]}"
step "What a sweep costs" 45 "$python" evaluation/costs.py sweep --device $device "${sweep[@]}"
step "Test-time registers" 40 "$python" evaluation/costs.py registers --device $device "${registers[@]}"
step "Too little memory" 40 "$python" evaluation/costs.py memory --device $device "${memory[@]}"
step "Decoding alone" 40 "$python" evaluation/costs.py decoding --device $device "${decoding[@]}"
exit $failed

#!/usr/bin/env bash
# End to end on real photos: `tiny`, and small published architectures at random weights, which show that
# the pipeline runs and mean nothing as scores.
#
#     evaluation/photos.sh VOC_DATA_ROOT COCO_ANNOTATIONS.json OUT
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
voc_root=$1 coco=$2 out=$3

run() {  # NAME ARGUMENTS...
    local name=$1; shift
    lost-reg run --dataset voc07 --data-root "$voc_root" --out "$out/voc-$name" "$@"
    lost-reg run --dataset "$coco" --out "$out/coco-$name" "$@"
}

run tiny --backbone tiny
for backbone in dino dinov2_vits14 dinov2_vits14_reg; do
    run "$backbone" --backbone "$backbone" --weights random
done
lost-reg corloc "$out"

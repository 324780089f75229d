#!/usr/bin/env bash
# The runs of `make demo`: `tiny` on the generated samples, then a real model on real photos, with scores and a
# report. Without the model's weights, `tiny` takes its place.
#
#     evaluation/demo.sh OUT [PHOTOS]     PHOTOS: a folder of your own images
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
out=$1 photos=${2:-} data=${LOST_REG_DATA:-data}

find_objects() {  # NAME OPTIONS...
    lost-reg run --out "$out/$1" --visualize --save-maps "${@:2}"
}

find_objects samples --backbone tiny --dataset samples --data-root data
python data/skimage_photos.py data/skimage
if python evaluation/real_weights.py --data-root "$data"; then
    model=(--backbone dinov2_vits14 --weights "$data/dinov2_vits14.safetensors")
    find_objects photos-as-published "${model[@]}" --dataset data/skimage  # LOST finds whole images
else
    echo "Going on without DINOv2: the photos are searched with tiny, which was not made for photos." >&2
    model=(--backbone tiny)
fi
find_objects photos "${model[@]}" --preset best --refine bilateral --dataset data/skimage
lost-reg corloc "$out" --data-root data
echo "In five of the six photos the object fills the image, so whole images, which are all that"
echo "photos-as-published has, score as well. evaluation/results/methods.md has the scores on 128 photos."
[ -z "$photos" ] || find_objects yours "${model[@]}" --refine bilateral "$photos"
lost-reg report "$out" --data-root data --out "$out/report"

echo
echo "Runs:     $out/ (each with its pictures/)"
echo "Report:   $out/report/index.html"

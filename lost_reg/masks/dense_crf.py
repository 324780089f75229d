"""The fully connected CRF of Krähenbühl and Koltun (NIPS 2011), as MaskCut uses it, through pydensecrf2."""

from __future__ import annotations

from lost_reg.lazy import np
from lost_reg.masks.grids import unless_far

ITERATIONS = 10
GAUSSIAN = {"sxy": 3, "compat": 7}
BILATERAL = {"sxy": 50, "srgb": 5, "compat": 10}


class DenseCrf:
    """Moves the edges of masks to those of one image.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """

    def __init__(self, pixels: np.ndarray):
        self._pixels = np.ascontiguousarray(pixels)

    def refine(self, coarse: np.ndarray) -> np.ndarray:
        """A coarse mask, (H, W) bool, with its edges moved to those of the image: (H, W) bool.

        The unary potential is the softmax of the mask and its complement. The more likely label is taken, and
        holes are filled. If that has an IoU below 0.5 with the coarse mask, the coarse mask is returned;
        MaskCut's code drops the object.
        """
        from pydensecrf.densecrf import DenseCRF2D
        from scipy import ndimage

        height, width = coarse.shape
        inside = coarse.ravel().astype(np.float32)
        labels = np.stack([1 - inside, inside])
        crf = DenseCRF2D(width, height, 2)
        crf.setUnaryEnergy(np.log(np.exp(labels).sum(axis=0)) - labels)
        crf.addPairwiseGaussian(**GAUSSIAN)
        crf.addPairwiseBilateral(**BILATERAL, rgbim=self._pixels)
        likely = np.array(crf.inference(ITERATIONS)).argmax(axis=0).reshape(height, width) > 0
        refined = ndimage.binary_fill_holes(likely)
        return unless_far(refined, coarse)

"""The fast bilateral solver: it moves the edges of a coarse mask to those of the image.

Barron and Poole, "The Fast Bilateral Solver" (ECCV 2016), with the constants of TokenCut and FOUND. OpenCV
has one, too, but only in opencv-contrib-python, which cannot be installed beside opencv-python.
"""

from __future__ import annotations

from lost_reg.lazy import np
from lost_reg.masks.grids import unless_far

SIGMA_SPATIAL, SIGMA_LUMA, SIGMA_CHROMA = 16, 16, 8  # pixels, and levels of 256
SMOOTHNESS = 256.0  # the paper's lambda
CONFIDENCE = 0.999  # in the coarse mask, at every pixel
_BISTOCHASTISATIONS = 10
_LEAST_DIAGONAL = 1e-5  # of the preconditioner
_TOLERANCE, _MOST_STEPS = 1e-5, 25  # of the conjugate gradients
_ROUNDING = 1e-9  # so that greys, whose chroma lies between two vertices, all get the same one
_RGB_TO_YUV = (0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)


class BilateralSolver:
    """Smooths masks within the regions of one image.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """

    def __init__(self, pixels: np.ndarray):
        from scipy.sparse import diags_array

        self._size_hw = pixels.shape[:2]
        self._vertex_of_pixel, blur = bilateral_grid(pixels)
        self._pixels_at = np.bincount(self._vertex_of_pixel).astype(float)  # (V,)
        n = np.ones(len(self._pixels_at))
        for _ in range(_BISTOCHASTISATIONS):
            n = np.sqrt(n * self._pixels_at / (blur @ n))
        d_n, d_m = diags_array(n), diags_array(n * (blur @ n))
        data = diags_array(CONFIDENCE * self._pixels_at)
        self._system = (SMOOTHNESS * (d_m - d_n @ blur @ d_n) + data).tocsr()
        self._preconditioner = diags_array(1 / np.maximum(self._system.diagonal(), _LEAST_DIAGONAL))

    def smooth(self, target: np.ndarray) -> np.ndarray:
        """A target, (H, W) from 0 to 1, smoothed within the regions of the image: (H, W) float."""
        from scipy.sparse.linalg import cg

        splat = np.bincount(self._vertex_of_pixel, target.ravel().astype(float), len(self._pixels_at))
        solution, _ = cg(  # the result of the last step is good enough, whether or not it converged
            self._system,
            CONFIDENCE * splat,
            x0=splat / self._pixels_at,
            rtol=_TOLERANCE,
            maxiter=_MOST_STEPS,
            M=self._preconditioner,
        )
        smoothed: np.ndarray = solution[self._vertex_of_pixel].reshape(self._size_hw)
        return smoothed

    def refine(self, coarse: np.ndarray) -> np.ndarray:
        """A coarse mask, (H, W) bool, with its edges moved to those of the image: (H, W) bool.

        The smoothed mask is cut at 0.5, its holes are filled, and its largest 4-connected component is taken,
        or the whole image if nothing is above 0.5. If that has an IoU below 0.5 with the coarse mask, the
        coarse mask is returned.

        TokenCut's code takes the second largest among the background and the components, which is another
        one if the object is larger than the background.
        """
        from scipy import ndimage

        inside = ndimage.binary_fill_holes(self.smooth(coarse) > 0.5)
        labels, count = ndimage.label(inside)
        largest = 1 + np.bincount(labels.ravel())[1:].argmax() if count else 0
        refined = labels == largest
        return unless_far(refined, coarse)


def bilateral_grid(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The occupied vertices of an image's grid over x, y, luma and two chroma channels.

    Args:
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        The vertex of each pixel, (H * W,), of V vertices; and the blur, (V, V), sparse: 10 (twice the number
        of dimensions) for the vertex itself, and 1 for each neighbour along one dimension.
    """
    from scipy.sparse import coo_array, diags_array

    height, width = pixels.shape[:2]
    luma, *chroma = np.array(_RGB_TO_YUV) @ pixels.reshape(-1, 3).T  # chroma from -128
    axes = [
        np.tile(np.arange(width) // SIGMA_SPATIAL, height),
        np.repeat(np.arange(height) // SIGMA_SPATIAL, width),
        ((luma + _ROUNDING) / SIGMA_LUMA).astype(int),
        *(((one + 128 + _ROUNDING) / SIGMA_CHROMA).astype(int) for one in chroma),
    ]
    # one more than there are, so that a step beyond the end meets no vertex
    lengths = [int(axis.max()) + 2 for axis in axes]
    strides = np.cumprod([1, *lengths[:-1]])
    places = sum(axis * stride for axis, stride in zip(axes, strides))
    vertices, vertex_of_pixel = np.unique(places, return_inverse=True)
    count = len(vertices)
    blur = diags_array(np.full(count, 2.0 * len(axes))).tocoo()
    for stride in strides:
        at = np.searchsorted(vertices, vertices + stride).clip(max=count - 1)
        (lower,) = (vertices[at] == vertices + stride).nonzero()
        step = coo_array((np.ones(len(lower)), (lower, at[lower])), shape=(count, count))
        blur = blur + step + step.T
    return vertex_of_pixel, blur.tocsr()

"""`GaussianBlur`: the resolution of an imaging system, in image space."""

import math

import torch

from ..arguments import Extended, Numbers
from .operator import LinearOperator
from .space import Space, SpaceLike, per_axis

__all__ = ["GaussianBlur"]


class GaussianBlur(LinearOperator):
    """Convolution with a Gaussian of full width at half maximum `fwhm` (mm; a number or one an axis) on images of voxels of `voxel_size` mm, zero outside; self-adjoint.

    Axis after axis, sampled at voxel centres up to `truncation` standard deviations and normalised to sum 1, so an image that is not negative stays so. fwhm 0 leaves an axis
    as it is. Raises ValueError for a negative width.
    """

    def __init__(self, space: SpaceLike, fwhm: Numbers, voxel_size: Numbers = 1.0, truncation: Extended = 4.0):
        space = space if isinstance(space, Space) else Space(space)
        widths, size = per_axis(fwhm, space.ndim, "GaussianBlur", "fwhm"), per_axis(voxel_size, space.ndim, "GaussianBlur", "voxel_size")
        if not ((widths >= 0).all() and (size > 0).all()):
            raise ValueError(f"GaussianBlur got fwhm={fwhm} and voxel_size={voxel_size}; it needs widths of at least 0 and voxels above 0, both in mm.")
        super().__init__(space, space)
        self.kernels = []
        for sigma in (widths / size / (2 * math.sqrt(2 * math.log(2)))).tolist():
            i = torch.arange(-math.ceil(truncation * sigma), math.ceil(truncation * sigma) + 1, dtype=torch.float64)
            kernel = torch.exp(-0.5 * (i / sigma) ** 2) if sigma else torch.ones(1, dtype=torch.float64)
            self.kernels.append(kernel / kernel.sum())

    def _call(self, x):
        shape = x.shape
        for axis, kernel in enumerate(self.kernels):
            if len(kernel) > 1:
                rest = torch.Size(self.domain.shape[axis + 1:]).numel()
                x = torch.nn.functional.conv2d(x.reshape(-1, 1, self.domain.shape[axis], rest), kernel.to(x).view(1, 1, -1, 1), padding=(len(kernel) // 2, 0)).reshape(shape)
        return x

    _adjoint = _call

"""Measures of image quality: PSNR, SSIM, NRMSE. Each compares the last two (or three) axes; leading axes are batch."""

import math

import torch

from .arguments import Quantity, checked

__all__ = ["psnr", "ssim", "nrmse"]


@checked
def psnr(x: torch.Tensor, reference: torch.Tensor, peak: Quantity | None = None, ndim: int = 2) -> torch.Tensor:
    """20 log10(peak / sqrt(mean |x - reference|^2)) in dB, over the last `ndim` axes; infinite where both are equal.

    x, reference : (..., *image), one shape, real or complex: complex images are compared as they are, phase included; pass x.abs() for magnitudes.
    peak : the largest value an image can have; None: max |reference|, image by image. Returns the batch's shape. Raises ValueError for other shapes.
    """
    axes = _axes(x, reference, ndim, "psnr")
    _check_peak(peak, "psnr")
    peak = reference.abs().amax(axes) if peak is None else peak
    return 10 * torch.log10(peak ** 2 / _square(x - reference).mean(axes))


@checked
def nrmse(x: torch.Tensor, reference: torch.Tensor, ndim: int = 2) -> torch.Tensor:
    """|x - reference| / |reference|, Euclidean norms over the last `ndim` axes; shapes and complex images as in `psnr`."""
    axes = _axes(x, reference, ndim, "nrmse")
    return (_square(x - reference).sum(axes) / _square(reference).sum(axes)).sqrt()


@checked
def ssim(x: torch.Tensor, reference: torch.Tensor, peak: Quantity | None = None, ndim: int = 2) -> torch.Tensor:
    """Mean structural similarity over the last `ndim` axes, at most 1: (2 m n + c1)(2 s + c2) / ((m^2 + n^2 + c1)(v + w + c2)), local means m, n, variances v, w, covariance s.

    The window is a Gaussian of 11 pixels an axis, deviation 1.5; c1 = (0.01 peak)^2, c2 = (0.03 peak)^2; the mean is over the pixels whose window lies inside the image.
    x, reference : real, one shape (..., *image), 11 pixels or more an axis. peak : the range of values; None: max |reference|, image by image.
    Raises TypeError for complex images (the measure knows no phase: pass x.abs()), ValueError for other or for smaller shapes.

    Source: Z. Wang et al., IEEE Transactions on Image Processing 13 (2004).
    """
    axes = _axes(x, reference, ndim, "ssim")
    if x.is_complex() or reference.is_complex():
        raise TypeError("ssim got complex images, and knows no phase; compare magnitudes: ssim(x.abs(), reference.abs()).")
    _check_peak(peak, "ssim")
    if min(x.shape[a] for a in axes) < 11:
        raise ValueError(f"ssim got images of shape {tuple(x.shape[-ndim:])}; its window needs 11 pixels an axis.")
    peak = reference.abs().amax(axes, keepdim=True) if peak is None else peak
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    m, n, mm, nn, mn = (_window(v, ndim) for v in (x, reference, x * x, reference * reference, x * reference))
    return ((2 * m * n + c1) * (2 * (mn - m * n) + c2) / ((m * m + n * n + c1) * (mm - m * m + nn - n * n + c2))).mean(axes)


def _axes(x, reference, ndim, who):
    if x.shape != reference.shape or x.dim() < ndim:
        raise ValueError(f"{who} got images of shapes {tuple(x.shape)} and {tuple(reference.shape)}; it needs one shape, (..., and {ndim} axes of the image).")
    return tuple(range(-ndim, 0))


def _check_peak(peak, who):
    if peak is not None and not torch.is_tensor(peak) and not 0 < peak < 1e150:
        raise ValueError(f"{who} got peak={peak}; it needs the largest value an image can have, a number > 0.")


def _square(d):
    return d.real ** 2 + d.imag ** 2 if d.is_complex() else d ** 2


def _window(v, ndim):
    """The Gaussian mean over 11 pixels along each of the last `ndim` axes, where the window fits."""
    weights = [math.exp(-0.5 * (i / 1.5) ** 2) for i in range(-5, 6)]
    for axis in range(-ndim, 0):
        n = v.shape[axis] - 10
        v = sum(w / sum(weights) * v.narrow(axis, i, n) for i, w in enumerate(weights))
    return v

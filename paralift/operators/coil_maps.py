"""Receive coils: sensitivity maps by ESPIRiT and from low-resolution images, prewhitening, compression, root sum of squares."""

import math

import torch

from ..arguments import Array, Count, Integers, checked
from .space import finite, parts

__all__ = ["espirit", "low_resolution_maps", "prewhiten", "compress_coils", "mix_coils", "root_sum_of_squares"]


@checked
def espirit(kspace: Array, calibration: Integers = 24, kernel: Integers = 6, threshold: float = 0.02, crop: float = 0.9, sets: int = 1,
            axis: int = 0) -> torch.Tensor:
    """Coil sensitivity maps S from the fully sampled centre of k-space: at every pixel r the top eigenvectors of G(r), G(r) S(r) = S(r) where one set explains the data.

    Every window of `kernel` samples of the centre lies, up to noise, in the span of few vectors v_k (coils, *kernel); the average over the windows of the projection on this span
    is a convolution of k-space, so a coils x coils matrix at each pixel, G(r) = K^-1 sum_k g_k(r) g_k(r)*, g_k(r) = sum_d v_k(d) exp(2 pi i d r / n), K = prod(kernel).

    Parameters
    ----------
    kspace : complex (coils, ny, nx) or (coils, nz, ny, nx), centred: the zero frequency is at index n // 2. Only its centre is read. Axes before `axis` are batch.
    calibration, kernel : samples an axis, a number or one an axis; a number is cut to the axes that are shorter. The centre has no empty sample.
    threshold : the singular values of the windows kept, as a part of the largest.
    crop : maps are 0 where the eigenvalue, in [0, 1], is smaller: outside of the object.
    sets : eigenvectors kept; more than one for a field of view smaller than the object.

    Returns maps (coils, *shape), or (sets, coils, *shape) where sets > 1, in the dtype of `kspace`: no unit, sum |S|^2 = 1 inside the support and 0 outside. The phase is that for
    which the first principal component over the coils is real and positive, so the image keeps the rest. Computed without gradients; beside the maps little memory is needed.
    Raises TypeError for real data, ValueError for NaN, too small a centre, or one that is not fully sampled.

    Source: M. Uecker et al., ESPIRiT, Magnetic Resonance in Medicine 71 (2014).
    """
    kspace, axis = _kspace(kspace, "espirit", axis)
    shape = kspace.shape[axis + 1:]
    sizes, lengths = _each(calibration, shape, "calibration"), _each(kernel, shape, "kernel")
    if any(not 1 <= k <= r or (k == r and r < n) for k, r, n in zip(lengths, sizes, shape)):
        raise ValueError(f"espirit got kernel={kernel} and calibration={calibration} on axes {tuple(shape)}; every axis needs a kernel shorter than its calibration.")
    if not 0 < threshold < 1 or not 0 <= crop < 1:
        raise ValueError(f"espirit got threshold={threshold} and crop={crop}; threshold needs to be in (0, 1), crop in [0, 1).")
    if not 1 <= sets <= kspace.shape[axis]:
        raise ValueError(f"espirit got sets={sets}; {kspace.shape[axis]} coils allow 1 to {kspace.shape[axis]}.")
    flat = kspace.flatten(0, axis - 1) if axis else kspace[None]
    with torch.no_grad():
        maps = torch.stack([_espirit(_centre(y, sizes, "espirit"), shape, lengths, threshold, crop, sets) for y in flat])
    maps = maps.squeeze(1) if sets == 1 else maps
    return maps.reshape(*kspace.shape[:axis], *maps.shape[1:])


def _espirit(centre, shape, lengths, threshold, crop, sets):
    coils, d = centre.shape[0], len(shape)
    R = _kernel_correlation(centre, lengths, threshold)
    reference = torch.linalg.eigh(centre.flatten(1) @ centre.flatten(1).mH).eigenvectors[:, -1]
    reference = reference * reference[reference.abs().argmax()].conj().sgn()
    waves = [_waves(n, 2 * k - 1, R) for n, k in zip(shape, lengths)]
    maps = centre.new_zeros(sets, coils, *shape)
    planes, rows = maps if d == 3 else maps[:, :, None], max(1, _chunk(centre.device) // shape[-1])
    pair = torch.triu_indices(coils, coils, device=R.device)
    upper = R[pair[0], pair[1]]
    for z in range(planes.shape[2]):
        plane = (torch.tensordot(upper, waves[0][z], ([1], [0])) if d == 3 else upper) @ waves[-1].T
        for first in range(0, shape[-2], rows):
            block = waves[-2][first:first + rows] @ plane
            G = block.new_empty(coils, coils, block[0].numel())
            G[pair[1], pair[0]] = block.flatten(1).conj()
            G[pair[0], pair[1]] = block.flatten(1)
            values, vectors = _top_vector(G, crop) if sets == 1 else _top_vectors(G, sets)
            phase = torch.einsum("c,scp->sp", reference.conj(), vectors).conj().sgn()
            planes[:, :, z, first:first + rows] = (vectors * (phase * (values > crop))[:, None]).unflatten(-1, block.shape[1:])
    return maps


def _kernel_correlation(centre, lengths, threshold):
    """R(e) = K^-1 sum_k sum_{d - d' = e} v_k(d) v_k(d')*: (coils, coils, *(2 k - 1)), e in the order of the FFT."""
    coils, d, windows = centre.shape[0], len(lengths), centre
    for axis, k in enumerate(lengths):
        windows = windows.unfold(axis + 1, k, 1)
    windows = windows.movedim(0, d).reshape(-1, coils * math.prod(lengths))
    wide = windows.shape[0] < windows.shape[1]
    squares, vectors = torch.linalg.eigh(windows @ windows.mH if wide else windows.mH @ windows)
    kept = squares > threshold ** 2 * squares[-1]
    vectors = vectors[:, kept]
    span = (windows.mH @ vectors / squares[kept].sqrt()).conj() if wide else vectors.conj()
    axes = tuple(range(-d, 0))
    spectra = torch.fft.fftn(span.T.reshape(-1, coils, *lengths), [2 * k - 1 for k in lengths], axes).flatten(2).permute(2, 1, 0)
    gram = (spectra @ spectra.mH / math.prod(lengths)).permute(1, 2, 0).reshape(coils, coils, *[2 * k - 1 for k in lengths])
    return torch.fft.ifftn(gram, dim=axes)


def _waves(n, m, like):
    """exp(2 pi i r e / n), r = -(n // 2), ..., and e in the order of an FFT of odd length m: (n, m)."""
    r, e = torch.arange(n, dtype=torch.float64) - n // 2, torch.fft.fftfreq(m, 1 / m, dtype=torch.float64)
    return torch.exp(2j * math.pi / n * torch.outer(r, e)).to(like)


def _chunk(device):
    """Pixels at a time: matrices that stay in a CPU's cache, or enough work for an accelerator."""
    return 1 << 11 if device.type == "cpu" else 1 << 17


def _top_vector(G, crop, tolerance=2e-3):
    """The largest eigenvalue (1, pixels) and its vector (1, coils, pixels) of G (coils, coils, pixels): the power method from the largest column, in rounds for the pixels inside
    `crop` whose residual |G v - value v| is still above the tolerance, then the exact decomposition of those that are left."""
    values, vectors = G.real.new_empty(1, G.shape[2]), G.new_empty(1, *G.shape[1:])
    left = torch.arange(G.shape[2], device=G.device)
    w = G.gather(1, G.diagonal(dim1=0, dim2=1).real.argmax(-1).expand(len(G), 1, -1)).squeeze(1)
    for iterations in (8, 8, 16):
        for _ in range(iterations):
            w = (G * w).sum(1)                                   # eigenvalues are at most 1, so nothing overflows
        v = w / root_sum_of_squares(w).clamp(min=1e-30)
        w = (G * v).sum(1)
        value = (w * v.conj()).real.sum(0)
        residual = root_sum_of_squares(w - value * v)
        w = w / root_sum_of_squares(w).clamp(min=1e-30)
        values[0, left], vectors[0, :, left] = value, w
        wrong = ((residual > tolerance) & (value + residual > crop)).nonzero()[:, 0]
        if not len(wrong):
            return values, vectors
        left, G, w = left[wrong], G[:, :, wrong], w[:, wrong]
    values[:, left], vectors[:, :, left] = _top_vectors(G, 1)
    return values, vectors


def _top_vectors(G, sets):
    values, vectors = torch.linalg.eigh(G.permute(2, 0, 1))
    return values[:, -sets:].flip(1).T, vectors[..., -sets:].flip(2).permute(2, 1, 0)


@checked
def low_resolution_maps(kspace: Array, calibration: Integers = 24, axis: int = 0) -> torch.Tensor:
    """S_c = m_c / sqrt(sum |m_c|^2), m_c the images of the centre of k-space under a Hann window: quick maps that need no signal model.

    kspace, calibration, axis : as `espirit`'s. Returns maps of the shape of `kspace`, without unit, sum |S|^2 = 1 wherever there is signal; they also carry the smooth phase of the
    image, which is then nearly real, and are noise outside of the object. Raises as `espirit`.
    """
    kspace, axis = _kspace(kspace, "low_resolution_maps", axis)
    shape = kspace.shape[axis + 1:]
    sizes, axes = _each(calibration, shape, "calibration"), tuple(range(-len(shape), 0))
    padded = torch.zeros_like(kspace)
    block = _block(shape, sizes)
    padded[block] = _centre(kspace, sizes, "low_resolution_maps")
    for axis_, (r, n) in enumerate(zip(sizes, shape)):
        if r < n:
            window = torch.signal.windows.hann(r + 2, dtype=kspace.real.dtype, device=kspace.device)[1:-1]
            padded[block] *= window.reshape(-1, *[1] * (len(shape) - 1 - axis_))
    images = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(padded, axes), dim=axes, norm="ortho"), axes)
    total = root_sum_of_squares(images, axis).unsqueeze(axis)
    return torch.where(total > 0, images / total, 0)


@checked
def prewhiten(kspace: Array, noise: Array, axis: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """L^-1 y on the coils, L L* = N N* / samples the noise covariance: the noise of every coil gets variance 1 (E |n|^2, both parts together) and none is correlated.

    kspace : (coils, ...) in any unit, images alike; `axis` its coil axis. noise : complex (coils, samples), of a scan without excitation, in the same unit and receiver bandwidth.
    Returns (y, matrix): y of the shape of `kspace`, without unit, and L^-1 (coils, coils), which `mix_coils` applies to maps that were found before.
    Raises ValueError where the shapes do not fit, or the noise has no more samples than coils or a coil without noise.
    """
    kspace, axis = _kspace(kspace, "prewhiten", axis)
    noise = finite(noise, "prewhiten", "noise")
    coils = kspace.shape[axis]
    if noise.dim() != 2 or noise.shape[0] != coils or noise.shape[1] <= coils or not noise.is_complex():
        raise ValueError(f"prewhiten got noise of shape {tuple(noise.shape)} and dtype {noise.dtype} for {coils} coils; it needs complex (coils, samples), samples > coils.")
    noise = noise.to(kspace)
    L, failed = torch.linalg.cholesky_ex(noise @ noise.mH / noise.shape[1])
    if failed:
        raise ValueError(f"prewhiten got noise whose coil {int(failed) - 1} holds none, or what the coils before it hold; drop this coil from noise and k-space.")
    matrix = torch.linalg.solve_triangular(L, torch.eye(coils, dtype=L.dtype, device=L.device), upper=False)
    return mix_coils(kspace, matrix, axis), matrix


@checked
def compress_coils(kspace: Array, coils: Count, axis: int = 0) -> tuple[torch.Tensor, torch.Tensor, float]:
    """U* y on the coils, U the first `coils` left singular vectors of y as (coils, samples): the virtual coils that keep most energy.

    kspace : complex (coils, ...), `axis` its coil axis; axes before it share one matrix. Prewhiten first, for the noise of the virtual coils is then white too.
    Returns (y, matrix, energy): y with `coils` coils, U* (coils, all coils), which `mix_coils` applies to maps, and the part of sum |y|^2 that is kept, in [0, 1], a float.
    """
    kspace, axis = _kspace(kspace, "compress_coils", axis)
    if not 1 <= coils <= kspace.shape[axis]:
        raise ValueError(f"compress_coils got coils={coils}; this k-space allows 1 to {kspace.shape[axis]}.")
    y = kspace.movedim(axis, 0).flatten(1)
    squares, vectors = torch.linalg.eigh(y @ y.mH)
    matrix = vectors[:, -coils:].flip(1).mH
    return mix_coils(kspace, matrix, axis), matrix, float(squares[-coils:].sum() / squares.sum())


@checked
def mix_coils(x: torch.Tensor, matrix: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """M x on the coil axis `axis` of k-space, images or maps: coils -> rows of `matrix`. Raises ValueError where the numbers of coils differ."""
    if matrix.dim() != 2 or x.shape[axis] != matrix.shape[1]:
        raise ValueError(f"mix_coils got {x.shape[axis]} coils on axis {axis} and a matrix of shape {tuple(matrix.shape)}; its columns need to be the coils.")
    return torch.tensordot(matrix, x, ([1], [axis])).movedim(0, axis)


@checked
def root_sum_of_squares(images: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """sqrt(sum_c |m_c|^2) over the coils, axis `axis`: a real image, in the unit of `images`."""
    if not -images.dim() <= axis < images.dim():
        raise ValueError(f"root_sum_of_squares got images of shape {tuple(images.shape)} and axis={axis}; it needs the axis of the coils.")
    return torch.linalg.vector_norm(parts(images), dim=(axis % images.dim(), -1)) if images.is_complex() else torch.linalg.vector_norm(images, dim=axis)


def _kspace(kspace, who, axis):
    kspace = finite(kspace, who, "k-space")
    if not kspace.is_complex():
        raise TypeError(f"{who} got k-space of dtype {kspace.dtype}; it needs complex numbers: two real channels become one complex by torch.view_as_complex.")
    if not -kspace.dim() <= axis < kspace.dim():
        raise ValueError(f"{who} got axis={axis} for k-space of shape {tuple(kspace.shape)}; it needs the axis of the coils.")
    return kspace, axis % kspace.dim()


def _each(number, shape, name):
    """One number an axis; a single one is cut to the axes that are shorter."""
    if len(shape) not in (2, 3):
        raise ValueError(f"k-space has {len(shape)} axes after its coils, of lengths {tuple(shape)}; two or three are needed: give the axis of the coils as axis=...")
    if isinstance(number, int) and number >= 1:
        return tuple(min(number, n) for n in shape)
    if isinstance(number, int):
        raise ValueError(f"{name}={number} does not fit axes of lengths {tuple(shape)}; give a number of at least 1, or one an axis.")
    if len(number) != len(shape) or any(r < 1 for r in number) or any(r > n for r, n in zip(number, shape)):
        raise ValueError(f"{name}={tuple(number)} does not fit axes of lengths {tuple(shape)}; give one number an axis, at most its length.")
    return tuple(int(r) for r in number)


def _block(shape, sizes):
    """The index of the block of `sizes` around the zero frequency of the trailing axes `shape`."""
    return (..., *[slice(n // 2 - r // 2, n // 2 - r // 2 + r) for n, r in zip(shape, sizes)])


def _centre(kspace, sizes, who):
    """The block of `sizes` around the zero frequency; ValueError where it has empty samples."""
    centre = kspace[_block(kspace.shape[-len(sizes):], sizes)]
    empty = (centre == 0).all(-len(sizes) - 1)
    if empty.any():
        raise ValueError(f"{who} got a centre of {tuple(sizes)} samples of which {int(empty.sum())} are empty in all coils; pass the size that is fully sampled as "
                         "calibration=..., and k-space with its zero frequency at n // 2.")
    return centre

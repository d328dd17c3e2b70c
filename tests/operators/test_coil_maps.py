"""Coil maps against an oracle written out in full, and against maps that are known."""

import itertools
import math

import numpy as np
import pytest
import torch

import paralift as pl


def centred(x, d):
    axes = tuple(range(-d, 0))
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


def oracle(kspace, r, k, threshold):
    """ESPIRiT as published: singular vectors of the calibration matrix, their images pixel by pixel, an SVD a pixel. Eigenvalues (*shape), vectors (*shape, coils)."""
    coils, shape = kspace.shape[0], kspace.shape[1:]
    y = kspace.numpy()[(slice(None), *[slice(n // 2 - r // 2, n // 2 - r // 2 + r) for n in shape])]
    windows = [y[(slice(None), *[slice(i, i + k) for i in corner])].ravel() for corner in itertools.product(range(r - k + 1), repeat=len(shape))]
    U, s, _ = np.linalg.svd(np.array(windows).T, full_matrices=False)
    v = U[:, s > threshold * s[0]].T.reshape(-1, coils, *[k] * len(shape))
    values, vectors = np.zeros(shape), np.zeros((*shape, coils), complex)
    steps = np.stack(np.meshgrid(*[np.arange(k)] * len(shape), indexing="ij"))
    for pixel in np.ndindex(*shape):
        turn = sum(2j * np.pi * step * (p - n // 2) / n for step, p, n in zip(steps, pixel, shape))
        g = (v * np.exp(turn)).reshape(len(v), coils, -1).sum(-1) / math.sqrt(k ** len(shape))
        u, s, _ = np.linalg.svd(g.T, full_matrices=False)
        values[pixel], vectors[pixel] = s[0] ** 2, u[:, 0]
    return torch.tensor(values), torch.tensor(vectors)


@pytest.mark.parametrize("shape,r,k", [((20, 17), 12, 4), ((9, 10, 8), 8, 3)])
def test_against_the_published_algorithm(shape, r, k):
    _, _, kspace = pl.data.phantom(shape, coils=3, noise=0.02, dtype=torch.complex128)
    values, vectors = oracle(kspace, r, k, 0.05)
    maps = pl.espirit(kspace, r, k, threshold=0.05, crop=0.7)
    inside = (maps != 0).any(0)
    assert inside.any() and not inside.all() and torch.equal(inside, values > 0.7)
    agreement = (maps.movedim(0, -1).conj() * vectors).sum(-1).abs()
    assert (1 - agreement[inside]).max() < 1e-3 and (pl.root_sum_of_squares(maps)[inside] - 1).abs().max() < 1e-12
    sets = pl.espirit(kspace, r, k, threshold=0.05, crop=0.7, sets=2)
    assert sets.shape == (2, 3, *shape)
    assert (1 - (sets[0].movedim(0, -1).conj() * vectors).sum(-1).abs()[inside]).max() < 1e-12
    assert ((sets[0] * sets[1].conj()).sum(0)).abs().max() < 1e-12                                   # two sets are orthogonal


@pytest.mark.parametrize("dtype,tolerance", [(torch.complex64, 2e-3), (torch.complex128, 2e-3)])
def test_known_maps_are_found(dtype, tolerance):
    """Inside of the head, up to a phase: maps of the phantom, seen through a centre of 24 x 24 samples."""
    image, maps, kspace = pl.data.phantom((96, 80), coils=6, noise=0.005, dtype=dtype)
    found = pl.espirit(kspace)
    assert found.dtype == dtype
    inside = image.abs() > 0.15
    support = (found != 0).any(0)
    assert support[inside].all() and not support[:, :2].any() and not support[:, -2:].any()
    assert (1 - (found.conj() * maps).sum(0).abs()[inside]).max() < tolerance
    images = centred(kspace, 2)
    left = images - found * (found.conj() * images).sum(0)
    assert left[:, inside].norm() < 0.05 * images[:, inside].norm()
    rough = pl.low_resolution_maps(kspace)
    assert (1 - (rough.conj() * maps).sum(0).abs()[inside]).max() < 0.05
    torch.testing.assert_close(pl.root_sum_of_squares(rough), torch.ones_like(rough[0].real))


def test_phase_batch_and_scale():
    _, _, kspace = pl.data.phantom((40, 36), coils=4, noise=0.01)
    maps = pl.espirit(kspace, 16, 5)
    torch.testing.assert_close(pl.espirit(kspace[None, None] * 1e-3, 16, 5, axis=2)[0, 0], maps, atol=1e-3, rtol=0)
    two = pl.espirit(torch.stack([kspace, kspace.flip(0)]), 16, 5, axis=1)
    assert torch.equal(two[0], maps)
    torch.testing.assert_close(two[1].flip(0).abs(), maps.abs(), atol=2e-3, rtol=0)
    y = kspace[:, 20 - 8:20 + 8, 18 - 8:18 + 8].flatten(1)
    first = torch.linalg.svd(y, full_matrices=False).U[:, 0]
    virtual = (first.conj()[:, None, None] * maps).sum(0)
    virtual = virtual * virtual[(maps != 0).any(0)][0].conj().sgn()                                  # the singular vector's own phase is arbitrary
    assert virtual.imag.abs().max() < 1e-4 and virtual.real.min() > -1e-4


def test_more_coils_than_windows():
    image, maps, kspace = pl.data.phantom((32, 32), coils=12, noise=0.005)
    found = pl.espirit(kspace, calibration=12, kernel=6)                                             # 49 windows of 432 samples
    inside = image.abs() > 0.15
    assert (1 - (found.conj() * maps).sum(0).abs()[inside & (found != 0).any(0)]).max() < 0.05


def test_prewhitened_noise_is_white():
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, dtype=torch.complex128, generator=g)
    noise, other = (mixing @ torch.randn(5, 200000, dtype=torch.complex128, generator=g) for _ in range(2))
    white, matrix = pl.prewhiten(other.reshape(5, 400, 500), noise)
    covariance = white.flatten(1) @ white.flatten(1).mH / 200000
    assert (covariance - torch.eye(5)).abs().max() < 0.02
    image, maps, kspace = pl.data.phantom((16, 16), coils=5, dtype=torch.complex128)
    torch.testing.assert_close(pl.prewhiten(kspace, noise)[0], pl.mix_coils(kspace, matrix))
    batch = torch.stack([kspace, 2 * kspace])
    torch.testing.assert_close(pl.prewhiten(batch, noise, axis=1)[0][1], 2 * pl.mix_coils(kspace, matrix))
    # mixing commutes with the Fourier transform, so maps mix as k-space does
    torch.testing.assert_close(centred(pl.mix_coils(kspace, matrix), 2), pl.mix_coils(maps, matrix) * image)


def test_compression_keeps_the_stated_energy():
    image, maps, kspace = pl.data.phantom((24, 24), coils=10, dtype=torch.complex128)
    y, matrix, energy = pl.compress_coils(kspace, 4)
    s = torch.linalg.svdvals(kspace.flatten(1))
    assert y.shape == (4, 24, 24) and abs(energy - float((s[:4] ** 2).sum() / (s ** 2).sum())) < 1e-12
    assert abs(float((y.abs() ** 2).sum() / (kspace.abs() ** 2).sum()) - energy) < 1e-12
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(4, dtype=matrix.dtype))
    torch.testing.assert_close(centred(y, 2), pl.mix_coils(maps, matrix) * image)
    assert abs(pl.compress_coils(kspace, 10)[2] - 1) < 1e-12
    assert pl.compress_coils(kspace[None], 4, axis=1)[0].shape == (1, 4, 24, 24)


def test_gradients():
    x = torch.randn(3, 4, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(pl.root_sum_of_squares, x) and torch.autograd.gradcheck(lambda x: pl.low_resolution_maps(x, 3), x)


K = torch.randn(4, 30, 30, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
HOLE = K.clone()
HOLE[:, 5] = 0
NAN = K.clone()
NAN[0, 0, 0] = math.nan
BAD = [
    (lambda: pl.espirit(K.real), TypeError, "complex numbers"), (lambda: pl.espirit(NAN), ValueError, "NaN"), (lambda: pl.espirit(HOLE), ValueError, "24 are empty in all coils"),
    (lambda: pl.low_resolution_maps(HOLE), ValueError, "fully sampled"), (lambda: pl.espirit(K, 6, 6), ValueError, "shorter than its calibration"),
    (lambda: pl.espirit(K, (24, 40)), ValueError, "does not fit axes"), (lambda: pl.espirit(K, kernel=0), ValueError, "at least 1"),
    (lambda: pl.espirit(K, axis=1), ValueError, "two or three are needed"), (lambda: pl.espirit(K, axis=3), ValueError, "axis of the coils"),
    (lambda: pl.espirit(K, sets=5), ValueError, "1 to 4"), (lambda: pl.espirit(K, crop=1.0), ValueError, r"crop in \[0, 1\)"),
    (lambda: pl.prewhiten(K, K.flatten(1)[:3]), ValueError, "for 4 coils"),
    (lambda: pl.prewhiten(K, K[[0, 1, 1, 2]].flatten(1) * torch.tensor([1, 1, 0, 1])[:, None]), ValueError, "coil 2"),
    (lambda: pl.compress_coils(K, 5), ValueError, "1 to 4"), (lambda: pl.mix_coils(K, K[0]), ValueError, "columns"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, kind, text = BAD[case]
    with pytest.raises(kind, match=text):
        call()

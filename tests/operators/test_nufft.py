"""The NUFFT against its sum, on the grid against the FFT, its Toeplitz operator, density compensation, and what it refuses."""

import math
import pickle
import sys

import pytest
import torch

import paralift as pl

T, C = torch.float64, torch.complex128
G = torch.Generator().manual_seed(0)


def randn(*shape, dtype=C):
    return torch.randn(*shape, dtype=dtype, generator=G)


def points(*shape):
    return math.pi * (2 * torch.rand(*shape, dtype=T, generator=G) - 1)


def matrix(omega, shape):
    pixels = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=T) - n // 2 for n in shape], indexing="ij"), -1).reshape(-1, len(shape))
    angle = omega.reshape(-1, len(shape)) @ pixels.T
    return torch.polar(torch.ones_like(angle), -angle) / math.prod(shape) ** 0.5


@pytest.mark.parametrize("shape", [(9,), (8,), (8, 7), (5, 6), (4, 5, 6)])
def test_against_the_sum(shape):
    omega = points(5, 6, len(shape))
    A, M, x, y = pl.NUFFT(omega, shape, dtype=C), matrix(omega, shape), randn(2, 3, *shape), randn(2, 3, 5, 6)
    assert torch.allclose(A(x), (x.flatten(2) @ M.T).unflatten(-1, (5, 6)), atol=1e-10)
    assert torch.allclose(A.adjoint(y), (y.flatten(2) @ M.conj()).unflatten(-1, shape), atol=1e-10)
    assert torch.allclose(A.normal(x), (x.flatten(2) @ (M.mH @ M).T).unflatten(-1, shape), atol=1e-10)
    w = torch.rand(5, 6, dtype=T, generator=G)
    gram = A.gram(w)
    assert torch.allclose(gram(x), (x.flatten(2) @ (M.mH @ (w.flatten()[:, None] * M)).T).unflatten(-1, shape), atol=1e-10)
    for op in (A, A.adjoint, A.normal, gram, A.rows(slice(1, 3)), 2 * A):
        pl.testing.check_operator(op)
    assert torch.allclose(A.rows(torch.tensor([3, 0]))(x), A(x)[..., [3, 0], :])
    assert torch.allclose(pickle.loads(pickle.dumps(A))(x), A(x)) and A(x[:0]).shape == (0, 3, 5, 6)


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (4, 5, 6)])
def test_on_the_grid_it_is_the_centred_fft(shape):
    omega = torch.stack(torch.meshgrid(*[2 * math.pi * (torch.arange(n, dtype=T) - n // 2) / n for n in shape], indexing="ij"), -1)
    maps, x = randn(3, *shape), randn(2, *shape)
    y = pl.MRI(coil_maps=maps)(x)
    assert torch.allclose(pl.MRI(coil_maps=maps, trajectory=omega.flatten(0, -2))(x), y.flatten(2), atol=1e-10)
    extent = torch.tensor([0.2, 0.3, 0.24], dtype=T)[:len(shape)]
    metres = (omega / (2 * math.pi * extent / torch.tensor(shape))).flatten(0, -2)                # in 1/m
    assert torch.allclose(pl.MRI(coil_maps=maps, trajectory=metres, field_of_view=extent)(x), y.flatten(2), atol=1e-10)
    single = pl.MRI(coil_maps=maps.to(torch.complex64), trajectory=omega.flatten(0, -2))(x.to(torch.complex64))
    assert single.dtype == torch.complex64 and (single - y.flatten(2)).abs().max() < 3e-5 * y.abs().max()
    w = pl.density_compensation(omega.flatten(0, -2), shape)
    assert torch.allclose(w, torch.ones_like(w), atol=1e-4)


def test_columns_are_the_axes_of_the_image():
    """An impulse one pixel along axis i turns the phase by minus column i of the trajectory."""
    for d in (2, 3):
        omega, shape = points(20, d), (6, 8, 7)[:d]
        for i in range(d):
            x = torch.zeros(shape, dtype=C)
            x[tuple(n // 2 + (axis == i) for axis, n in enumerate(shape))] = 1
            y = pl.NUFFT(omega, shape, dtype=C)(x) * math.prod(shape) ** 0.5
            assert torch.allclose(y, torch.polar(torch.ones_like(omega[:, i]), -omega[:, i]), atol=1e-10)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-9])
def test_the_tolerance_holds(tolerance):
    omega, x = points(300, 2), randn(24, 30)
    exact = matrix(omega, (24, 30)) @ x.flatten()
    assert (pl.NUFFT(omega, (24, 30), tolerance=tolerance)(x) - exact).norm() < 10 * tolerance * exact.norm()


def test_derivatives():
    A, x, dx = pl.NUFFT(points(12, 2), (4, 5), dtype=C), randn(4, 5), randn(4, 5)
    for f, at in ((A, x), (A.adjoint, A(x)), (A.normal, x)):
        at = at.detach().requires_grad_()
        assert torch.autograd.gradcheck(f, (at,)) and torch.autograd.gradgradcheck(f, (at,))
    assert torch.allclose(torch.func.jvp(A, (x,), (dx,))[1], A(dx))
    batch = randn(4, 3, 5)
    assert torch.allclose(torch.func.vmap(A, 1)(batch), A(batch.movedim(1, 0)))
    real = lambda x: torch.view_as_real(A(torch.complex(x, x)))
    jacobian = torch.func.jacrev(real)(torch.zeros(4, 5, dtype=T))
    assert torch.allclose(torch.einsum("kcij,ij->kc", jacobian, x.real), real(x.real))
    assert torch.allclose(A(x.conj()), A(x.conj().resolve_conj())) and torch.allclose(A(x.real), A(x.real + 0j))


def phantom(n):
    y, x = torch.meshgrid(*[(torch.arange(n, dtype=T) - n // 2) / n] * 2, indexing="ij")
    smooth = lambda a: torch.sigmoid(a * n)
    return (smooth(0.4 - (x * x + y * y).sqrt()) + smooth(0.1 - ((x - 0.1).square() + (y + 0.05).square()).sqrt())).to(C)


@pytest.mark.parametrize("trajectory", [pl.radial_trajectory(120, 128, "uniform"), pl.radial_trajectory(150, 128), pl.spiral_trajectory(16, 600, 3),
                                        pl.spiral_trajectory(32, 400, 2, power=1.3)], ids=["uniform", "golden", "spiral", "variable spiral"])
def test_gridding(trajectory):
    """The weighted adjoint gives the image back, at its scale; the defect |A* W A - I|_F falls in every iteration, and is below that of the analytic ramp."""
    x = phantom(64)
    A = pl.NUFFT(trajectory, x.shape, dtype=C)
    w = pl.density_compensation(trajectory, x.shape)
    assert w.shape == trajectory.shape[:-1] and bool((w >= 0).all())
    assert (A.adjoint(w * A(x)) - x).norm() < 0.08 * x.norm()

    def defect(w, trajectory, shape):
        small = pl.NUFFT(trajectory, shape, dtype=C)
        eye = torch.eye(math.prod(shape), dtype=C).reshape(-1, *shape)
        return float((small.gram(w)(eye) - eye).norm())

    small = [defect(pl.density_compensation(trajectory, (12, 12), iterations=k), trajectory, (12, 12)) for k in (1, 2, 4, 8, 16)]
    assert all(b < a for a, b in zip(small, small[1:]))
    k = trajectory.norm(dim=-1)
    scale = [float(s) * k for s in torch.linspace(0.2, 3, 30, dtype=T) * (144 / k.sum())]
    assert small[-1] < min(defect(ramp, trajectory, (12, 12)) for ramp in scale)


BAD = [
    (lambda: pl.NUFFT(4 * points(5, 2), (8, 8)), "reaches .* rad/pixel; the image's band ends at pi"),
    (lambda: pl.NUFFT(torch.tensor([[math.nan, 0.0]]), (8, 8)), "trajectory that holds NaN"),
    (lambda: pl.NUFFT(points(5, 3), (8, 8)), r"shape \(samples, 2\)"),
    (lambda: pl.NUFFT(points(5, 2).T, (8, 8)), r"shape \(samples, 2\)"),
    (lambda: pl.NUFFT(points(2), (8, 8)), r"shape \(samples, 2\)"),
    (lambda: pl.NUFFT(points(5, 2) + 0j, (8, 8)), "real numbers"),
    (lambda: pl.NUFFT(points(5, 2), (8, 8), field_of_view=-0.2), "positive length in m"),
    (lambda: pl.NUFFT(points(5, 2), (8, 8), field_of_view=(0.2, 0.2, 0.2)), "each of the 2 axes"),
    (lambda: pl.NUFFT(torch.full((5, 2), 30.0), (8, 8), field_of_view=0.24), "field_of_view / pixels"),
    (lambda: pl.NUFFT(points(5, 4), (8, 8, 8, 8)), "one to three axes"),
    (lambda: pl.NUFFT(points(5, 2), (8, 8), tolerance=2.0), "tolerance=2.0"),
    (lambda: pl.NUFFT(points(5, 2), (8, 8)).gram(torch.ones(4)), "weights of shape"),
    (lambda: pl.density_compensation(points(5, 2), (8, 8), iterations=0), "iterations=0"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, text = BAD[case]
    with pytest.raises(ValueError, match=text):
        call()


def test_without_finufft(monkeypatch):
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(ImportError, match=r"pip install paralift\[nufft\]"):
        pl.NUFFT(points(5, 2), (8, 8))

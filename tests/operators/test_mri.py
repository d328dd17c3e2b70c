"""MRI against the centred FFT and against the sum written out, its adjoints, normal operators, derivatives and sentences."""

import math
import pickle
import warnings

import pytest
import torch

import paralift as pl

T, C = torch.float64, torch.complex128
G = torch.Generator().manual_seed(0)


def randn(*shape, dtype=C):
    return torch.randn(*shape, dtype=dtype, generator=G)


def centred_fft(x, d):
    axes = tuple(range(-d, 0))
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


def adjoint_error(A, *batch):
    """|<Ax, y> - <x, A*y>| / (|Ax| |y|), zero-mean x and y, summed in double precision."""
    x, y = (space.randn(*batch, generator=G) for space in (A.domain, A.range))
    image, back = A(x).to(C).flatten(), A.adjoint(y).to(C).flatten()
    left, right = torch.vdot(image, y.to(C).flatten()), torch.vdot(x.to(C).flatten(), back)
    return float((left - right).abs() / (image.norm() * y.to(C).norm()))


def lines(nx):
    return (torch.arange(nx) % 3 == 0)[None]


def cases(dtype):
    real = dtype.to_real()
    maps = lambda *shape: randn(*shape, dtype=dtype)
    t, t3 = pl.radial_trajectory(7, 24), pl.radial_trajectory(11, 16, dimension=3)
    return {
        "grid": pl.MRI(shape=(8, 10), dtype=dtype),
        "one coil": pl.MRI(torch.rand(8, 10) > 0.5, dtype=dtype),
        "coils": pl.MRI(torch.rand(8, 10, dtype=real), maps(3, 8, 10)),
        "lines, odd": pl.MRI(lines(9), maps(3, 7, 9)),
        "volume": pl.MRI(torch.rand(6, 5, 4) > 0.5, maps(3, 6, 5, 4)),
        "frames": pl.MRI(torch.rand(4, 8, 6) > 0.5, maps(3, 8, 6), shape=(8, 6)),
        "slices": pl.MRI(lines(6), maps(2, 3, 7, 6), shape=(7, 6)),
        "frames without coils": pl.MRI(torch.rand(4, 1, 6) > 0.5, shape=(8, 6), dtype=dtype),
        "radial": pl.MRI(coil_maps=maps(3, 12, 9), trajectory=t),
        "radial without coils": pl.MRI(trajectory=t.flatten(0, 1), shape=(12, 12), dtype=dtype),
        "weights": pl.MRI(torch.rand(7, 1), maps(3, 12, 9), t),
        "radial volume": pl.MRI(coil_maps=maps(2, 6, 8, 7), trajectory=t3),
        "radial frames": pl.MRI(torch.rand(4, 7, 24), maps(3, 8, 6), t),
        "radial slices": pl.MRI(torch.rand(7, 24), maps(2, 3, 8, 6), t),
        "off resonance": pl.MRI(torch.rand(8, 10), maps(3, 8, 10), field_map=60 * torch.rand(8, 10), readout_times=torch.linspace(0, 0.02, 10)),
        "off resonance, radial": pl.MRI(torch.rand(7, 24), maps(3, 12, 9), t, field_map=60 * torch.rand(12, 9), readout_times=torch.linspace(0, 0.02, 24)),
    }


CASES = cases(C)


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    A = CASES[name]
    pl.testing.check_operator(A)
    pl.testing.check_operator(A.adjoint)
    for op in (A, cases(torch.complex64)[name]):
        limit = 1e-12 if op.domain.dtype == C else 1e-6
        assert adjoint_error(op) < limit and adjoint_error(op, 3) < limit and adjoint_error(op, 2, 3) < limit
        assert op(op.domain.randn(2, generator=G)).dtype == op.adjoint(op.range.randn(generator=G)).dtype == op.range.dtype


@pytest.mark.parametrize("name", CASES)
def test_normal_operator_and_norm(name):
    A, x = CASES[name], CASES[name].domain.randn(3, generator=G)
    pl.testing.check_operator(A.normal)
    assert torch.allclose(A.normal(x), A.adjoint(A(x)), atol=1e-9)
    scaled = 2j * A @ pl.IdentityOperator(A.domain)
    assert torch.allclose(scaled.normal(x), 4 * A.adjoint(A(x)), atol=1e-9) and scaled.fast_normal == A.fast_normal
    basis = torch.eye(A.domain.size, dtype=C).reshape(-1, *A.domain.shape)
    exact = float(torch.linalg.matrix_norm(A(basis).reshape(len(basis), -1), 2))
    assert abs(A.norm(iterations=3000, tolerance=1e-12) - exact) < 1e-4 * exact and abs(A.normal.norm(3000, 1e-12) - exact**2) < 3e-4 * exact**2
    assert A.norm(3000, 1e-12) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("A", [CASES["grid"], CASES["one coil"], CASES["frames without coils"], pl.MRI(torch.rand(8, 9, dtype=T), dtype=C), pl.MRI(coil_maps=randn(3, 8, 9)),
                               -0.5j * CASES["one coil"]], ids=["grid", "one coil", "frames", "weights", "coils", "multiple"])
def test_least_squares_have_a_closed_prox(A):
    """Without coils in k-space, fully sampled pixel by pixel; a step for each sample."""
    x, s = A.domain.randn(3, generator=G), torch.tensor([0.2, 1.0, 7.0], dtype=T).reshape(3, *[1] * A.domain.ndim)
    f = pl.LeastSquares(A, A.range.randn(generator=G), weight=1.4)
    for step in (0.7, s):
        u = f.prox(x, step)
        assert torch.allclose(u - x + step * f.gradient(u), torch.zeros_like(u), atol=1e-12)
        assert torch.allclose(u, f._conjugate_gradients(x + 1.4 * step * f._pulled_back(), x, 1.4 * step), atol=1e-9)


@pytest.mark.parametrize("shape", [(8, 10), (7, 9), (7, 10), (6, 5, 4), (3, 5, 7), (1, 6)])
def test_cartesian_is_the_centred_orthonormal_transform(shape):
    d, maps, mask, x = len(shape), randn(3, *shape), torch.rand(shape, dtype=T, generator=G), randn(2, *shape)
    assert torch.allclose(pl.MRI(mask, maps)(x), mask * centred_fft(maps * x.unsqueeze(-d - 1), d))
    assert torch.allclose(pl.MRI(shape=shape, dtype=C)(x), centred_fft(x, d))
    single = pl.MRI(mask.float(), maps.to(torch.complex64))(x.to(torch.complex64))
    assert single.dtype == torch.complex64 and torch.allclose(single.to(C), mask * centred_fft(maps * x.unsqueeze(-d - 1), d), atol=2e-6)
    impulse = torch.zeros(shape, dtype=C)
    impulse[tuple(n // 2 for n in shape)] = 1
    assert torch.allclose(pl.MRI(shape=shape, dtype=C)(impulse), torch.full(shape, math.prod(shape) ** -0.5, dtype=C))


def test_frames_and_slices_are_loops():
    masks, maps, x = torch.rand(4, 8, 6, dtype=T) > 0.5, randn(4, 3, 8, 6), randn(5, 4, 8, 6)
    A = pl.MRI(masks, maps, shape=(8, 6))
    assert A.domain.shape == (4, 8, 6) and A.range.shape == (4, 3, 8, 6)
    y = A(x)
    for j in range(4):
        one = pl.MRI(masks[j], maps[j])
        assert torch.allclose(y[:, j], one(x[:, j])) and torch.allclose(A.adjoint(y)[:, j], one.adjoint(y[:, j]))
    assert torch.equal(pl.MRI(masks, maps[0], shape=(8, 6))(x)[:, 2], pl.MRI(masks[2], maps[0])(x[:, 2]))


@pytest.mark.parametrize("name", ["coils", "volume", "radial", "off resonance", "radial without coils"])
def test_rows_and_subsets(name):
    A = CASES[name]
    x, y = A.domain.randn(2, generator=G), A(A.domain.randn(generator=G))
    for index in (slice(0, None, 2), torch.tensor([2, 0])):
        part = A.rows(index)
        inside = (slice(None), index)
        assert torch.allclose(part(x), A(x)[inside])
        pl.testing.check_operator(part)
        assert torch.allclose(part.normal(x), part.adjoint(part(x)), atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = pl.subsets(pl.LeastSquares(A, y), 3)
    assert torch.allclose(sum(f(x) for f in parts), pl.LeastSquares(A, y)(x))
    weighted = pl.MRI(torch.rand(7, 24), trajectory=pl.radial_trajectory(7, 24), shape=(8, 8), dtype=C)
    v = randn(8, 8)
    part = weighted.rows(slice(2, 5))
    assert torch.allclose(part(v), weighted(v)[2:5]) and torch.allclose(part.normal(v), part.adjoint(part(v)))


@pytest.mark.parametrize("name", ["coils", "lines, odd", "frames", "radial", "off resonance, radial"])
def test_derivatives(name):
    A = CASES[name]
    x, dx, y = A.domain.randn(generator=G), A.domain.randn(generator=G), A.range.randn(generator=G)
    for f, at in ((A, x), (A.adjoint, y), (A.normal, x)):
        assert torch.autograd.gradcheck(f, (at.requires_grad_(),), fast_mode=True) and torch.autograd.gradgradcheck(f, (at,), fast_mode=True)
        at.requires_grad_(False)
    assert torch.allclose(torch.func.jvp(A, (x,), (dx,))[1], A(dx))
    batch = A.domain.randn(3, generator=G)
    assert torch.allclose(torch.func.vmap(A)(batch), A(batch)) and torch.allclose(torch.func.vmap(A.normal, 1)(batch.movedim(0, 1)), A.normal(batch))
    misfit = lambda x: pl.LeastSquares(A, y)(x)
    assert torch.allclose(torch.func.grad(misfit)(x), A.adjoint(A(x) - y)) and torch.allclose(pl.LeastSquares(A, y).gradient(x), A.adjoint(A(x) - y), atol=1e-8)
    small = pl.MRI(torch.rand(3, 4) > 0.5, randn(2, 3, 4))
    real = lambda x: torch.view_as_real(small(torch.complex(x, x.flip(0))))
    rows = torch.func.jacrev(real)(torch.zeros(3, 4, dtype=T))
    assert torch.allclose(rows, torch.func.jacfwd(real)(torch.zeros(3, 4, dtype=T))) and rows.abs().sum() > 0


def test_mask_and_maps_can_be_learned():
    mask, maps, x = torch.rand(4, 5, dtype=T, generator=G), randn(2, 4, 5), randn(4, 5)
    f = lambda mask, maps: pl.MRI(mask, maps).adjoint(pl.MRI(mask, maps)(x))
    assert torch.autograd.gradcheck(f, (mask.requires_grad_(), maps.requires_grad_()), fast_mode=True)
    radial = lambda mask, maps: pl.MRI(mask, maps, pl.radial_trajectory(3, 6))(x)
    assert torch.autograd.gradcheck(radial, (torch.rand(3, 6, dtype=T).requires_grad_(), maps), fast_mode=True)


@pytest.mark.parametrize("trajectory", [None, pl.radial_trajectory(9, 20)], ids=["grid", "radial"])
@pytest.mark.parametrize("shape", [(8, 12), (4, 5, 14)])
def test_off_resonance_against_the_exact_sum(trajectory, shape):
    """Strong inhomogeneity, 120 Hz over 30 ms (3.6 cycles), at the stated error."""
    d = len(shape)
    trajectory = trajectory if trajectory is None or d == 2 else pl.radial_trajectory(9, 20, dimension=3)
    grid = torch.stack(torch.meshgrid(*[2 * math.pi * (torch.arange(n, dtype=T) - n // 2) / n for n in shape], indexing="ij"), -1)
    omega = grid if trajectory is None else trajectory
    f = -40 + 120 * torch.rand(shape, dtype=T, generator=G)
    t = torch.linspace(-0.01, 0.02, omega.shape[-2], dtype=T)
    pixel = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=T) - n // 2 for n in shape], indexing="ij"), -1).reshape(-1, d)
    angle = omega.reshape(-1, d) @ pixel.T + 2 * math.pi * t.expand(omega.shape[:-1]).reshape(-1, 1) * f.flatten()
    M = torch.polar(torch.ones_like(angle), -angle) / math.prod(shape) ** 0.5
    maps, x = randn(2, *shape), randn(3, *shape)
    expected = ((maps * x.unsqueeze(1)).flatten(2) @ M.T).reshape(3, 2, *omega.shape[:-1])
    errors, segments = [], []
    for tolerance in (1e-2, 1e-6):
        A = pl.MRI(coil_maps=maps, trajectory=trajectory, field_map=f, readout_times=t, field_tolerance=tolerance)
        segments.append(len(A.phases))
        errors.append(float((A(x) - expected).norm() / expected.norm()))
        assert errors[-1] < 2 * tolerance
    assert errors[0] > 1e-5 and 4 < segments[0] < segments[1] < 30


def test_a_reconstruction_in_three_lines():
    """Conjugate gradients through the Toeplitz operator, FISTA with its gradient, and PDHG reach the image of a consistent radial scan."""
    x, maps = randn(16, 16), randn(3, 16, 16)
    A = pl.MRI(coil_maps=maps, trajectory=pl.radial_trajectory(40, 32))
    y = A(x)
    assert torch.allclose(pl.LeastSquares(A, y).prox(torch.zeros_like(x), 1e6), x, atol=1e-4)
    solved = pl.FISTA(200).solve(pl.Composite(smooth=pl.LeastSquares(A, y)), record_every=50).x["x"]
    assert (solved - x).norm() < 1e-8 * x.norm()
    problem = pl.Composite(linear=[pl.LeastSquares(A, y).f @ A, 1e-9 * pl.L1Norm() @ pl.IdentityOperator(A.domain)])
    assert (pl.PDHG(400).solve(problem, record_every=100).x["x"] - x).norm() < 1e-6 * x.norm()


def test_large_stacks_go_in_groups(monkeypatch):
    A = CASES["coils"]
    y, x = A.range.randn(2, generator=G), A.domain.randn(2, generator=G)
    whole, normal = A.adjoint(y), A.normal(x)
    monkeypatch.setattr(pl.MRI, "_group", lambda self, size: 2)
    assert torch.allclose(A.adjoint(y), whole) and torch.allclose(A.normal(x), normal)


def test_it_travels():
    A, x = CASES["weights"], CASES["weights"].domain.randn(generator=G)
    assert torch.equal(pickle.loads(pickle.dumps(A))(x), A(x))


S = randn(3, 8, 6)
BAD = [
    (lambda: pl.MRI(), ValueError, "nothing that says the image's shape"),
    (lambda: pl.MRI(trajectory=pl.radial_trajectory(3, 8)), ValueError, "nothing that says the image's shape"),
    (lambda: pl.MRI(torch.ones(8, 7), S), ValueError, r"mask of shape \(8, 7\).*\(8, 6\)"),
    (lambda: pl.MRI(torch.ones(6), S), ValueError, r"mask of shape \(6,\)"),
    (lambda: pl.MRI(-torch.ones(8, 6), S), ValueError, "weights >= 0"),
    (lambda: pl.MRI(torch.full((8, 6), math.nan), S), ValueError, "finite weights"),
    (lambda: pl.MRI(torch.ones(8, 6) + 0j, S), TypeError, "real weights"),
    (lambda: pl.MRI(torch.ones(8, 6), S[0]), ValueError, r"image shape \(6,\).*coil_maps are \(coils, \*shape\)"),
    (lambda: pl.MRI(shape=64), ValueError, "lengths of axes"), (lambda: pl.MRI(shape=(64,)), ValueError, "two or three axes"),
    (lambda: pl.MRI(coil_maps=S, shape=(8, 7)), ValueError, r"coil_maps of shape \(3, 8, 6\)"),
    (lambda: pl.MRI(coil_maps=S[0], shape=(8, 6)), ValueError, "unsqueeze the coil axis"),
    (lambda: pl.MRI(coil_maps=S / 0), ValueError, "coil_maps that holds NaN"),
    (lambda: pl.MRI(coil_maps=torch.ones(2, 3, 4, 5, 6)), ValueError, "slices and frames"),
    (lambda: pl.MRI(coil_maps=S, field_of_view=0.2), ValueError, "without a trajectory"),
    (lambda: pl.MRI(coil_maps=S, field_map=torch.ones(8, 6)), ValueError, "both field_map"),
    (lambda: pl.MRI(coil_maps=S, field_map=torch.ones(8, 7), readout_times=torch.ones(6)), ValueError, "field_map of shape"),
    (lambda: pl.MRI(coil_maps=S, field_map=torch.ones(8, 6), readout_times=torch.ones(5)), ValueError, "broadcast to the samples"),
    (lambda: pl.MRI(coil_maps=S, field_map=torch.full((8, 6), math.nan), readout_times=torch.ones(6)), ValueError, "field_map that holds NaN"),
    (lambda: pl.MRI(coil_maps=S, field_map=1e6 * torch.rand(8, 6), readout_times=torch.linspace(0, 30, 6)), ValueError, "pass Hz and s"),
    (lambda: pl.MRI(torch.ones(5, 8), S, pl.radial_trajectory(3, 8)), ValueError, r"trailing axes \(3, 8\)"),
    (lambda: pl.MRI(shape=(8, 6), dtype=torch.float32), TypeError, "images of MRI are complex"),
    (lambda: pl.MRI(coil_maps=S)(torch.zeros(6, 8)), ValueError, "trailing axes"),
    (lambda: pl.MRI(coil_maps=S).adjoint(torch.zeros(3, 6, 8)), ValueError, "trailing axes"),
    (lambda: pl.LeastSquares(pl.MRI(coil_maps=S), torch.zeros(8, 6, 3)), ValueError, "range is"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, text = BAD[case]
    with pytest.raises(error, match=text):
        call()

"""Line integrals against a projector written as plain loops, stored and matrix-free, in 2-D and 3-D; parallel beams, time of flight, their subsets and derivatives."""

import itertools
import math
import warnings

import pytest
import torch

import paralift as pl
from paralift.operators import ray_transform

T = torch.float64
G = torch.Generator().manual_seed(0)
ANGLES = torch.arange(9) * math.pi / 9
randn = lambda *shape: torch.randn(*shape, dtype=T, generator=G)


def line_integral(image, start, end, voxel, origin, weight=lambda place: 1.0):
    """Joseph's method, one ray, plain numbers: image a tensor, the rest lists of floats; `weight` of the distance (mm) from the middle of the line."""
    shape, d = image.shape, image.dim()
    p = [(s - o) / v for s, o, v in zip(start, origin, voxel)]
    step = [(e - s) / v for s, e, v in zip(start, end, voxel)]
    axis = max(range(d), key=lambda a: abs(step[a]))
    if step[axis] == 0:
        return 0.0
    length = math.sqrt(sum((e - s) ** 2 for s, e in zip(start, end)))
    total = 0.0
    for i in range(shape[axis]):
        t = (i - p[axis]) / step[axis]
        if not 0 <= t <= 1:
            continue
        others = [a for a in range(d) if a != axis]
        at = [p[a] + t * step[a] for a in others]
        value = 0.0
        for corner in itertools.product((0, 1), repeat=d - 1):
            index, w = [0] * d, 1.0
            index[axis] = i
            for a, u, c in zip(others, at, corner):
                index[a] = math.floor(u) + c
                w *= u - math.floor(u) if c else 1 - (u - math.floor(u))
            if all(0 <= j < n for j, n in zip(index, shape)):
                value += w * float(image[tuple(index)])
        total += value * weight((t - 0.5) * length)
    return total * length / abs(step[axis])


def lines(d, rays):
    """Random lines; some end inside the image, some run along an axis or a diagonal, one is a point, one misses."""
    start, end = 9 * randn(rays, d), 9 * randn(rays, d)
    end[0] = start[0]
    start[1], end[1] = torch.full((d,), -20.0), torch.full((d,), 20.0)
    start[2, 1:] = end[2, 1:] = 0.25
    start[3], end[3] = 0.3 * randn(d), 0.3 * randn(d)
    start[4], end[4] = 50 + randn(d), 60 + randn(d)
    return start, end


GRIDS = [((7, 6), (1.3, 1.3)), ((6, 9), (1.0, 2.1)), ((1, 5), (2.0, 2.0)), ((5, 4, 6), (1.5, 1.5, 1.5)), ((3, 6, 5), (2.5, 1.0, 1.2))]


@pytest.mark.parametrize("storage", ["stored", "matrix-free"])
@pytest.mark.parametrize("shape,voxel", GRIDS)
def test_against_plain_loops(shape, voxel, storage):
    d = len(shape)
    start, end = lines(d, 40)
    for origin in (None, 0.5 * randn(d) - 3):
        A = pl.JosephProjector(pl.Rays(start, end), shape, voxel, origin, storage=storage, dtype=T)
        x = randn(*shape)
        corner = [-(n - 1) / 2 * v for n, v in zip(shape, voxel)] if origin is None else origin.tolist()
        expected = torch.tensor([line_integral(x, s.tolist(), e.tolist(), voxel, corner) for s, e in zip(start, end)], dtype=T)
        assert expected.abs().max() > 1
        assert (A(x) - expected).abs().max() / expected.abs().max() < 1e-12
        assert (A(x.float()) - expected).abs().max() / expected.abs().max() < 1e-5


def check_adjoint(A, *batch):
    """Zero-mean vectors, to 1e-12 in float64 and 1e-6 in float32."""
    for dtype, tolerance in ((T, 1e-12), (torch.float32, 1e-6)):
        x, y = randn(*batch, *A.domain.shape).to(dtype), randn(*batch, *A.range.shape).to(dtype)
        Ax, By = A(x), A.adjoint(y)
        assert Ax.dtype == By.dtype == dtype and By.shape == x.shape and Ax.shape == y.shape
        error = (Ax.double() * y.double()).sum() - (x.double() * By.double()).sum()
        assert error.abs() / (Ax.double().norm() * y.double().norm()) < tolerance


TOF = pl.TimeOfFlight(4, 30.0, 60.0)
OPERATORS = {"2-D": ((5, 4), None), "3-D": ((3, 4, 3), None), "2-D with time": ((5, 4), TOF), "3-D with time": ((3, 2, 3), TOF)}


@pytest.mark.parametrize("storage", ["stored", "matrix-free"])
@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_and_derivatives(name, storage):
    shape, tof = OPERATORS[name]
    start, end = lines(len(shape), 8)
    A = pl.JosephProjector(pl.Rays(start, end), shape, 1.3, tof=tof, storage=storage, dtype=T)
    check_adjoint(A)
    check_adjoint(A, 2, 3)
    pl.testing.check_operator(A)
    x, dx = randn(*shape).requires_grad_(), randn(*shape)
    assert torch.autograd.gradcheck(A, (x,)) and torch.autograd.gradgradcheck(lambda v: A(v) ** 2, (x,))
    assert torch.allclose(torch.func.jvp(A, (x.detach(),), (dx,))[1], A(dx))
    dense = torch.func.jacrev(A)(dx).flatten(A.range.ndim)
    assert torch.allclose(dense @ dx.flatten(), A(dx)) and torch.allclose(torch.func.vmap(A)(torch.stack([dx, 2 * dx])), torch.stack([A(dx), 2 * A(dx)]))
    assert torch.allclose(torch.func.vmap(A, in_dims=1)(torch.stack([dx, 2 * dx], 1))[1], 2 * A(dx))


def test_stored_and_matrix_free_agree_in_pieces(monkeypatch):
    monkeypatch.setattr(ray_transform, "CHUNK", 50)                                   # many slabs, cut within a view too
    for shape, tof in OPERATORS.values():
        start, end = lines(len(shape), 24)
        rays = pl.Rays(start.view(4, 6, -1), end.view(4, 6, -1))
        A, B = (pl.JosephProjector(rays, shape, 1.3, tof=tof, storage=s, dtype=T) for s in ("stored", "matrix-free"))
        x, y = randn(2, *shape), randn(2, *A.range.shape)
        assert torch.allclose(A(x), B(x), atol=1e-12) and torch.allclose(A.adjoint(y), B.adjoint(y), atol=1e-12)


def test_a_disc_and_its_chords():
    """The projections of a fine disc are its chords in mm; the sum over a view is its area."""
    n, voxel, radius = 160, 0.5, 30.0
    grid = (torch.arange(n, dtype=T) - (n - 1) / 2) * voxel
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    disc = ((x - 4) ** 2 + (y + 3) ** 2 <= radius**2).double()
    A = pl.RayTransform((n, n), ANGLES, bins=101, bin_width=0.9, voxel_size=voxel, offset=0.3, dtype=T)
    s = (torch.arange(101, dtype=T) - 50) * 0.9 + 0.3
    off = s - (4 * ANGLES.double().cos() - 3 * ANGLES.double().sin())[:, None]         # the centre is at x = 4, y = -3
    chords = 2 * (radius**2 - off**2).clamp(min=0).sqrt()
    projected = A(disc)
    assert (projected - chords).abs().mean() < 0.2 and (projected.sum(-1) * 0.9 / (math.pi * radius**2) - 1).abs().max() < 0.01


def test_ray_transform_by_default_covers_the_image():
    A = pl.RayTransform((20, 30), ANGLES, voxel_size=(2.0, 1.0), dtype=T)
    assert A.range.shape == (9, 50) and "taps stored" in repr(A)
    x = torch.rand(3, 20, 30, dtype=T, generator=G)
    mass = x.sum((-1, -2)) * 2.0
    assert (A(x).sum(-1) / mass[:, None] - 1).abs().max() < 0.1
    assert torch.allclose(A(x)[1], A(x[1]))
    start, end = A.geometry.ends(torch.tensor(4), torch.tensor(11))
    assert abs(A(x[0])[4, 11] - line_integral(x[0], start.tolist(), end.tolist(), (2.0, 1.0), [-19.0, -14.5])) < 1e-11
    angle = A.geometry.angles[4]
    assert all(abs(p[1] * angle.cos() + p[0] * angle.sin() - (11 - 24.5)) < 1e-12 for p in (start, end))


def test_views_in_subsets_compute_only_themselves():
    A = pl.RayTransform((8, 8), ANGLES, dtype=T)
    data = torch.rand(A.range.shape, dtype=T, generator=G)
    for index in (slice(1, None, 3), torch.tensor([7, 2])):
        part, x = A.rows(index), randn(2, 8, 8)
        assert torch.allclose(part(x), A(x)[:, index]) and part._matrix(x)[0].matrix._nnz() < A._matrix(x)[0].matrix._nnz() / 2
        check_adjoint(part, 2)
        assert part.rows(slice(0, 1)).range.shape == (1, A.range.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")                                                # no operator that computes all rows
        split = pl.subsets(0.5 * pl.L2NormSquared().translated(data) @ A, 3)
    x = randn(8, 8)
    assert torch.allclose(sum(t(x) for t in split), 0.5 * (A(x) - data).square().sum())


def test_the_estimate_of_memory_is_that_of_the_taps():
    for geometry in (pl.ParallelBeam(torch.arange(40) * math.pi / 40, 60), pl.CylindricalScanner(64, 60.0, 41)):
        A = pl.JosephProjector(geometry, (40, 40))
        pair = A._matrix(torch.zeros(1))[0]
        taken = sum(m.values().numel() * (4 + m.col_indices().element_size()) for m in (pair.matrix, pair.transpose))
        assert 0.95 < taken / A.bytes < 1.05 and pair.matrix.col_indices().dtype == torch.int32
    large = pl.JosephProjector(pl.CylindricalScanner.mmr(rings=64), (127, 172, 172), 2.0)
    assert not large.stored and "matrix-free" in repr(large) and large.bytes > 1e12


def test_time_of_flight_against_plain_loops():
    start, end = lines(2, 20)
    tof = pl.TimeOfFlight(7, 25.0, 40.0)
    sigma, width = tof.sigma_mm, tof.bin_mm
    assert abs(width - 25 * 0.149896229) < 1e-9 and abs(sigma * 2.3548200450 - 40 * 0.149896229) < 1e-6
    inside = math.erf(3 / math.sqrt(2))
    cumulative = lambda z: min(max(0.5 + math.erf(z / sigma / math.sqrt(2)) / (2 * inside), 0.0), 1.0)
    A = pl.JosephProjector(pl.Rays(start, end), (9, 8), 1.3, tof=tof, dtype=T)
    x = randn(9, 8)
    corner = [-8 / 2 * 1.3, -7 / 2 * 1.3]
    for k in range(7):
        low = (k - 3.5) * width
        weight = lambda place: cumulative(low + width - place) - cumulative(low - place)
        expected = torch.tensor([line_integral(x, s.tolist(), e.tolist(), (1.3, 1.3), corner, weight) for s, e in zip(start, end)], dtype=T)
        assert (A(x)[:, k] - expected).abs().max() < 1e-12 * max(1.0, float(expected.abs().max()))
    plain = pl.JosephProjector(pl.Rays(start, end), (9, 8), 1.3, dtype=T)
    wide = pl.JosephProjector(pl.Rays(start, end), (9, 8), 1.3, tof=pl.TimeOfFlight(41, 25.0, 40.0), dtype=T)
    assert torch.allclose(wide(x).sum(-1), plain(x), atol=1e-12)                         # bins that reach past the object lose nothing
    bins = torch.randint(0, 7, (20,), generator=G)
    for storage in ("stored", "matrix-free"):
        single = pl.JosephProjector(pl.Rays(start, end), (9, 8), 1.3, tof=tof, tof_bin=bins, storage=storage, dtype=T)
        assert torch.allclose(single(x), A(x)[torch.arange(20), bins], atol=1e-12)
        check_adjoint(single, 2)


def test_axes_of_a_parallel_beam():
    """Angle 0 looks along the columns (s = x), a quarter turn along the rows (s = y, downwards)."""
    x = torch.zeros(9, 9, dtype=T)
    x[2, 6] = 1.0
    y = pl.RayTransform((9, 9), torch.tensor([0.0, math.pi / 2]), bins=9, dtype=T)(x)
    assert y[0].argmax() == 6 and y[1].argmax() == 2


R = pl.Rays(torch.zeros(3, 2), torch.ones(3, 2))
BAD = [
    (lambda: pl.Rays(torch.zeros(3, 2), torch.zeros(4, 2)), ValueError, "of one shape"),
    (lambda: pl.Rays(torch.zeros(3, 4), torch.zeros(3, 4)), ValueError, "of one shape"),
    (lambda: pl.Rays(torch.full((3, 2), math.nan), torch.zeros(3, 2)), ValueError, "NaN"),
    (lambda: pl.JosephProjector(R, (3, 3, 3)), ValueError, "2-D need 2 axes"),
    (lambda: pl.JosephProjector(torch.zeros(3), (3, 3)), TypeError, "needs a Geometry"),
    (lambda: pl.JosephProjector(R, (3, 3), 0.0), ValueError, "lengths in mm above 0"),
    (lambda: pl.JosephProjector(R, (3, 3), storage="sparse"), ValueError, "needs 'auto'"),
    (lambda: pl.JosephProjector(R, (3, 3), tof=TOF, tof_bin=torch.tensor([0, 1, 5])), ValueError, "0 to bins - 1"),
    (lambda: pl.JosephProjector(R, (3, 3))(torch.zeros(3, 4)), ValueError, "trailing axes"),
    (lambda: pl.JosephProjector(R, (3, 3))(torch.zeros(3, 3) + 1j), TypeError, "project .real and .imag"),
    (lambda: pl.JosephProjector(R, (3, 3))(torch.zeros(3, 3, dtype=torch.int64)), TypeError, "as .float()"),
    (lambda: pl.JosephProjector(R, (3, 3), (1.0, 1.0, 1.0)), ValueError, "one for each of the 2 axes"),
    (lambda: pl.JosephProjector(R, (3, 3), origin=(math.nan, 0.0)), ValueError, "finite number"),
    (lambda: pl.RayTransform(3, ANGLES), ValueError, "lengths of axes"), (lambda: pl.RayTransform((3, 3, 3), ANGLES), ValueError, "a batch"),
    (lambda: pl.RayTransform((3, 3), torch.zeros(2, 2)), ValueError, "in rad"),
    (lambda: pl.RayTransform((3, 3), torch.tensor([math.nan])), ValueError, "NaN"),
    (lambda: pl.RayTransform((3, 3), ANGLES, bins=0), ValueError, "both above 0"),
    (lambda: pl.TimeOfFlight(0, 1.0, 1.0), ValueError, "above 0"),
]


def test_degrees_are_noticed():
    with pytest.warns(UserWarning, match="in degrees"):
        pl.ParallelBeam(torch.arange(180.0), 5)


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, text = BAD[case]
    with pytest.raises(error, match=text):
        call()

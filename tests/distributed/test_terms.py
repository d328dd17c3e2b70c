"""Composite problems on several workers: rows of data terms, images of a batch."""

import pytest
import torch

import paralift as pl
from paralift.operators.subsets import subsets

D = torch.float64


def problem(kind, dtype=D):
    g = torch.Generator().manual_seed(0)
    M, b = torch.randn(40, 12, dtype=dtype, generator=g), torch.randn(40, dtype=dtype, generator=g)
    A, space = pl.MatrixOperator(M), pl.Space((12,), dtype)
    if kind == "lasso":
        return pl.Composite(pl.LeastSquares(A, b), 0.7 * pl.L1Norm(space))
    if kind == "logistic":
        return pl.Composite(pl.LogisticLoss(b.sign()) @ A + 0.1 * pl.L2NormSquared(space), 0.7 * pl.L1Norm(space))
    if kind == "variation":
        return pl.Composite(pl.LeastSquares(A, b), None, 0.5 * pl.GroupL1Norm() @ pl.Gradient(space))
    if kind == "poisson":
        counts = torch.poisson(20 * M.abs() @ torch.rand(12, dtype=dtype, generator=g), generator=g)
        term = pl.KullbackLeibler(counts) @ pl.MatrixOperator(M.abs())
        return pl.Composite(None, pl.IndicatorNonnegative(space), [term, 0.5 * pl.GroupL1Norm() @ pl.Gradient(space)])
    if kind in ("counts", "counts, variation", "weighted"):
        A = pl.RayTransform((8, 7), torch.pi * torch.arange(6, dtype=dtype) / 6, bins=9, dtype=dtype)
        A.background = torch.rand(A.range.shape, dtype=dtype, generator=g)
        counts, R = torch.poisson(A(torch.rand(8, 7, dtype=dtype, generator=g)) + 1, generator=g), 0.2 * pl.TotalVariation()
        if kind == "weighted":
            return pl.Reconstruction(A, counts, regulariser=R, constraint="nonnegative", standard_deviation=1 + A.background)
        return pl.Reconstruction(A, counts, "poisson", R if "variation" in kind else None)
    if kind == "subsets":
        return pl.Composite(None, 0.7 * pl.L1Norm(space), subsets(pl.LeastSquares(A, b), 4))
    images = torch.rand(6, 8, 7, dtype=dtype, generator=g)
    blur = pl.Convolution(torch.rand(3, 3, dtype=dtype, generator=g), pl.Space((8, 7), dtype))
    if kind == "images":
        return pl.Composite(pl.LeastSquares(blur, blur(images)), 0.05 * pl.L1Norm(blur.domain), start=torch.zeros_like(images))
    if kind == "images, variation":
        return pl.Composite(pl.LeastSquares(blur, blur(images)), None, 0.05 * pl.GroupL1Norm() @ pl.Gradient(blur.domain), start=torch.zeros_like(images))


CASES = [("lasso", pl.FISTA(40)), ("lasso", pl.PGD(40)), ("logistic", pl.FISTA(30)), ("variation", pl.PDHG(60)), ("variation", pl.ADMM(12)), ("poisson", pl.PDHG(80)),
         ("counts", pl.MLEM(20)), ("counts", pl.OSEM(5, subsets=2)), ("counts, variation", pl.SPDHG(10, subsets=2)), ("weighted", pl.PDHG(30)),
         ("subsets", pl.SPDHG(30)), ("images", pl.FISTA(30)), ("images", pl.PGD(30, step="backtracking")), ("images, variation", pl.PDHG(60)), ("images, variation", pl.ADMM(10))]


@pytest.mark.parametrize("kind,solver", CASES, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_the_same_on_every_number_of_workers(kind, solver):
    """Two and three workers agree bit for bit, and with one process but for rounding; the dual too, and the history."""
    alone = solver.solve(problem(kind), progress=False)
    two, three = (solver.solve(problem(kind), progress=False, workers=n) for n in (2, 3))
    assert torch.equal(two.x["x"], three.x["x"]) and two.history["objective"] == three.history["objective"]
    assert torch.allclose(two.x["x"], alone.x["x"], rtol=1e-9, atol=1e-11)
    assert torch.equal(two.solution, two.x["x"])
    for a, b, c in zip(alone.state.get("dual", ()), two.state.get("dual", ()), three.state.get("dual", ())):
        assert torch.equal(b, c) and torch.allclose(a, b, rtol=1e-8, atol=1e-10)
    assert torch.allclose(torch.tensor(two.history["residual"]), torch.tensor(alone.history["residual"]), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind,method", [("poisson", pl.PDHG), ("images, variation", pl.PDHG), ("lasso", pl.FISTA)])
def test_resume_on_another_number_of_workers(kind, method):
    whole = method(40).solve(problem(kind), progress=False, workers=2)
    half = method(20).solve(problem(kind), progress=False, workers=2)
    rest = method(40).solve(problem(kind), progress=False, workers=3, resume=half)
    assert torch.equal(rest.x["x"], whole.x["x"]) and rest.iterations == 40


def test_the_gap_stops_all_workers():
    """Poisson and weighted Gaussian data, x >= 0, TV; a lasso by its gradient: everywhere the gap of one process."""
    for kind, solver, every in (("poisson", pl.PDHG(5000, tolerance=pl.Tolerance(gap=1e-4)), 20), ("lasso", pl.FISTA(200, tolerance=pl.Tolerance(gap=1e-6)), 1),
                                ("weighted", pl.PDHG(200, tolerance=pl.Tolerance(gap=1e-12)), 20)):
        result, alone = (solver.solve(problem(kind), progress=False, record_every=every, workers=n) for n in (2, None))
        assert kind == "weighted" or result.success
        assert result.iterations == alone.iterations and result.history["gap"] == pytest.approx(alone.history["gap"], rel=1e-6, abs=1e-12)


def test_single_precision_takes_one_shard_a_worker():
    p = problem("lasso", torch.float32)
    assert torch.allclose(pl.FISTA(30).solve(p, progress=False, workers=2).x["x"], pl.FISTA(30).solve(p, progress=False).x["x"], atol=1e-4)


def test_what_cannot_be_shared_is_refused():
    blur = pl.Convolution(torch.rand(3, 3, dtype=D), pl.Space((8, 7), D))
    p = pl.Composite(pl.LeastSquares(blur, torch.rand(8, 7, dtype=D)))
    with pytest.raises(ValueError, match="rows"):
        pl.FISTA(5).solve(p, workers=2)
    with pytest.raises(ValueError, match="no layers"):
        pl.FISTA(5).solve(problem("lasso"), workers=pl.Workers(data=1, layers=2))
    with pytest.raises(ValueError, match="fewer workers"):
        pl.FISTA(5).solve(problem("images"), workers=7)

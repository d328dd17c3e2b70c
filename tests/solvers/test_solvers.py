import numpy as np
import pytest
import torch
from torch import nn

import paralift as pl


def lasso():
    g = torch.Generator().manual_seed(0)
    A, b = torch.randn(60, 30, dtype=torch.float64, generator=g), torch.randn(60, dtype=torch.float64, generator=g)
    return A, b, pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), 3.0 * pl.L1Norm())


def network_problem(**kw):
    torch.manual_seed(0)
    (x, y), test = pl.data.digits()
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10))
    return pl.LiftedTraining(net, x[:400], y[:400], validation=test, **kw)


@pytest.mark.parametrize("solver", [pl.PGD(3000), pl.PGD(3000, acceleration="nesterov"), pl.PGD(3000, acceleration="heavy_ball"), pl.PGD(3000, step="backtracking"), pl.BCD(3000)],
                         ids=lambda s: f"{type(s).__name__}-{getattr(s, 'acceleration', '')}-{getattr(s, 'step_size', '')}")
def test_lasso_reaches_scikit_learns_optimum(solver):
    from sklearn.linear_model import Lasso

    A, b, problem = lasso()
    w = Lasso(alpha=3.0 / 60, fit_intercept=False, tol=1e-14, max_iter=100000).fit(A.numpy(), b.numpy()).coef_
    best = float(problem.value({"x": torch.as_tensor(w)}))
    result = solver.solve(problem)
    assert result.objective - best < 1e-8 * abs(best)
    assert np.allclose(result.solution.numpy(), w, atol=1e-6)


def test_pgd_converges_at_least_at_its_theorems_rate():
    """On a strongly convex instance the distance falls by 1 - mu/L or more each step (the instance is the one that is fitted)."""
    A, b, problem = lasso()
    values = torch.linalg.eigvalsh(A.T @ A)
    best = pl.PGD(5000, acceleration="nesterov").solve(problem).x["x"]
    distances = []
    pl.PGD(60).solve(problem, callback=lambda r: distances.append(float((r.x["x"] - best).norm())))
    rate = (distances[50] / distances[10]) ** (1 / 40)
    assert rate <= 1 - float(values[0] / values[-1]) / 1.05


@pytest.mark.parametrize("solver", [lambda n: pl.PGD(n), lambda n: pl.PGD(n, acceleration="nesterov"), lambda n: pl.BCD(n), lambda n: pl.ISGM(n, batch_size=50),
                                    lambda n: pl.ISGM(n, batch_size=50, sweeps=2, metric="momentum")])
def test_resume_is_exact(solver, tmp_path):
    problem = network_problem()
    whole = solver(6).solve(problem)
    half = solver(3).solve(problem, checkpoint=tmp_path / "half")
    for start in (half, tmp_path / "half"):
        resumed = solver(6).solve(problem, resume=start)
        assert resumed.history["objective"] == whole.history["objective"]
        assert all(torch.equal(whole.x[k], resumed.x[k]) for k in whole.x)


def test_two_hundred_is_one_hundred_and_resume():
    _, _, problem = lasso()
    whole = pl.PGD(200, acceleration="nesterov").solve(problem)
    resumed = pl.PGD(200, acceleration="nesterov").solve(problem, resume=pl.PGD(100, acceleration="nesterov").solve(problem))
    assert torch.equal(whole.x["x"], resumed.x["x"])


def test_seeds_give_the_same_run_twice():
    runs = [pl.ISGM(2, batch_size=50, seed=3).solve(network_problem()) for _ in range(2)]
    assert all(torch.equal(runs[0].x[k], runs[1].x[k]) for k in runs[0].x)


@pytest.mark.parametrize("solver,passes", [(pl.PGD(60, acceleration="nesterov"), 60), (pl.BCD(30), 30)])
def test_full_batch_methods_lower_the_lifted_objective(solver, passes):
    history = solver.solve(network_problem()).history["objective"]
    assert history[-1] < 0.8 * history[0]
    if isinstance(solver, pl.BCD):
        assert all(b <= a * (1 + 1e-6) for a, b in zip(history, history[1:]))


@pytest.mark.parametrize("kw", [{"step": 5e-3}, {"sweeps": 3, "metric": "plain", "step": 1.0}, {"sweeps": 2, "metric": "momentum", "step": 0.1}])
def test_isgm_trains(kw):
    result = pl.ISGM(15, batch_size=20, **kw).solve(network_problem(weight_regulariser=1e-5 * pl.L1Norm() if len(kw) == 1 else None))
    assert result.history["accuracy"][-1] > 0.85


def test_l1_makes_weights_sparse_and_indicators_hold():
    result = pl.ISGM(10, batch_size=20).solve(network_problem(weight_regulariser=3e-3 * pl.L1Norm()))
    assert float((result.x["0.weight"] == 0).double().mean()) > 0.3
    result = pl.ISGM(3, batch_size=20).solve(network_problem(weight_regulariser={"2.weight": pl.IndicatorNonnegative()}))
    assert result.x["2.weight"].min() >= 0


def test_divergence_ends_with_the_last_finite_iterate():
    problem = pl.Composite(50 * pl.L2NormSquared((3,)), start=torch.ones(3, dtype=torch.float64))
    result = pl.PGD(1000, step=10.0).solve(problem)
    assert result.status is pl.Status.DIVERGED and torch.isfinite(result.x["x"]).all() and not result.success
    with pytest.raises(RuntimeError, match="DIVERGED"):
        pl.PGD(1000, step=10.0).solve(problem, strict=True)


def test_callback_stops_and_interrupt_returns():
    def stop(result):
        if result.iterations == 4:
            raise StopIteration

    def interrupt(result):
        raise KeyboardInterrupt

    assert pl.PGD(50).solve(lasso()[2], callback=stop).iterations == 4
    assert pl.PGD(50).solve(lasso()[2], callback=interrupt).status is pl.Status.INTERRUPTED


def test_checkpoints_are_verified(tmp_path):
    problem = lasso()[2]
    result = pl.PGD(5).solve(problem)
    result.save(tmp_path / "a")
    assert torch.equal(pl.Result.load(tmp_path / "a", problem).solution, result.solution)
    raw = bytearray((tmp_path / "a").read_bytes())
    raw[-100] ^= 1
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(ValueError, match="damaged"):
        pl.Result.load(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"something else")
    with pytest.raises(ValueError, match="no PARALIFT file"):
        pl.PGD(9).solve(problem, resume=tmp_path / "b")
    with pytest.raises(ValueError, match="same method"):
        pl.BCD(9).solve(problem, resume=result)
    assert "objective" in result.table() and result.plot(tmp_path / "p.png") and (tmp_path / "p.png").exists()

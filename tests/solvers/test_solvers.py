import pytest
import scipy.optimize
import torch
from problems import instance, network

import paralift as pl


def lasso():
    return instance("lasso", "smooth")[0]


def test_seeds_give_the_same_run_twice():
    runs = [pl.ISGM(2, batch_size=50, seed=3).solve(network(400)) for _ in range(2)]
    assert all(torch.equal(runs[0].x[k], runs[1].x[k]) for k in runs[0].x)


@pytest.mark.parametrize("solver,passes", [(pl.PGD(60, acceleration="nesterov"), 60), (pl.BCD(30), 30)])
def test_full_batch_methods_lower_the_lifted_objective(solver, passes):
    history = solver.solve(network(400)).history["objective"]
    assert history[-1] < 0.8 * history[0]
    if isinstance(solver, pl.BCD):
        assert all(b <= a * (1 + 1e-6) for a, b in zip(history, history[1:]))


@pytest.mark.parametrize("kw", [{"step": 5e-3}, {"sweeps": 3, "metric": "plain", "step": 1.0}, {"sweeps": 2, "metric": "momentum", "step": 0.1}])
def test_isgm_trains(kw):
    result = pl.ISGM(15, batch_size=20, **kw).solve(network(400, weight_regulariser=1e-5 * pl.L1Norm() if len(kw) == 1 else None))
    assert result.history["accuracy"][-1] > 0.85


def test_l1_makes_weights_sparse_and_indicators_hold():
    result = pl.ISGM(10, batch_size=20).solve(network(400, weight_regulariser=3e-3 * pl.L1Norm()))
    assert float((result.x["0.weight"] == 0).double().mean()) > 0.3
    result = pl.ISGM(3, batch_size=20).solve(network(400, weight_regulariser={"2.weight": pl.IndicatorNonnegative()}))
    assert result.x["2.weight"].min() >= 0


@pytest.mark.filterwarnings("ignore:the step 10 is above the bound")
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

    assert pl.PGD(50).solve(lasso(), callback=stop).iterations == 4
    assert pl.PGD(50).solve(lasso(), callback=interrupt).status is pl.Status.INTERRUPTED


def test_results_of_a_lost_device_come_to_the_cpu(tmp_path, monkeypatch):
    result = pl.PGD(5).solve(lasso())
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:64")
        result.save(tmp_path / "a")
    assert torch.equal(pl.Result.load(tmp_path / "a").x["x"], result.x["x"])
    assert torch.equal(pl.PGD(9).solve(lasso(), resume=tmp_path / "a").x["x"], pl.PGD(9).solve(lasso()).x["x"])


def test_checkpoints_are_verified(tmp_path):
    problem = lasso()
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


def test_a_linear_program_by_primal_dual_steps():
    """min <c, x> over A x = b, x >= 0: the smooth part has no curvature, and its gradient counts. Against scipy's simplex method."""
    class Cost(pl.Functional):
        smooth, convex, grad_lipschitz = True, True, 0.0

        def _value(self, x):
            return x @ cost

        def _gradient(self, x):
            return cost.expand_as(x)

    g = torch.Generator().manual_seed(4)
    A, inside, cost = (torch.rand(*shape, generator=g, dtype=torch.float64) for shape in ((3, 8), (8,), (8,)))
    b = A @ inside
    best = scipy.optimize.linprog(cost.numpy(), A_eq=A.numpy(), b_eq=b.numpy()).fun
    lp = pl.Composite(Cost(), pl.IndicatorNonnegative(), pl.IndicatorBox(b, b) @ pl.MatrixOperator(A), start=torch.zeros(8, dtype=torch.float64))
    result = pl.PDHG(20000, tolerance=1e-10).solve(lp, record_every=100)
    assert float(result.x["x"] @ cost) == pytest.approx(best, rel=1e-6) and torch.allclose(A @ result.x["x"], b, atol=1e-7)
    with pytest.raises(TypeError, match="no gradient steps"):
        pl.SPDHG(5).solve(lp)


def test_bregman_steps_on_complex_unknowns():
    g = torch.Generator().manual_seed(0)
    A, b = torch.randn(20, 8, dtype=torch.complex128, generator=g), torch.randn(20, dtype=torch.complex128, generator=g)
    problem = pl.Composite(pl.LeastSquares(A, b), 2.0 * pl.L1Norm())
    runs = [solver.solve(problem) for solver in (pl.BregmanPGD(400, kernel=pl.EuclideanKernel()), pl.PGD(400))]
    assert torch.allclose(runs[0].x["x"], runs[1].x["x"], atol=1e-6)


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restarted_job_goes_on_from_its_checkpoint(name, tmp_path, monkeypatch):
    solve = lambda n: pl.PGD(n).solve(lasso(), checkpoint=tmp_path / "run")
    whole, _ = pl.PGD(6).solve(lasso()), solve(4)
    assert solve(2).iterations == 2                              # not restarted: from the beginning
    monkeypatch.setenv(name, "1")
    result = solve(6)
    assert result.history["objective"] == whole.history["objective"] and result.seconds > result.history["seconds"][1] > 0

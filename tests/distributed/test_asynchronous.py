"""Gradients from workers that do not wait for each other reach the optimum, within the bound on their age, whatever one worker does."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

import paralift as pl
from paralift.problems.finite_sum import FiniteSum


def linear(loss="squared_error", n=300, d=30):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(n, d, dtype=torch.float64, generator=g) * torch.logspace(0, -0.5, d, dtype=torch.float64)
    y = X[:, ::5].sum(1) + 0.1 * torch.randn(n, dtype=torch.float64, generator=g)
    return pl.linear_model(X, y if loss == "squared_error" else (y > 0).long(), loss=loss, regulariser=(0.05 if loss == "squared_error" else 0.005) * pl.L1Norm())


def objective(problem, result):
    return float(problem.mean_loss(result.x) + problem.regularisation(result.x))


def optimum(problem):
    return pl.FISTA(2000, tolerance=1e-12).solve(problem).objective


def slow(monkeypatch, seconds):
    """A gradient takes seconds[rank] more on a worker."""
    factors = FiniteSum.factors

    def slowed(self, *arguments, **named):
        time.sleep(seconds[torch.distributed.get_rank()])
        return factors(self, *arguments, **named)

    monkeypatch.setattr(FiniteSum, "factors", slowed)


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
@pytest.mark.parametrize("options", [{}, {"shards": 7}, {"step": "adaptive", "max_delay": 6}], ids=["one shard a worker", "seven shards", "adaptive"])
def test_three_workers_reach_the_optimum(loss, options):
    problem = linear(loss)
    result = pl.PIAG(3000, asynchronous=True, tolerance=1e-7, **options).solve(problem, workers=4, record_every=5)
    best, bound = optimum(problem), options.get("max_delay", 20 * options.get("shards", 3))
    assert result.status is pl.Status.CONVERGED and 0 <= objective(problem, result) - best < 1e-10 * best and abs(result.objective - best) < 1e-9 * best
    assert all(0 <= mean <= oldest <= bound for oldest, mean in zip(result.history["delay"], result.history["mean_delay"]))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("step", ["auto", "adaptive", "fixed"])
def test_a_simulation_gives_the_same_bits_and_keeps_its_bound(step):
    problem = linear()
    run = lambda **kw: pl.PIAG(40, asynchronous=True, step=step, max_delay=25, **kw).solve(problem, workers=pl.Simulated(5, speeds=(1.0, 3.0, 0.1)))
    a, b, c = run(), run(), run(seed=1)
    quiet = lambda r: {k: v for k, v in r.history.items() if k != "seconds"}
    assert torch.equal(a.x["weight"], b.x["weight"]) and quiet(a) == quiet(b) and not torch.equal(a.x["weight"], c.x["weight"])
    assert max(a.history["delay"]) == 25 and a.history["objective"][-1] < a.history["objective"][0]


def test_without_delay_it_is_proximal_gradient():
    problem = linear()
    for workers in (pl.Simulated(4, speeds=(1, 0.1)), 3):
        a = pl.PIAG(10, asynchronous=True, step=0.3, max_delay=0, shards=3).solve(problem, workers=workers)
        b = pl.PGD(30, step=0.3).solve(problem)
        assert torch.allclose(a.x["weight"], b.x["weight"], atol=1e-12) and set(a.history["delay"]) == {0} and a.data_passes == 30


def test_a_bound_that_a_slow_worker_reaches_makes_the_others_wait():
    problem = linear()
    for bound in (0, 4, 11, 30):
        delays = pl.PIAG(100, asynchronous=True, max_delay=bound).solve(problem, workers=pl.Simulated(4, speeds=(1, 1, 0.02))).history["delay"]
        assert max(delays) == bound


def test_the_recorded_objective_is_the_exact_one_in_the_end_and_never_below():
    problem, exact = linear("logistic"), []
    result = pl.PIAG(300, asynchronous=True).solve(problem, workers=pl.Simulated(4, speeds=(1, 1, 0.1)), callback=lambda r: exact.append(objective(problem, r)))
    gaps = [a - b for a, b in zip(result.history["objective"], exact)]
    assert min(gaps) > -1e-12 and max(gaps[100:]) < 0.1 * exact[-1] and gaps[-1] < 1e-5 * exact[-1]


def test_chains_train():
    torch.manual_seed(0)
    X = torch.randn(120, 6)
    network = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2))
    problem = pl.LiftedTraining(network, X, (X[:, 0] * X[:, 1] > 0).long())
    result = pl.PIAG(150, asynchronous=True, step=0.1).solve(problem, workers=3, record_every=10)
    forward = float(problem.mean_loss(result.x))
    assert forward < 0.8 * result.history["objective"][0] and abs(result.objective - forward) < 0.05 * forward
    assert torch.equal(result.network[0].weight, result.x["0.weight"])


def test_a_worker_ten_times_slower_costs_at_most_half_of_the_synchronous_time(monkeypatch):
    problem = linear("logistic")
    best = optimum(problem)
    slow(monkeypatch, [0, 0.002, 0.002, 0.02])
    reached = {}
    for name, solver in (("synchronous", pl.PIAG(5000, asynchronous=True, step="fixed", max_delay=0, tolerance=pl.Tolerance(objective=1.001 * best))),
                         ("asynchronous", pl.PIAG(5000, asynchronous=True, tolerance=pl.Tolerance(objective=1.001 * best)))):
        result = solver.solve(problem, workers=4)
        assert result.status is pl.Status.CONVERGED and objective(problem, result) <= 1.001 * best
        reached[name] = result.seconds
    assert reached["asynchronous"] <= 0.5 * reached["synchronous"], reached


def test_a_stopped_worker_is_named_and_the_run_ends_right():
    problem, moved = linear("logistic"), {}

    def stop(result):
        if result.iterations == 20:
            pid = sorted(child.pid for child in multiprocessing.active_children())[1]
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(2.0, os.kill, (pid, signal.SIGCONT)).start()
            moved["before"], moved["k"] = time.perf_counter(), result.state["k"]
        elif "before" in moved and time.perf_counter() - moved["before"] < 1.5:
            moved["after"] = result.state["k"]

    with pytest.warns(UserWarning, match=r"worker 2 has sent no gradient for \d\.\d s; the others go on"):
        result = pl.PIAG(20000, asynchronous=True, tolerance=1e-7).solve(problem, workers=4, callback=stop)
    best = optimum(problem)
    assert 20 < moved["after"] - moved["k"] <= 60 + 3 and max(result.history["delay"]) <= 60                 # on, up to the bound
    assert result.status is pl.Status.CONVERGED and objective(problem, result) - best < 1e-10 * best and result.seconds > 2


def test_a_worker_that_stays_stopped_ends_the_run_by_name():
    def stop(result):
        if result.iterations == 5:
            os.kill(sorted(child.pid for child in multiprocessing.active_children())[0], signal.SIGSTOP)

    with pytest.warns(UserWarning, match="worker 1 has sent no gradient"), pytest.raises(RuntimeError, match=r"worker 1 has sent no gradient.*timeout=2.*resume="):
        pl.PIAG(10**6, asynchronous=True).solve(linear(), workers=pl.Workers(3, timeout=2), callback=stop)
    assert not multiprocessing.active_children()


def test_resume_on_another_number_of_workers(tmp_path):
    problem = linear("logistic")
    first = pl.PIAG(40, asynchronous=True).solve(problem, workers=3, checkpoint=tmp_path / "run")
    for workers in (3, 4):
        result = pl.PIAG(4000, asynchronous=True, tolerance=1e-7).solve(problem, workers=workers, resume=tmp_path / "run")
        best = optimum(problem)
        assert result.status is pl.Status.CONVERGED and objective(problem, result) - best < 1e-10 * best
        assert result.history["objective"][:40] == first.history["objective"] and result.history["objective"][40] < first.history["objective"][20]


def test_every_way_to_end_ends_the_workers(monkeypatch):
    problem = linear("logistic")
    solver = pl.PIAG(10**6, asynchronous=True, max_seconds=0.5)
    assert solver.solve(problem, workers=3).status is pl.Status.MAX_SECONDS

    def enough(result):
        raise StopIteration

    def broken(result):
        raise ZeroDivisionError

    assert solver.solve(problem, workers=3, callback=enough).status is pl.Status.CALLBACK
    with pytest.raises(ZeroDivisionError):
        solver.solve(problem, workers=3, callback=broken)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = pl.PIAG(10**6, asynchronous=True).solve(problem, workers=3)
    assert result.status is pl.Status.INTERRUPTED and result.seconds < 5
    slow(monkeypatch, [0, 0, 60])                                                   # nobody waits for a gradient that is not needed
    began = time.perf_counter()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert pl.PIAG(5, asynchronous=True).solve(problem, workers=3).status is pl.Status.INTERRUPTED and time.perf_counter() - began < 10
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_named():
    kill = lambda result: os.kill(sorted(child.pid for child in multiprocessing.active_children())[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"worker 2 ended with exit code -9 \(killed\)"):
        pl.PIAG(10**6, asynchronous=True).solve(linear(), workers=4, callback=kill)


@pytest.mark.parametrize("call,error,words", [
    (lambda: pl.PIAG(asynchronous=True).solve(linear()), ValueError, "got one worker.*workers=2"),
    (lambda: pl.PIAG(asynchronous=True).solve(linear(), workers=1), ValueError, "got 1 worker;.*workers=2 to 301"),
    (lambda: pl.PIAG(asynchronous=True).solve(linear(n=3), workers=pl.Simulated(5)), ValueError, "the problem has 1 stages and 3 samples"),
    (lambda: pl.PIAG(asynchronous=True).solve(linear(), workers=pl.Workers(data=2, layers=2)), ValueError, r"the samples, not the stages: use Workers\(4\)"),
    (lambda: pl.PIAG(asynchronous=True, shards=2).solve(linear(), workers=pl.Simulated(4)), ValueError, "shards=2 for 3 workers.*shards=3"),
    (lambda: pl.PIAG(asynchronous=True, delays=3), ValueError, "leave delays= out"),
    (lambda: pl.Simulated(3, speeds=(1, 0)), ValueError, "numbers > 0"),
    (lambda: pl.PIAG().solve(linear(), workers=2), TypeError, r"PIAG\(asynchronous=True\)"),
    (lambda: pl.PIAG(asynchronous=True).solve(pl.Composite(pl.L2NormSquared((2,)), start=torch.ones(2)), workers=2), TypeError, "no stages and samples")])
def test_bad_input_is_refused_in_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()

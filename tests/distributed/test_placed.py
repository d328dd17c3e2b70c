"""A problem on a mesh is the same problem: every method gives the same bits on every mesh, and those of one process up to rounding."""

import os
import signal
import threading

import pytest
import torch
from placed_problems import mesh, normalised, problem
from torch import nn

import paralift as pl
from paralift.distributed import Flushed, Streamed, layout, room
from paralift.distributed.mesh import Mesh

MESHES = [(2, 1), (1, 2), (2, 2), (4, 1), (1, 4), (1, 8)]
METHODS = {"pgd": lambda: pl.PGD(3), "fista": lambda: pl.FISTA(3), "heavy ball": lambda: pl.PGD(3, step=0.1, acceleration="heavy_ball"), "bcd": lambda: pl.BCD(2),
           "palm": lambda: pl.BCD(2, step="palm", order="random"), "red-black": lambda: pl.BCD(2, order="red_black", inertia=0.5),
           "isgm": lambda: pl.ISGM(2, 8, schedule="linear", weight_decay=0.01, average=0.9)}


@pytest.mark.filterwarnings("ignore:the step")
@pytest.mark.parametrize("method", METHODS)
def test_every_mesh_gives_the_same_bits(method):
    solver, schedule = METHODS[method](), Flushed(8) if method == "isgm" else None
    plain = solver.solve(problem())
    one = solver.solve(problem(), workers=mesh(1, 1, schedule=schedule))
    assert all(torch.allclose(plain.x[n], one.x[n], rtol=1e-9, atol=1e-12) for n in plain.x)
    for data, layers in MESHES if method in ("pgd", "isgm") else MESHES[1:4]:
        other = solver.solve(problem(), workers=mesh(data, layers, schedule=schedule))
        assert other.x.keys() == one.x.keys() and all(torch.equal(one.x[n], other.x[n]) for n in one.x), (data, layers)
        assert one.history["objective"] == other.history["objective"] and all(torch.equal(a, b) for a, b in zip(one.network.parameters(), other.network.parameters()))


SUMS = {"sgd": lambda n: pl.SGD(n, 8, metric="adam"), "svrg": lambda n: pl.SVRG(n, 8), "saga": lambda n: pl.SAGA(n, 8),
        "katyusha": lambda n: pl.Katyusha(n, 8, strong_convexity=0.1)}


@pytest.mark.parametrize("method", SUMS)
@pytest.mark.parametrize("deep", [False, True])
def test_methods_on_samples_give_the_same_bits(method, deep):
    """Tables lie with their samples; a run that was interrupted goes on with other workers."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    p = problem() if deep else pl.linear_model(draw(24, 4), draw(24), regulariser=0.01 * pl.L1Norm())
    plain, one = SUMS[method](3).solve(p), SUMS[method](3).solve(p, workers=mesh(1, 1))
    assert all(torch.allclose(plain.x[n], one.x[n], rtol=1e-9, atol=1e-12) for n in plain.x)
    half = None
    for data in (2, 3):
        other = SUMS[method](3).solve(p, workers=data)
        assert all(torch.equal(one.x[n], other.x[n]) for n in one.x) and one.history["objective"] == other.history["objective"]
        half = half or SUMS[method](2).solve(p, workers=data)
    rest = SUMS[method](3).solve(p, workers=3, resume=half)
    assert all(torch.equal(one.x[n], rest.x[n]) for n in one.x)


@pytest.mark.parametrize("kind", ["residual", "tied"])
def test_skips_and_shared_parameters_cross_workers(kind):
    solver = pl.PGD(3, step="backtracking")
    one = solver.solve(problem(kind), workers=mesh(1, 1))
    for data, layers in ((1, 3), (2, 2)):
        other = solver.solve(problem(kind), workers=mesh(data, layers))
        assert all(torch.equal(one.x[n], other.x[n]) for n in one.x) and one.history["objective"] == other.history["objective"]


@pytest.mark.parametrize("kind", ["residual", "tied"])
def test_skips_and_shared_parameters_cross_workers_in_streams(kind):
    solver = pl.ISGM(2, 8)
    one, plain = solver.solve(problem(kind), workers=mesh(1, 1, schedule=Flushed(4))), solver.solve(problem(kind))
    assert all(torch.allclose(one.x[n], plain.x[n], rtol=1e-9) for n in one.x)
    for layers in (2, 3):
        other = solver.solve(problem(kind), workers=mesh(1, layers, schedule=Flushed(4)))
        assert all(torch.equal(one.x[n], other.x[n]) for n in one.x)


def test_a_shared_parameter_may_be_frozen():
    p, solver = problem("tied"), pl.ISGM(2, 8)
    frozen = pl.LiftedTraining(p.network, p.inputs, p.targets, frozen="weight")
    plain, other = solver.solve(frozen), solver.solve(frozen, workers=mesh(1, 3, schedule=Flushed(4)))
    assert all(torch.allclose(plain.x[n], other.x[n], rtol=1e-9) for n in plain.x) and torch.equal(other.x["weight"], frozen.initial["weight"])


@pytest.mark.parametrize("kind, layers, dtype", [("chain", 2, torch.float64), ("chain", 4, torch.float32), ("residual", 3, torch.float64), ("tied", 3, torch.float64),
                                                 ("tied", 3, torch.float32)])
def test_a_stream_is_what_its_simulation_says(kind, layers, dtype):
    solver = pl.ISGM(2, 8, 1e-2)
    real, simulated = (solver.solve(problem(kind, dtype), workers=workers(layers=layers)) for workers in (pl.Workers, pl.Simulated))
    assert all(torch.equal(real.x[n], simulated.x[n]) for n in real.x) and real.history["objective"] == simulated.history["objective"]
    serial = solver.solve(problem(kind, dtype))
    assert not all(torch.equal(real.x[n], serial.x[n]) for n in real.x) and abs(real.objective - serial.objective) < 0.05 * serial.objective


@pytest.mark.parametrize("kind, layers", [("chain", 2), ("tied", 3)])
def test_messages_may_go_by_lanes(kind, layers, monkeypatch):
    """As NCCL needs it: a group for every kind of message; here they are gloo's, without the memory that forked workers share."""
    def apart(*arguments, lanes=None):
        found = Mesh(*arguments, lanes=True)
        found.room = None
        return found

    solver = pl.ISGM(2, 8, 1e-2)
    plain = solver.solve(problem(kind), workers=mesh(1, layers))
    monkeypatch.setattr(layout, "Mesh", apart)
    other = solver.solve(problem(kind), workers=mesh(1, layers))
    assert all(torch.equal(plain.x[n], other.x[n]) for n in plain.x)


def test_a_stream_over_one_worker_is_the_serial_method():
    solver = pl.ISGM(2, 8)
    assert all(torch.equal(a, b) for a, b in zip(solver.solve(problem(), workers=pl.Simulated(layers=1, schedule=Streamed(4))).x.values(),
                                                 solver.solve(problem(), workers=mesh(1, 1, schedule=Flushed(4))).x.values()))


def test_a_split_metric_is_the_metric():
    solver = pl.ISGM(3, 8, weight_decay=0.01)
    whole, sizes = solver.solve(problem(), workers=mesh(2, 1)), []
    for data, layers in ((2, 1), (3, 1), (2, 2)):
        schedule = Flushed(8)
        split = solver.solve(problem(), workers=mesh(data, layers, shard_parameters=True, schedule=schedule), callback=lambda r: sizes.append(
            sum(v.numel() for v in r.state["metric"]["first"].values())))
        assert all(torch.equal(whole.x[n], split.x[n]) for n in whole.x), (data, layers)
        assert split.state["metric"]["second"]["0.weight"].shape == (7, 5)
    total = sum(v.numel() for v in problem().initial.values())
    assert 0.4 * total < sizes[0] < 0.6 * total and sizes[3] < 0.45 * total
    rest = solver.solve(problem(), workers=mesh(1, 1), resume=pl.ISGM(2, 8, weight_decay=0.01).solve(problem(), workers=mesh(2, 1, shard_parameters=True)))
    assert all(torch.equal(whole.x[n], rest.x[n]) for n in whole.x)


@pytest.mark.parametrize("data, layers", [(2, 1), (3, 1), (1, 2), (2, 2)])
def test_batch_statistics_are_those_of_the_minibatch(data, layers):
    """Minibatches of 23 samples over 2 or 3 workers: unequal shares."""
    plain = pl.ISGM(2, 23, metric="plain").solve(normalised())
    other = pl.ISGM(2, 23, metric="plain").solve(normalised(), workers=mesh(data, layers, schedule=Flushed(data)))
    assert all(torch.allclose(plain.x[n], other.x[n], rtol=1e-10, atol=1e-12) for n in plain.x)
    assert all(torch.allclose(a.double(), b.double(), rtol=1e-10) for a, b in zip(plain.network.buffers(), other.network.buffers()))
    assert other.history["validation_loss"] == pytest.approx(plain.history["validation_loss"], rel=1e-10)


@pytest.mark.filterwarnings("ignore:the step .* is above the bound")
def test_all_samples_with_batch_statistics_split_along_layers():
    plain, other = pl.PGD(2, step=0.05).solve(normalised()), pl.PGD(2, step=0.05).solve(normalised(), workers=3)
    assert all(torch.allclose(plain.x[n], other.x[n], rtol=1e-12) for n in plain.x)
    with pytest.raises(ValueError, match="BatchNorm couples the samples, which PGD would split: use Workers"):
        pl.PGD(1).solve(normalised(), workers=mesh(2, 1))


def test_float32_agrees_to_rounding():
    serial = pl.PGD(5, step=0.2).solve(problem(dtype=torch.float32))
    for data, layers in ((2, 1), (2, 2), (3, 1)):
        other = pl.PGD(5, step=0.2).solve(problem(dtype=torch.float32), workers=mesh(data, layers))
        assert all(torch.allclose(serial.x[n], other.x[n], rtol=1e-4, atol=1e-6) for n in serial.x)


def test_a_search_in_float32_knows_its_rounding():
    """Sums over workers are in float64; what they sum is not."""
    g = torch.Generator().manual_seed(0)
    p = pl.linear_model(torch.randn(64, 10, generator=g), torch.randn(64, generator=g), regulariser=0.05 * pl.L1Norm())
    alone, shared = (pl.PGD(300, step="backtracking").solve(p, workers=workers) for workers in (None, mesh(2, 1)))
    assert shared.state["scale"] > 0.1 * alone.state["scale"] and 0 < shared.residual < 1e-5


@pytest.mark.parametrize("most", [2**20, 2**13])
def test_sums_through_shared_memory(monkeypatch, most):
    """Whatever fits into the room goes through it, the rest by messages: the same sums, also where one half is written while slow workers still read the other."""
    monkeypatch.setattr(room, "LEAST", 1)
    monkeypatch.setattr(room, "MOST", most)
    for solver, schedule in ((pl.PGD(30, step=0.05), None), (pl.ISGM(3, 8), Flushed(8))):
        one = solver.solve(problem(), workers=mesh(1, 1, schedule=schedule))
        for data, layers in ((3, 1), (2, 2)):
            other = solver.solve(problem(), workers=mesh(data, layers, schedule=schedule))
            assert all(torch.equal(one.x[n], other.x[n]) for n in one.x), (data, layers)
            loose = solver.solve(problem(), workers=pl.Workers(data=data, layers=layers, schedule=schedule, deterministic=False))
            assert all(torch.allclose(one.x[n], loose.x[n], rtol=1e-9, atol=1e-12) for n in one.x), (data, layers)


@pytest.mark.parametrize("kind", ["chain", "residual", "tied"])
def test_the_gradient_of_a_minibatch_is_that_of_its_microbatches(kind):
    """Made as a whole in float32; apart, and summed in order, where every mesh must give the same bits."""
    serial = pl.ISGM(2, 8, metric="plain").solve(problem(kind, torch.float32))
    for deterministic in (False, True):
        other = pl.ISGM(2, 8, metric="plain").solve(problem(kind, torch.float32), workers=pl.Simulated(layers=2, schedule=Flushed(3), deterministic=deterministic))
        assert all(torch.allclose(serial.x[n], other.x[n], rtol=1e-4, atol=1e-6) for n in serial.x)


def test_a_run_goes_on_on_another_mesh(tmp_path):
    whole = pl.FISTA(5, step="backtracking").solve(problem(), workers=mesh(1, 1))
    first = pl.FISTA(3, step="backtracking").solve(problem(), workers=mesh(1, 2), checkpoint=tmp_path / "c")
    for start, workers in ((first, mesh(2, 1)), (tmp_path / "c", mesh(2, 2)), (tmp_path / "c", mesh(1, 1))):
        rest = pl.FISTA(5, step="backtracking").solve(problem(), workers=workers, resume=start)
        assert all(torch.equal(whole.x[n], rest.x[n]) for n in whole.x) and rest.iterations == 5
    whole = pl.ISGM(3, 8).solve(problem(), workers=mesh(1, 1))
    half = pl.ISGM(2, 8).solve(problem(), workers=mesh(1, 4, schedule=Flushed(8)))
    rest = pl.ISGM(3, 8).solve(problem(), workers=mesh(2, 1), resume=half)
    assert all(torch.equal(whole.x[n], rest.x[n]) for n in whole.x)


def test_the_history_shows_the_forward_network():
    p = problem(validation=True)
    plain, shared = pl.PGD(3).solve(p), pl.PGD(3).solve(problem(validation=True), workers=mesh(2, 2))
    for column in ("accuracy", "validation_loss", "penalty_residual", "residual"):
        assert shared.history[column] == pytest.approx(plain.history[column], rel=1e-6), column


def test_a_callback_stops_all_workers():
    seen = []

    def early(result):
        seen.append(result.iterations)
        if result.iterations == 2 and result.x["0.weight"].numel():          # on the worker that has this block
            raise StopIteration

    result = pl.PGD(9, step=0.1).solve(problem(), workers=mesh(1, 2), callback=early)
    assert result.status is pl.Status.CALLBACK and result.iterations == 2 and seen == [1, 2]
    assert pl.PGD(10**6, step=0.1, max_seconds=0.3).solve(problem(), workers=mesh(2, 1)).status is pl.Status.MAX_SECONDS


def test_ctrl_c_ends_all_workers_with_the_result_so_far():
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = pl.PGD(10**6, step=0.1).solve(problem(), workers=2)
    assert result.status is pl.Status.INTERRUPTED and result.iterations > 0 and result.x["x1"].shape == (24, 7)


def test_the_mesh_is_chosen():
    result = pl.PGD(1, step=0.1).solve(problem(), workers=4)
    assert "data x layers" in result.layout and "x" in repr(result)
    assert str(pl.ISGM(1, 8).solve(problem(), workers=2).layout).count("\n") == 2          # a table of both meshes


def test_complex_unknowns_and_parameters_cross_workers():
    torch.manual_seed(0)
    kind = {"dtype": torch.complex128}
    network = pl.networks.chain(nn.Linear(5, 6, **kind), pl.SoftThreshold(0.1), nn.Linear(6, 6, **kind), pl.SoftThreshold(0.1), nn.Linear(6, 3, **kind))
    p = pl.LiftedTraining(network, torch.randn(8, 5, **kind), torch.randn(8, 3, **kind), loss="squared_error")
    for solver, schedule in ((pl.PGD(3, step=0.05), None), (pl.ISGM(2, 4), Flushed(2))):
        alone = solver.solve(p)
        for data, layers in ((2, 1), (1, 3)):
            other = solver.solve(p, workers=mesh(data, layers, schedule=schedule))
            assert all(torch.allclose(v, other.x[name], rtol=1e-9, atol=1e-12) for name, v in alone.x.items()), (data, layers)
            assert other.history.get("penalty_residual", [0]) == pytest.approx(alone.history.get("penalty_residual", [0]), rel=1e-9)
    real, simulated = (pl.ISGM(2, 4).solve(p, workers=workers(layers=2)) for workers in (pl.Workers, pl.Simulated))
    assert all(torch.equal(v, simulated.x[name]) for name, v in real.x.items())

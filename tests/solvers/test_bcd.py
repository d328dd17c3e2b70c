"""Orders and inertia of block coordinate descent."""

import pytest
import torch
from torch import nn

import paralift as pl


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        u = torch.relu(self.a(x))
        return self.d(torch.relu(self.c(torch.relu(self.b(u))) + u))


def problem(kind="chain", **kw):
    torch.manual_seed(0)
    (x, y), _ = pl.data.digits()
    net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10)) if kind == "chain" else Residual()
    return pl.LiftedTraining(net.double(), x[:150].double(), y[:150], **kw)


@pytest.mark.parametrize("kind", ["chain", "graph"])
@pytest.mark.parametrize("solver", [pl.BCD(6), pl.BCD(6, order="random"), pl.BCD(6, order="red_black"), pl.BCD(6, step="palm"), pl.BCD(6, step=0.7)], ids=repr)
def test_every_sweep_lowers_e(kind, solver):
    history = solver.solve(problem(kind)).history["objective"]
    assert all(b <= a * (1 + 1e-12) for a, b in zip(history, history[1:])) and history[-1] < 0.97 * float(problem(kind).value(problem(kind).start()))


@pytest.mark.parametrize("kind", ["chain", "graph"])
def test_blocks_of_one_colour_do_not_couple(kind):
    """Updated all from the same point (Jacobi), or one after the other (Gauss-Seidel): the same; and every block has one colour."""
    p = problem(kind)
    colours, g = p.colours(), torch.Generator().manual_seed(1)
    blocks = [name for colour in colours for group in colour for name in group]
    assert sorted(blocks) == sorted(name for group in p.sweep_order() for name in group)
    if kind == "chain":
        assert [sorted(group[0] for group in colour) for colour in colours[1:]] == [["x1", "x3"], ["x2"]]
    point = {k: v + 0.1 * torch.randn(v.shape, generator=g, dtype=v.dtype) for k, v in p.start().items()}
    for colour in colours:
        moved = dict(point)
        for group in colour:
            before, after = p.gradient(point, group), p.gradient(moved, group)
            assert all(torch.allclose(before[k], after[k], atol=1e-13) for k in group)
            moved.update({k: moved[k] + torch.randn(moved[k].shape, generator=g, dtype=moved[k].dtype) for k in group})


def test_random_orders_come_from_the_seed():
    runs = [pl.BCD(4, order="random", seed=s).solve(problem()).objective for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    cyclic = pl.BCD(1)._turns(problem(), 0)
    assert sorted(pl.BCD(1, order="random")._turns(problem(), 3)) == sorted(cyclic) != pl.BCD(1, order="random")._turns(problem(), 3)


def test_inertia_keeps_its_lyapunov_function_falling_and_helps():
    """E(u_k) + L/2 |u_k - u_{k-1}|^2 falls, G convex, tau = 1/L; and a badly scaled problem needs fewer sweeps."""
    g = torch.Generator().manual_seed(0)
    A = torch.randn(40, 30, dtype=torch.float64, generator=g) * torch.logspace(0, -0.6, 30, dtype=torch.float64)
    b = torch.randn(40, dtype=torch.float64, generator=g)
    lasso = lambda: pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), 0.05 * pl.L1Norm())
    L, best = lasso().lipschitz(None)["x"], pl.FISTA(20000, tolerance=1e-12).solve(lasso()).objective
    points, sweeps = [lasso().start()["x"]], {}
    pl.BCD(200, step="lipschitz", inertia=0.7).solve(lasso(), callback=lambda r: points.append(r.x["x"]))
    value = lambda x: float(lasso().value({"x": x}))
    energies = [value(u) + 0.5 * L * float((u - old).square().sum()) for old, u in zip(points, points[1:])]
    assert all(b <= a * (1 + 1e-12) for a, b in zip(energies, energies[1:]))
    for beta in (0.0, 0.7):
        history = pl.BCD(4000, step="lipschitz", inertia=beta).solve(lasso()).history["objective"]
        sweeps[beta] = next(i for i, e in enumerate(history) if e - best < 1e-5 * best)
    assert sweeps[0.7] < 0.5 * sweeps[0.0]


@pytest.mark.parametrize("kw,words", [
    ({"order": "backward"}, "'red_black'"), ({"inertia": 0.8}, "0.707"), ({"inertia": -0.1}, "0.707"), ({"step": "fast"}, "'palm'"), ({"step": -1.0}, "positive number")])
def test_sentences(kw, words):
    with pytest.raises(ValueError, match=words):
        pl.BCD(**kw)


@pytest.mark.parametrize("kind", ["chain", "graph"])
def test_passes_over_groups_of_samples_lower_e_of_all(kind):
    """E is that of all samples at the x that are kept; what a pass reports is that value."""
    p = problem(kind, rho=0.5)
    result = pl.BCD(6, batch_size=30, tau=3.0, inner_steps=2).solve(p)
    history = [float(p.value(p.start())), *result.history["objective"]]
    assert all(b <= a for a, b in zip(history, history[1:])) and history[-1] < 0.8 * history[0]
    assert abs(float(p.value(result.x)) - result.objective) < 1e-12


def test_the_small_solve_is_the_large_one():
    """Fewer samples than inputs: the majoriser's inverse by the matrix of samples, equal to the dense one, with the proximal term too."""
    p = problem()
    for rows in (slice(0, 10), slice(0, 100)):
        sub = p.restrict(rows, p.start_theta(), tau=2.0)
        point, stage = sub.forward(sub.anchor), sub.stages[0]
        x = torch.cat([sub.inputs, torch.ones(len(sub.inputs), 1, dtype=torch.float64)], 1)
        M = 2.0 * x.T @ x / len(x)
        M.diagonal().add_(1e-4 * M.diagonal().mean() + 0.5)
        gradient = sub.gradient(point, tuple(stage.theta))
        change = sub.majoriser(point, tuple(stage.theta))(gradient)
        dense = torch.linalg.solve(M, torch.cat([gradient["0.weight"], gradient["0.bias"][:, None]], 1).T).T
        assert torch.allclose(torch.cat([change["0.weight"], change["0.bias"][:, None]], 1), dense, rtol=1e-8)


def test_inner_steps_are_steps():
    """On one block, three steps in a row are three sweeps."""
    g = torch.Generator().manual_seed(0)
    A, b = torch.randn(20, 9, dtype=torch.float64, generator=g), torch.randn(20, dtype=torch.float64, generator=g)
    lasso = pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), pl.L1Norm())
    assert torch.allclose(pl.BCD(2, inner_steps=3).solve(lasso).x["x"], pl.BCD(6).solve(lasso).x["x"], rtol=1e-12)
    history = pl.BCD(6, inner_steps=3).solve(problem()).history["objective"]
    assert all(b <= a * (1 + 1e-12) for a, b in zip(history, history[1:])) and history[-1] < pl.BCD(6).solve(problem()).objective


def test_every_group_of_samples_is_lowered(monkeypatch):
    """E_S(theta+, x+) + |theta+ - theta|^2/(2 tau) <= E_S(theta, x_S), x_S those of the pass before; where the sweep from the forward pass misses it, the one from x_S does not."""
    seen, plain = [], pl.BCD._sweep

    def watched(self, sub, point, sweep, previous=None):
        new = plain(self, sub, point, sweep, previous)
        seen.append((float(sub.value(point)), float(sub.value(new[0])), all(torch.equal(point[k], v) for k, v in sub.start().items())))
        return new

    monkeypatch.setattr(pl.BCD, "_sweep", watched)
    pl.BCD(4, batch_size=30, tau=0.1).solve(problem(rho=20.0))
    assert all(after <= before * (1 + 1e-12) for before, after, forward in seen if not forward) and len(seen) >= 4 * 5


def test_a_pass_that_raises_e_is_taken_back():
    torch.manual_seed(0)
    (x, y), _ = pl.data.digits()
    small = pl.LiftedTraining(nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).double(), x[:40].double(), y[:40])
    start, result = small.start(), pl.BCD(2, batch_size=1, tau=1e6).solve(small)
    assert result.state["tau"] == 2.5e5 and all(torch.equal(result.x[k], v) for k, v in start.items())
    assert result.history["objective"][0] == result.history["objective"][1] and abs(result.objective - float(small.value(start))) < 1e-12


def test_groups_of_samples_train_where_full_sweeps_fit_x_only():
    """Digits, 10 passes: full sweeps lower E by moving x; over groups E ends lower, and so do the distance to the forward network and its errors."""
    torch.manual_seed(0)
    (x, y), test = pl.data.digits()
    p = pl.LiftedTraining(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)), x, y, validation=test)
    full, groups = pl.BCD(10).solve(p), pl.BCD(10, batch_size=50).solve(p)
    assert groups.objective < full.objective and groups.history["penalty_residual"][-1] < full.history["penalty_residual"][-1]
    assert groups.history["accuracy"][-1] > 0.94 > 0.85 > full.history["accuracy"][-1]


@pytest.mark.parametrize("call,error,words", [
    (lambda: pl.BCD(inner_steps=0), ValueError, "inner_steps=0"), (lambda: pl.BCD(batch_size=2.5), ValueError, "batch_size=2.5"),
    (lambda: pl.BCD(tau=0), ValueError, "finite number > 0"),
    (lambda: pl.BCD(batch_size=5, inertia=0.5), ValueError, "leave one of them out"),
    (lambda: pl.BCD(batch_size=5).solve(pl.Composite(pl.L2NormSquared(), start=torch.ones(3))), TypeError, "no samples to group"),
    (lambda: pl.BCD(2, batch_size=30, tolerance=1e-6).solve(problem()), ValueError, "no residual")])
def test_what_groups_need_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()


def trained_by_groups(**more):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3)).double()
    p = pl.LiftedTraining(network, torch.randn(90, 6, dtype=torch.float64), torch.randint(0, 3, (90,)))
    return pl.BCD(4, batch_size=20, **more).solve(p, progress=False)


def test_x_in_files_is_x_in_memory(tmp_path):
    memory, files = trained_by_groups(), trained_by_groups(storage=pl.Storage(folder=tmp_path))
    assert all(torch.equal(v, files.x[n]) for n, v in memory.x.items()) and memory.history["objective"] == files.history["objective"]
    assert not list(tmp_path.iterdir())                            # the files have no names
    files.save(tmp_path / "r")
    assert torch.equal(pl.Result.load(tmp_path / "r").x["x1"], memory.x["x1"])


def test_x_in_bfloat16_descends_too():
    full, half = trained_by_groups(), trained_by_groups(storage=pl.Storage(torch.bfloat16))
    assert half.x["x1"].dtype == torch.bfloat16 and half.x["0.weight"].dtype == torch.float64
    column = half.history["objective"]
    assert all(b <= a for a, b in zip(column, column[1:])) and abs(half.objective - full.objective) < 0.02 * full.objective


@pytest.mark.parametrize("call, sentence", [(lambda: pl.BCD(storage=pl.Storage()), "give batch_size too"), (lambda: pl.Storage(torch.int8), "floating-point type"),
                                            (lambda: pl.Storage(folder="/no/such"), "which is no folder")])
def test_storage_refuses_in_a_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()

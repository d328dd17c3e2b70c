import math
import warnings

import pytest
import torch
from torch import nn

import paralift as pl

D = torch.float64


def mlp(last=None, widths=(12, 10, 9, 11)):
    torch.manual_seed(1)
    layers = [m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1], *([] if last is None else [last])).double()


def perceptron(n=36, m=30):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(n, m), nn.ReLU()).double()
    with torch.no_grad():
        net[1].weight.normal_()
        net[1].bias.normal_()
    return net


def images(samples=2):
    u = torch.zeros(samples, 6, 6, dtype=D)
    u[:, 1:4, 2:5] = 1
    u[1:, 4:, :3] = 0.5
    return u


class Residual(nn.Module):
    """u + sum_k W_k^T relu(W_k u + b_k): the residual network with tied matrices."""

    def __init__(self, width=3, blocks=2):
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(width, width + 1) for _ in range(blocks))

    def forward(self, u):
        for layer in self.inner:
            u = u + torch.relu(layer(u)) @ layer.weight
        return u


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 5)

    def forward(self, x):
        return x + self.second(torch.sigmoid(self.first(x)))


@pytest.mark.parametrize("penalty", ["bregman", "mac", "lifted"])
@pytest.mark.parametrize("fidelity", ["bregman", "squared_error"])
@pytest.mark.parametrize("last", [None, nn.ReLU(), nn.Sigmoid()], ids=str)
def test_gradients(penalty, fidelity, last):
    net = mlp(last)
    pl.testing.check_problem(pl.LiftedInversion(net, net(torch.randn(4, 12, dtype=D)).detach(), pl.L1Norm(), penalty, 0.1, fidelity, rho={1: 0.7}))


def test_gradients_of_graphs_and_convolutions():
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 7), nn.ReLU()).double().eval()
    x = torch.rand(3, 1, 6, 6, dtype=D)
    for net, shape, R in ((Branches().double(), 5, None), (Residual().double(), 3, None), (conv, (1, 6, 6), pl.TotalVariation())):
        y = net(x if shape == (1, 6, 6) else torch.randn(3, shape, dtype=D)).detach()
        problem = pl.LiftedInversion(net, y, R, weight=1e-3, shape=shape)
        pl.testing.check_problem(problem)
        bounds, point = problem.lipschitz(problem.start()), problem.start()
        for name in bounds:                                 # the gradient of a block moves no faster than its bound says
            d = torch.randn_like(point[name])
            change = problem.gradient({**point, name: point[name] + d}, (name,))[name] - problem.gradient(point, (name,))[name]
            assert change.norm() <= bounds[name] * d.norm() * (1 + 1e-9), name


def long_run(W, b, y, alpha, steps):
    """argmin sum B(y, W u + b) + alpha TV(u) for one image by Condat's method, written out."""
    u, q = torch.zeros(6, 6, dtype=D), torch.zeros(2, 6, 6, dtype=D)

    def grad(u):
        g = torch.zeros(2, 6, 6, dtype=D)
        g[0, :-1], g[1, :, :-1] = u[1:] - u[:-1], u[:, 1:] - u[:, :-1]
        return g

    L = float(torch.linalg.matrix_norm(W, 2)) ** 2
    sigma = L / 16
    tau = 0.99 / (L / 2 + 8 * sigma)
    for _ in range(steps):
        div = torch.autograd.functional.vjp(grad, u, q)[1]
        new = u - tau * ((W.T @ (torch.relu(W @ u.flatten() + b) - y)).view(6, 6) + div)
        q = q + sigma * grad(2 * new - u)
        q = q / (q.square().sum(0).sqrt() / alpha).clamp(min=1)
        u = new
    z = W @ u.flatten() + b
    value = 0.5 * y.square().sum() + 0.5 * torch.relu(z).square().sum() - y @ z + alpha * grad(u).square().sum(0).sqrt().sum()
    return u, float(value)


def test_one_layer_reaches_the_optimum_of_an_independent_run():
    net, u = perceptron(), images(1)
    torch.manual_seed(3)
    y = (net(u) + 0.1 * torch.randn(1, 30, dtype=D)).clamp(min=0).detach()
    best, value = long_run(net[1].weight.detach(), net[1].bias.detach(), y[0], 0.5, 4000)
    problem = pl.LiftedInversion(net, y, pl.TotalVariation(tolerance=1e-9), weight=0.5, shape=(6, 6))
    assert problem.convex
    for solver, tolerance in ((pl.PDHG(1500), 1e-6), (pl.FISTA(150), 1e-5), (pl.ADMM(1000), 3e-2)):            # linearised ADMM takes steps of a plain gradient method
        result = solver.solve(problem, record_every=100)
        above = float(problem.value(problem.forward({**problem.initial, "x0": result.solution}))) - value
        assert -1e-6 * value <= above <= tolerance * value, solver
        assert (result.solution[0] - best).norm() <= 5 * tolerance**0.5 * best.norm()


def test_constraint_gives_a_gap_that_certifies():
    net, u = perceptron(), images(2)
    problem = pl.LiftedInversion(net, net(u).detach(), pl.TotalVariation(), weight=0.2, constraint=pl.IndicatorBox(0, 1), shape=(6, 6))
    result = pl.PDHG(4000, tolerance=pl.Tolerance(gap=1e-5)).solve(problem, record_every=20)
    assert result.status is pl.Status.CONVERGED
    assert ((result.solution >= 0) & (result.solution <= 1)).all() and (result.solution - u).norm() < 0.2 * u.norm()
    prox = pl.FISTA(200).solve(problem, record_every=50)
    total = problem.samples * float(problem.value(prox.x))
    assert total - result.objective <= 1e-3 * (1 + result.objective)


def test_linear_terms_serve_by_a_joint_prox():
    net = mlp(nn.ReLU())
    K = pl.Gradient((12,))
    problem = pl.LiftedInversion(net, net(torch.randn(3, 12, dtype=D)).detach(), pl.L1Norm() @ K, weight=0.01)
    before = float(problem.value(problem.start()))
    assert float(pl.BCD(20).solve(problem).objective) < 0.6 * before


@pytest.mark.parametrize("solver", [pl.PGD(30), pl.BCD(10), pl.BCD(10, order="red_black")], ids=lambda s: f"{type(s).__name__}-{getattr(s, 'order', '')}")
def test_deep_descends_from_every_start(solver):
    net, u = mlp(nn.ReLU()), torch.randn(3, 12, dtype=D)
    y = net(u).detach()
    for start in ("zeros", "backprojection", u + 0.1):
        problem = pl.LiftedInversion(net, y, pl.L1Norm(), weight=1e-3, start=start)
        objective = solver.solve(problem).history["objective"]
        assert all(b <= a + 1e-12 for a, b in zip([float(problem.value(problem.start())), *objective], objective))


def test_the_true_input_is_a_minimiser_without_noise():
    net, u = mlp(), torch.randn(3, 12, dtype=D)
    problem = pl.LiftedInversion(net, net(u).detach(), start=u)
    point = problem.start()
    assert float(problem.value(point)) < 1e-20
    result = pl.PGD(1).solve(problem)
    assert (result.solution - u).norm() < 1e-9 and result.history["output_error"][-1] < 1e-9


def test_batch_is_a_loop():
    net, u = mlp(nn.ReLU()), torch.randn(3, 12, dtype=D)
    y = net(u).detach()
    make = lambda y: pl.LiftedInversion(net, y, pl.L1Norm(), weight=0.01)
    step = lambda p: pl.BCD(15, step="lipschitz").solve(p).solution
    assert (step(make(y)) - torch.cat([step(make(y[i:i + 1])) for i in range(3)])).norm() < 1e-9


def test_samples_on_two_workers_give_the_same():
    net, u = mlp(nn.ReLU()), torch.randn(5, 12, dtype=D)
    problem = pl.LiftedInversion(net, net(u).detach(), pl.L1Norm(), weight=0.01)
    for solver in (pl.PGD(8), pl.BCD(4)):
        alone, shared = solver.solve(problem), solver.solve(problem, workers=pl.Workers(data=2, layers=1))
        assert (alone.solution - shared.solution).abs().max() < 1e-10 and abs(alone.objective - shared.objective) < 1e-12
    with pytest.raises(ValueError, match="layers=1"):
        pl.PGD(2).solve(problem, workers=pl.Workers(data=1, layers=2))


# ---- smooth regularisers, and what is kept
def deep_conv():
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 20), nn.ReLU(), nn.Linear(20, 14), nn.ReLU()).double()


def test_a_smooth_regulariser_is_part_of_F():
    """Its gradient, value and bound; and the minimiser is that of the form with a prox."""
    net, u = deep_conv(), images(3).unsqueeze(1)
    make = lambda R, **kw: pl.LiftedInversion(net, net(u).detach(), R, weight=0.05, shape=(1, 6, 6), **kw)
    problem = make(pl.HuberTotalVariation(0.1), constraint=pl.IndicatorBox(0, 1))
    pl.testing.check_problem(problem)
    point = {k: v + 0.1 if k[0] == "x" else v for k, v in problem.start().items()}
    without = make(None)
    R = 0.05 * pl.HuberTotalVariation(0.1, pl.Space((6, 6), D))
    assert abs(float(problem.smooth_value(point) - without.smooth_value(point) - R(point["x0"]).mean())) < 1e-12
    gained = problem.lipschitz(point)["x0"] - without.lipschitz(point)["x0"]
    assert gained == pytest.approx(0.05 * 8 / 0.1 / 3) and problem.lipschitz(point)["x1"] == without.lipschitz(point)["x1"]
    layer, y = perceptron(), perceptron()(images(1)).detach()
    one = pl.LiftedInversion(layer, y, pl.HuberTotalVariation(0.1), weight=0.5, shape=(6, 6))
    a, b = pl.FISTA(3000, step="lipschitz").solve(one, record_every=100), pl.PDHG(3000).solve(one, record_every=100)
    assert (a.solution - b.solution).norm() < 1e-5 * b.solution.norm()


def test_images_of_affine_stages_are_kept(monkeypatch):
    """A sweep with inertia costs one product forward and one back a stage; images on a line are those of the stage; an unknown changed in place is seen."""
    net, u, calls = deep_conv(), images(3).unsqueeze(1), []
    problem = pl.LiftedInversion(net, net(u).detach(), pl.HuberTotalVariation(0.1), weight=0.01, shape=(1, 6, 6))
    plain = type(problem.stages[0]).forward
    monkeypatch.setattr(type(problem.stages[0]), "forward", lambda self, *a, **k: (calls.append(self.index), plain(self, *a, **k))[1])
    solver = pl.BCD(1, step="lipschitz", inertia="nesterov")
    state = solver.start(problem)
    for _ in range(4):
        calls.clear()
        state, _ = solver.step(problem, state)
    assert sorted(calls) == [1, 2, 3]
    y = problem.extrapolate(state["previous"], state["point"], 0.6, ["x0", "x1", "x2"])
    for stage in problem.stages:
        assert torch.allclose(problem._z(stage, y), plain(stage, problem._input(stage, y), y), rtol=1e-12)
    y["x0"].mul_(2)
    assert torch.equal(problem._z(problem.stages[0], y), plain(problem.stages[0], y["x0"], y))


def test_nesterov_inertia_lowers_e_faster():
    net, u = deep_conv(), images(3).unsqueeze(1)
    problem = pl.LiftedInversion(net, net(u).detach(), pl.HuberTotalVariation(0.05), weight=1e-3, rho=3.0, constraint=pl.IndicatorBox(0, 1), shape=(1, 6, 6))
    start = float(problem.value(problem.start()))
    found = {beta: pl.BCD(150, step="lipschitz", inertia=beta).solve(problem, record_every=150).objective for beta in (0.0, 0.7, "nesterov")}
    assert found["nesterov"] < found[0.7] < found[0.0] < 0.5 * start
    solver = pl.BCD(6, step="lipschitz", inertia="nesterov")
    alone, shared = solver.solve(problem), solver.solve(problem, workers=pl.Workers(data=2, layers=1))
    assert (alone.solution - shared.solution).abs().max() < 1e-10
    again = solver.solve(problem, resume=pl.BCD(3, step="lipschitz", inertia="nesterov").solve(problem))
    assert torch.equal(again.solution, alone.solution)


# ---- implicit backward sweeps
def plain_gradient(net, u, y):
    u = u.clone().requires_grad_()
    return torch.autograd.grad(0.5 * (net(u) - y).square().sum(), u)[0]


def test_tight_ties_give_back_propagation_and_loose_ones_the_implicit_residual():
    """rho -> inf: the gradient of |N(x_0) - y|^2 / 2; one hidden layer without activations: (I + A_2 A_2* / rho)^-1 (N(x_0) - y), pulled back, in closed form."""
    net, u = deep_conv(), images(3).unsqueeze(1)
    y = net(u).detach()
    problem = pl.LiftedInversion(net, y, fidelity="squared_error", rho=1e9, shape=(1, 6, 6), start=0.3 * torch.rand(3, 1, 6, 6, dtype=D))
    g = problem.input_gradient({"x0": problem.inputs})
    exact = plain_gradient(net, problem.inputs, y)
    assert (g - exact).norm() < 1e-5 * exact.norm()
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(7, 6), pl.networks.chain(pl.SoftThreshold(0.0))[0], nn.Linear(6, 5)).double()
    A1, A2 = linear[0].weight.detach(), linear[2].weight.detach()
    u, y = torch.randn(4, 7, dtype=D), torch.randn(4, 5, dtype=D)
    problem = pl.LiftedInversion(linear, y, rho=0.3, start=u)
    r = linear(u).detach() - y
    w = torch.linalg.solve(torch.eye(5, dtype=D) + A2 @ A2.T / (0.3 * 2), r.T).T
    assert torch.allclose(problem.input_gradient({"x0": u}, tie=2.0), w @ A2 @ A1, rtol=1e-10)
    assert problem.input_value({"x0": u}) == pytest.approx(float(0.5 * r.square().sum() / 4), rel=1e-12)


@pytest.mark.parametrize("kernel,stride,padding,size", [(4, 2, 1, 12), (3, 2, 1, 8), (2, 2, 0, 6), (5, 3, 2, 9), (3, 1, 1, 6), (4, 2, 0, 9)])
def test_adjoint_of_strided_convolutions(kernel, stride, padding, size):
    from paralift.problems.conv_adjoint import conv_adjoint

    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, kernel, stride=stride, padding=padding).double()
    adjoint = conv_adjoint(conv, conv.weight.detach(), (3, size, size))
    x = torch.randn(2, 3, size, size, dtype=D, requires_grad=True)
    z = conv(x)
    r = torch.randn_like(z)
    assert (adjoint is None) == (stride == 1 or size != stride * z.shape[-1])
    if adjoint is not None:
        assert torch.allclose(adjoint(r), torch.autograd.grad(z, x, r)[0], rtol=1e-12, atol=1e-13)


# ---- convexity
def dense(problem):
    """Q by second differences of its definition, column by column, for a chain or the residual network of one sample; written with explicit matrices."""
    start = problem.restrict(slice(0, 1)).start()
    names = [f"x{l}" for l in range(problem.depth)]
    sizes = [start[n].numel() for n in names]

    def q(v):
        x = {n: part.view(1, -1) for n, part in zip(names, v.split(sizes))}
        total = 0.0
        for s in problem.stages:
            given = [x[f"x{p}"] for p in s.parents]
            zero = [torch.zeros_like(g) for g in given]
            act = lambda g: s.forward(g[0] if len(g) == 1 else tuple(g), start)
            z = act(given) - act(zero)
            if s.index == problem.depth:
                total = total + z.square().sum()
            else:
                identity = isinstance(s.penalty.potential, pl.ZeroFunctional)
                total = total + problem.rho[s.index] * (x[f"x{s.index}"].square().sum() - 2 * (z * x[f"x{s.index}"]).sum() + identity * z.square().sum())
        return total

    e = torch.eye(sum(sizes), dtype=D)
    return torch.stack([torch.stack([0.25 * (q(a + b) - q(a - b)) for a in e]) for b in e])


@pytest.mark.parametrize("blocks,rho", [(1, 1.0), (2, 1.0), (2, 30.0)])
def test_certificate_against_eigenvalues(blocks, rho):
    torch.manual_seed(0)
    net = Residual(3, blocks).double()
    problem = pl.LiftedInversion(net, torch.randn(2, 3, dtype=D), shape=3, rho=rho)
    found = problem.convexity()
    smallest = float(torch.linalg.eigvalsh(dense(problem))[0])
    assert found.exact and abs(found.smallest - smallest) < 1e-9 * (1 + abs(smallest)) and bool(found) == (smallest >= -1e-9)


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_condition_of_the_paper_implies_the_certificate(blocks):
    """lambda K*K - M - M* - I/rho >= 0 on u_0, .., u_L, with lambda >= L/(L + 1) as rho grows; the data term is lambda |u_L - f|^2 / 2 and z has weight 1."""
    torch.manual_seed(blocks)
    net, rho = Residual(3, blocks).double(), 1e4
    threshold = blocks / (blocks + 1)

    def paper(lam):
        Q = torch.zeros(blocks + 1, blocks + 1, dtype=D)
        for k in range(1, blocks + 1):
            Q[k, k - 1] -= 1
            Q[k - 1, k] -= 1
            Q[k - 1, k - 1] += 2 - 1 / rho
        Q[blocks, blocks] += lam
        return float(torch.linalg.eigvalsh(Q)[0])

    assert paper(1.01 * threshold) >= 0 > paper(0.99 * threshold)
    lam = 1.01 * threshold
    stages = pl.lift(net, torch.zeros(2, 3, dtype=D))
    weights = {s.index: rho if isinstance(s.penalty.potential, pl.ZeroFunctional) else 1.0 for s in stages[:-1]}
    problem = pl.LiftedInversion(net, torch.randn(1, 3, dtype=D), shape=3, rho=weights, fidelity=(0.5 * lam) * pl.L2NormSquared())
    assert problem.convexity().holds


def test_certificate_knows_its_limits():
    net = mlp()
    assert not pl.LiftedInversion(net, torch.zeros(1, 11, dtype=D)).convexity().holds
    assert pl.LiftedInversion(net, torch.zeros(1, 11, dtype=D), penalty="lifted").convexity().holds          # |x - A x|^2 + Psi is convex in both
    with pytest.raises(TypeError, match="not convex in z"):
        pl.LiftedInversion(net, torch.zeros(1, 11, dtype=D), penalty="mac").convexity()
    wide = nn.Sequential(nn.Linear(2000, 1200), nn.ReLU(), nn.Linear(1200, 5))
    found = pl.LiftedInversion(wide, torch.zeros(1, 5)).convexity()
    assert not found.exact and not found.holds


# ---- the error bound
def test_error_bound_holds_and_falls_with_the_noise():
    """J = |.|^2 / 2, so that u = A^T v is the image with the source element v, which lies on units that are active at u."""
    g = torch.Generator().manual_seed(0)
    A, v = torch.randn(30, 20, dtype=D, generator=g) / 5, torch.zeros(30, dtype=D)
    v[:15] = torch.randn(15, dtype=D, generator=g)
    u = A.T @ v
    b = torch.where(v != 0, 1.0, -0.2) * (1 + (A @ u).abs())
    z = A @ u + b
    assert (z[:15] > 0.5).all() and (z[15:] < 0.5).any()
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.copy_(A), net[0].bias.copy_(b)
    J, f, errors = 0.5 * pl.L2NormSquared(), torch.relu(z), []
    noise = torch.randn(30, dtype=D, generator=g) * (z > 0)
    for size in (1e-1, 1e-2, 1e-3):
        y = (f + size * noise / noise.norm()).clamp(min=0)
        d = math.sqrt(float(pl.LiftedBregman(pl.ReLU())(y, z)))
        alpha = pl.inversion_weight(v, d)
        bound = float(pl.inversion_error_bound(pl.ReLU(), y, v, alpha, d))
        found = pl.FISTA(500).solve(pl.LiftedInversion(net, y.unsqueeze(0), J, weight=alpha), record_every=500).solution[0]
        errors.append(float(J.bregman(u)(found)))
        assert 0 < errors[-1] <= bound and bound == pytest.approx(2 * math.sqrt(2) * float(v.norm()) * d, rel=1e-9)
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert math.isinf(float(pl.inversion_error_bound(pl.ReLU(), f, v, 1e3, 0.1)))


# ---- bad input
def refused(match, kind=(TypeError, ValueError), net=None, output=None, **options):
    net = mlp(nn.ReLU()) if net is None else net
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind, match=match):
            pl.LiftedInversion(net, torch.zeros(2, 11, dtype=D) if output is None else output, **options)


def test_bad_input():
    y = torch.zeros(2, 11, dtype=D)
    refused("no proximal map", net=nn.Sequential(nn.Linear(12, 11), nn.GELU(), nn.Linear(11, 11)).double())
    refused("outside the range of the last activation", output=y - 0.1)
    refused("NaN or inf", output=y + math.nan)
    refused("dtype", output=y.float())
    refused("n samples on the first axis", output=y[:, :5])
    refused("holds data", output=[1.0])
    refused("needs a number >= 0", weight=-1.0)
    refused("it needs a Functional", regulariser=3.0)
    refused("refused an input of shape", shape=7)
    refused("choose 'backprojection', 'zeros'", start="best")
    refused("every sample needs one of each", start=torch.zeros(3, 12, dtype=D))
    refused("positive", rho=-1.0)
    refused("needs a torch.nn.Module", net=lambda x: x)
    refused("pass shape=", net=nn.Sequential(nn.Flatten(), nn.Linear(12, 11)).double())
    bad = mlp()
    with torch.no_grad():
        bad[0].weight[0, 0] = math.nan
    refused("hold NaN", net=bad)
    problem = pl.LiftedInversion(mlp(nn.ReLU()), y)
    with pytest.raises(TypeError, match="use BCD, PGD or FISTA"):
        pl.PDHG(3).solve(problem)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        pl.ISGM(1).solve(problem)
    with pytest.raises(ValueError, match="outside the domain"):
        pl.inversion_error_bound(pl.ReLU(), y - 1, y, 0.1, 0.1)


def test_mac_takes_any_activation():
    net = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4)).double()
    pl.testing.check_problem(pl.LiftedInversion(net, torch.randn(2, 4, dtype=D), penalty="mac"))


def test_a_kink_far_away_is_seen():
    """|A x + 20| is affine near 0 only: it is lifted as what it is, and its gradient is right far out."""
    class Far(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 5)

        def forward(self, x):
            return (self.layer(x) + 20).abs()

    problem = pl.LiftedInversion(Far().double(), 60 * torch.rand(4, 5, dtype=torch.float64), shape=6, start="zeros")
    x, d = 60 * torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = lambda t: float(problem.smooth_value({**problem.start(), "x0": x + t * d}))
    slope = float((problem.linearise({**problem.start(), "x0": x}).gradient["x0"] * d).sum())
    assert not problem.convex and slope == pytest.approx((value(1e-6) - value(-1e-6)) / 2e-6, rel=1e-4)

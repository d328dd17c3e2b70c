"""The contrastive problem: its gradient, its limits, its minima, training with it."""

import copy
import math

import pytest
import torch
from torch import nn

import paralift as pl

torch.manual_seed(0)
X = torch.randn(12, 5, dtype=torch.float64)
LABELS = torch.arange(12) % 3


def mlp(activation, hidden=2):
    torch.manual_seed(1)
    parts = [nn.Linear(5, 6), activation, *[m for _ in range(hidden - 1) for m in (nn.Linear(6, 6), activation)], nn.Linear(6, 3)]
    return nn.Sequential(*parts).double()


def settled(activation=None, hidden=2, sweeps=200, **options):
    return pl.ContrastiveTraining(mlp(activation or nn.Tanh(), hidden), X, LABELS, inner_sweeps=sweeps, **options)


def distance(a, b):
    return math.sqrt(sum(float((a[k] - b[k]).square().sum()) for k in a) / sum(float(v.square().sum()) for v in b.values()))


def back_propagation(network):
    nn.functional.cross_entropy(network(X), LABELS).backward()
    return {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Softshrink(0.2), nn.Softmax(-1)], ids=lambda a: type(a).__name__)
def test_gradient_against_finite_differences(activation):
    pl.testing.check_problem(settled(activation, sweeps=50, rho={1: 2.0, 2: 0.7}))


def test_gradient_with_regularised_activations_convolutions_and_a_loss_of_the_last_activation():
    pl.testing.check_problem(settled(nn.Tanh(), sweeps=30, activation_regulariser={1: 0.1 * pl.L1Norm()}, weight_regulariser=0.1 * pl.L1Norm()))
    torch.manual_seed(1)
    convolutional = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3), nn.Sigmoid()).double()
    targets = torch.rand(6, 3, dtype=torch.float64)
    pl.testing.check_problem(pl.ContrastiveTraining(convolutional, torch.randn(6, 1, 8, 8, dtype=torch.float64), targets, loss="bregman", inner_sweeps=20))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=lambda a: type(a).__name__)
def test_one_hidden_layer_is_the_bregman_objective_minimised_over_x(activation):
    problem = settled(activation, hidden=1)
    theta = problem.start()
    clamped, free = problem.settle(theta)
    assert distance(free, problem.free.forward(theta)) < 1e-14
    bregman = pl.LiftedTraining(mlp(activation, 1), X, LABELS)
    assert abs(float(bregman.value(clamped)) - float(problem.value(theta))) < 1e-12
    step = {"x1": 1.0}
    again = bregman.prox({"x1": clamped["x1"] - bregman.gradient(clamped, ("x1",))["x1"]}, step)
    assert distance(again, {"x1": clamped["x1"]}) < 1e-12                              # x is stationary for it


def test_weak_nudging_tends_to_back_propagation():
    """beta = 1/rho -> 0. One hidden layer: always. More: as rho_{l+1}/rho_l -> 0 too."""
    exact = back_propagation(mlp(nn.Tanh(), 1))
    errors = [distance(settled(hidden=1, rho=rho).gradient(settled(hidden=1).start()), exact) for rho in (1e1, 1e2, 1e3)]
    assert errors[0] > 8 * errors[1] > 64 * errors[2] and errors[2] < 1e-3             # of order beta
    exact = back_propagation(mlp(nn.Tanh(), 3))
    errors = [distance(settled(hidden=3, rho=1 / ratio, discount=ratio, sweeps=100).gradient(settled(hidden=3).start()), exact) for ratio in (1e-1, 1e-2, 1e-3)]
    assert errors[0] > 8 * errors[1] > 64 * errors[2] and errors[2] < 2e-3


def test_weak_nudging_tends_to_the_gradient_at_the_free_minimiser():
    """At equal weights the free minimiser is not the forward pass, and the limit is the gradient of the loss *there*."""
    problem = settled(hidden=3, rho=1e4, discount=1.0, sweeps=300)
    theta, g = problem.start(), torch.Generator().manual_seed(0)
    direction = {name: torch.randn(v.shape, dtype=v.dtype, generator=g) for name, v in theta.items()}

    def loss(t):
        point = {name: v + t * direction[name] for name, v in theta.items()}
        return float(problem.clamped.smooth_value(problem.settle(point)[1]) - problem.free.smooth_value(problem.settle(point)[1]))

    fd, exact = (loss(1e-5) - loss(-1e-5)) / 2e-5, back_propagation(mlp(nn.Tanh(), 3))
    slope, plain = (float(problem.inner(gradient, direction)) for gradient in (problem.gradient(theta), exact))
    assert abs(slope - fd) < 1e-3 * abs(fd) and abs(plain - fd) > 1e-2 * abs(fd)


def test_bounds_of_the_objective():
    """0 <= J <= loss at the free x, and J >= that loss - |A_L* r_L|^2 / (2 m), m the strong convexity of U."""
    problem = settled(nn.ReLU(), rho=20.0, discount=0.5)
    theta = problem.start()
    free = problem.settle(theta)[1]
    z = problem.clamped.stages[-1].forward(free["x2"], theta)
    loss, W = nn.functional.cross_entropy(z, LABELS), [v for v in theta.values() if v.dim() > 1]
    D = torch.eye(12, dtype=torch.float64)
    D[6:, :6] = -W[1]
    D = torch.tensor([40.0] * 6 + [20.0] * 6, dtype=torch.float64).sqrt()[:, None] * D
    m = float(torch.linalg.svdvals(D)[-1]) ** 2
    pull = problem.clamped.loss.gradient(z, LABELS) @ W[2]
    J = float(problem.value(theta))
    assert 0 <= float(loss - pull.square().sum(1).mean() / (2 * m)) < J < float(loss)


@pytest.mark.parametrize("phase", [0, 1])
def test_settled_points_are_minima(phase):
    problem = settled(nn.ReLU(), discount=0.5)
    energy, point = (problem.clamped, problem.free)[phase], problem.settle(problem.start())[phase]
    best, g = float(energy.value(point)), torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1, 3.0):
        for _ in range(10):
            other = {name: (v + size * torch.randn(v.shape, dtype=v.dtype, generator=g)).clamp(min=0) if name in ("x1", "x2") else v for name, v in point.items()}
            assert float(energy.value(other)) > best


def test_what_is_unsettled_cancels():
    """Both phases take the same steps from the same point. So with large weights, where settling is slow, a few sweeps damp the gradient and do not swamp it
    (steps of their own do: five times the gradient), and at any number of sweeps it has a limit as rho grows."""
    network = mlp(nn.ReLU(), 4)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(4 if p.dim() > 1 else 1)
    of = lambda sweeps, rho=2.0: (problem := pl.ContrastiveTraining(network, X, LABELS, inner_sweeps=sweeps, rho=rho)).gradient(problem.start())
    exact, some = of(300), [of(sweeps) for sweeps in (1, 2, 4, 8, 16)]
    for name in ("0.weight", "2.weight", "4.weight", "6.weight"):
        errors = [distance({name: gradient[name]}, {name: exact[name]}) for gradient in some]
        assert 1 > errors[0] and errors == sorted(errors, reverse=True), name
    assert distance(of(2, 1e3), of(2, 1e6)) < 1e-2


def test_no_activation_is_differentiated():
    from torch.profiler import ProfilerActivity, profile

    problem = settled(sweeps=3)
    theta = problem.start()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        problem.linearise(theta)
        problem.restrict(slice(0, 6), theta, 1.0).implicit_step(theta, 1.0, 2)
    names = {event.key for event in trace.key_averages()}
    assert "aten::tanh" in names and not any("backward" in n.lower() for n in names)


def test_digits():
    """ISGM, explicit and implicit: the objective falls, the forward network classifies."""
    train, test = pl.data.digits()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    for solver, R in ((pl.ISGM(4, 64, step=1e-2, seed=0), 1e-5 * pl.L1Norm()), (pl.ISGM(2, 128, step=20.0, sweeps=2, metric="plain"), None)):
        history = solver.solve(pl.ContrastiveTraining(network, *train, validation=test, weight_regulariser=R, inner_sweeps=3)).history
        assert history["objective"][-1] < 0.5 * history["objective"][0] and history["accuracy"][-1] > 0.9 and max(history["free_distance"]) < 0.2


@pytest.mark.parametrize("solver", [pl.PGD(8), pl.BCD(4), pl.ISGM(2, 6, step=0.5, metric="plain", inner=pl.PGD(2))], ids=lambda s: type(s).__name__)
def test_other_methods_lower_the_objective_and_resume_exactly(solver):
    problem = settled(nn.ReLU(), sweeps=10, weight_regulariser=1e-3 * pl.L1Norm())
    whole = solver.solve(problem)
    values = whole.history["objective"]
    assert all(b < a for a, b in zip(values, values[1:])) and isinstance(whole.network, nn.Sequential)
    half = copy.copy(solver)
    half.max_iterations = solver.max_iterations // 2
    again = solver.solve(settled(nn.ReLU(), sweeps=10, weight_regulariser=1e-3 * pl.L1Norm()), resume=half.solve(problem))
    assert all(torch.equal(again.x[name], v) for name, v in whole.x.items())


def test_implicit_steps_lower_their_subproblem():
    problem = settled(nn.ReLU(), sweeps=30)
    theta = problem.start()
    for tau in (1.0, 100.0):
        sub, values = problem.restrict(slice(0, 12), theta, tau), [float(problem.value(theta))]
        for sweeps in (1, 2, 4, 8):
            increment = sub.implicit_step(theta, tau, sweeps)[1]
            values.append(float(sub.value({name: v - tau * increment[name] for name, v in theta.items()})))
        assert all(b < a for a, b in zip(values, values[1:])) and values[-1] < (0.99 if tau == 1 else 0.6) * values[0]


def test_normalisation_buffers_move_once_a_minibatch():
    network = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    problem = pl.ContrastiveTraining(network, X, LABELS)
    for solver in (pl.ISGM(2, 6), pl.ISGM(2, 6, sweeps=2, metric="plain"), pl.ISGM(2, 6, inner=pl.PGD(2))):
        assert int(solver.solve(problem).network[1].num_batches_tracked) == 4


def test_print_shows_both_phases():
    text = repr(settled(hidden=3, sweeps=7, weight_regulariser=1e-3 * pl.L1Norm()))
    assert text.startswith("ContrastiveTraining: 12 samples, 4 stages")
    assert all(part in text for part in ("Lifted(Tanh)", "L1Norm", "7 sweeps each", "{1: 200, 2: 20, 3: 2}"))


def test_weights_that_float32_cannot_hold_are_said():
    network = nn.Sequential(*[m for _ in range(9) for m in (nn.Linear(5, 5), nn.ReLU())], nn.Linear(5, 3))
    with pytest.warns(UserWarning, match="raise discount"):
        pl.ContrastiveTraining(network, X.float(), LABELS)


net = lambda: mlp(nn.ReLU())
BAD = [
    (lambda: pl.ContrastiveTraining(net(), X, LABELS, inner_sweeps=0), ValueError, "integer >= 1"),
    (lambda: pl.ContrastiveTraining(net(), X, LABELS, discount=0), ValueError, r"in \(0, 1\]"),
    (lambda: pl.ContrastiveTraining(net(), X, LABELS, discount=1.5), ValueError, r"in \(0, 1\]"),
    (lambda: pl.ContrastiveTraining(net(), X, LABELS, rho=-1), ValueError, "rho = -1"),
    (lambda: pl.ContrastiveTraining(net(), X, LABELS, rho={2: 0.0}), ValueError, "for layer 2"),
    (lambda: pl.ContrastiveTraining(mlp(nn.GELU()), X, LABELS), TypeError, "GELU.*no proximal map"),
    (lambda: pl.ContrastiveTraining(mlp(nn.SELU()), X, LABELS), TypeError, "SELU.*no proximal map"),
    (lambda: pl.ContrastiveTraining(net(), X, torch.rand(12, 3, dtype=torch.float64), loss="kullback_leibler"), ValueError, "Lipschitz bound|z > 0"),
    (lambda: pl.ContrastiveTraining(net(), X, LABELS + 1), ValueError, "labels from 1 to 3"),
    (lambda: pl.ContrastiveTraining(net(), X[:5], LABELS), ValueError, "5 inputs and 12 targets"),
    (lambda: pl.ContrastiveTraining("net", X, LABELS), TypeError, "torch.nn.Module"),
    (lambda: pl.ContrastiveTraining(net(), X, LABELS, penalty="bregman"), TypeError, "penalty"),
    (lambda: pl.SAGA().solve(pl.ContrastiveTraining(net(), X, LABELS)), TypeError, "cannot solve ContrastiveTraining"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, text = BAD[case]
    with pytest.raises(error, match=text):
        call()

"""Layers and activations of torch as parts of a lifted network."""

import copy
import warnings

import pytest
import torch
from torch import nn

import paralift as pl
from paralift.problems.activations import potential_of

torch.manual_seed(0)
LABELS = torch.arange(12) % 3
ROWS, SIGNALS, IMAGES = (torch.randn(12, *s, dtype=torch.float64) for s in ((5,), (2, 8), (2, 6, 6)))
WORDS = torch.randint(7, (12, 4))


def layers():
    torch.manual_seed(1)
    return {
        "Conv1d": (SIGNALS, [nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)]),
        "ConvTranspose2d": (IMAGES, [nn.Conv2d(2, 3, 3, stride=2), nn.Tanh(), nn.ConvTranspose2d(3, 2, 3, stride=2), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(50, 3)]),
        "BatchNorm1d": (ROWS, [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)]),
        "BatchNorm2d": (IMAGES, [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(27, 3)]),
        "LayerNorm": (SIGNALS, [nn.LayerNorm(8), nn.Linear(8, 4), nn.Tanh(), nn.LayerNorm(4), nn.Flatten(), nn.Linear(8, 3)]),
        "MaxPool2d": (IMAGES, [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)]),
        "AvgPool2d": (IMAGES, [nn.Conv2d(2, 3, 3), nn.AvgPool2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 3)]),
        "Dropout": (ROWS, [nn.Linear(5, 6), nn.ReLU(), nn.Dropout(0.5, inplace=True), nn.Linear(6, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 3)]),
        "Embedding": (WORDS, [nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)]),
        "Embedding alone": (WORDS, [nn.Embedding(7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)]),
        "TransformerEncoderLayer": (SIGNALS, [nn.Linear(8, 4), nn.Tanh(), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(8, 3)]),
        "GRU": (SIGNALS, [Last(nn.GRU(8, 4, batch_first=True)), nn.ReLU(), nn.Linear(4, 3)]),
        "SELU": (ROWS, [nn.Linear(5, 6), nn.SELU(inplace=True), nn.Linear(6, 4), nn.SELU(), nn.Linear(4, 3)]),
        "Softmin": (ROWS, [nn.Linear(5, 6), nn.Softmin(1), nn.Linear(6, 4), nn.Softmin(-1), nn.Linear(4, 3)]),
        "softmax of channels": (IMAGES, [nn.Conv2d(2, 3, 3), nn.Softmax(1), nn.Conv2d(3, 3, 3), nn.Softmax2d(), nn.Flatten(), nn.Linear(12, 3)]),
    }


class Last(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(x)[0][:, -1]


def problem_of(name, **options):
    inputs, modules = layers()[name]
    return pl.LiftedTraining(nn.Sequential(*modules).double(), inputs, LABELS, **options)


@pytest.mark.parametrize("name", layers())
def test_gradients_training_and_repetition(name):
    """Gradients by finite differences; an epoch of explicit and of implicit steps is finite, moves every trained parameter, and repeats bit for bit."""
    problem = problem_of(name)
    pl.testing.check_problem(problem)
    for solver in (pl.ISGM(epochs=1, batch_size=4, step=1e-2), pl.ISGM(epochs=1, batch_size=6, step=0.3, sweeps=2, metric="plain")):
        result, again = solver.solve(problem), solver.solve(problem_of(name))
        before, after = problem.start_theta(), dict(result.network.named_parameters())
        assert all(torch.isfinite(p).all() for p in after.values()) and any(not torch.equal(after[k], v) for k, v in before.items())
        assert all(torch.equal(v, again.network.state_dict()[k]) for k, v in result.network.state_dict().items())


@pytest.mark.parametrize("name", [n for n in layers() if n not in ("Dropout", "TransformerEncoderLayer")])
def test_the_stages_are_the_network(name):
    problem = problem_of(name)
    inputs, modules = layers()[name]
    point = problem.start()
    z = problem.stages[-1].forward(point[f"x{problem.depth - 1}"], point)
    assert torch.allclose(z, nn.Sequential(*modules).double().train()(inputs), atol=1e-12)


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d"])
@pytest.mark.parametrize("sweeps", [1, 2])
def test_running_statistics_are_those_of_one_forward_pass_a_minibatch(name, sweeps):
    """With a step of almost zero the parameters stay: then the buffers are torch's after one forward pass of every minibatch, in the solver's order."""
    problem = problem_of(name)
    result = pl.ISGM(epochs=2, batch_size=4, step=1e-14, sweeps=sweeps, metric="plain", seed=3).solve(problem)
    inputs, modules = layers()[name]
    plain = nn.Sequential(*modules).double().train()
    for epoch in range(2):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3 * 1_000_003 + epoch))
        for batch in order.split(4):
            plain(inputs[batch])
    for (key, ours), theirs in zip(result.network.named_buffers(), plain.buffers()):
        assert torch.allclose(ours, theirs, rtol=1e-10), key


def test_dropout_is_drawn_once_a_subproblem():
    problem = problem_of("Dropout")
    theta = problem.start_theta()
    a, b, c = (problem.restrict(slice(0, 6), theta, 1.0, seed=s) for s in (1, 1, 2))
    x = {k: sub.forward(theta) for k, sub in zip("abc", (a, b, c))}
    assert torch.equal(x["a"]["x2"], x["b"]["x2"]) and torch.equal(x["a"]["x2"], a.forward(theta)["x2"]) and not torch.equal(x["a"]["x2"], x["c"]["x2"])
    assert torch.equal(x["a"]["x1"], x["c"]["x1"])                       # a module that works in place leaves the unknown alone


PROXIMAL = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.1), nn.LeakyReLU(0.0), nn.ReLU6(), nn.Hardtanh(), nn.Softshrink(0.1), nn.Tanh(), nn.Sigmoid(), nn.Softplus(),
            nn.Softmax(-1), nn.Softmax(1), nn.ELU(), nn.ELU(0.5), nn.CELU(), nn.CELU(2.0), nn.Hardsigmoid(), nn.LogSigmoid()]


@pytest.mark.parametrize("activation", PROXIMAL, ids=str)
def test_proximal_activations_train(activation):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(5, 8), activation, nn.Linear(8, 3)).double()
    z = torch.randn(4, 8, dtype=torch.float64)
    assert torch.equal(pl.operators.activation(potential_of(activation), z), copy.deepcopy(activation)(z.clone()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = pl.LiftedTraining(network, ROWS, LABELS, validation=(ROWS, LABELS))
        for sweeps, metric, step in ((1, "adam", 0.02), (3, "plain", 1.0)):
            history = pl.ISGM(epochs=15, batch_size=6, sweeps=sweeps, metric=metric, step=step).solve(problem).history
            assert history["validation_loss"][-1] < history["validation_loss"][0] - 1e-3
    pl.testing.check_problem(problem)


def stack(*activations):
    parts = [m for a in activations for m in (nn.Linear(5, 5), a)]
    return nn.Sequential(*parts, nn.Linear(5, 3)).double()


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(inplace=True), nn.Mish(), nn.ELU(1.5), nn.LeakyReLU(1.5), nn.Hardswish()], ids=lambda a: type(a).__name__)
def test_other_activations_get_mac_and_one_warning(activation):
    name = type(activation).__name__
    with pytest.warns(UserWarning, match=f"{name}.*no proximal map") as caught:
        problem = pl.LiftedTraining(stack(activation, nn.ReLU(), activation), ROWS, LABELS)
    assert len(caught) == 1 and str(caught[0].message).count(f"({name})") == 2 and caught[0].filename == __file__
    assert [type(s.penalty) for s in problem.stages] == [pl.MAC, pl.LiftedBregman, pl.MAC, type(None)] and name in repr(problem)
    pl.testing.check_problem(problem)
    history = pl.ISGM(epochs=10, batch_size=6, step=0.02).solve(problem).history
    assert history["objective"][-1] < history["objective"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pl.LiftedTraining(stack(activation), ROWS, LABELS, penalty="mac")      # asked for: nothing to say


class Wrapped(nn.Module):
    """A chain behind a forward of its own, so that its graph is found."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, x):
        return self.chain(x)


@pytest.mark.parametrize("wrap", [lambda m: m, Wrapped], ids=["chain", "graph"])
def test_activations_that_are_others_in_disguise(wrap):
    network = wrap(stack(nn.Softmin(-1), nn.Hardsigmoid(), nn.LogSigmoid()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = pl.LiftedTraining(network, ROWS, LABELS)
    assert [type(s.penalty.potential) for s in problem.stages[:-1]] == [pl.Softmax, pl.HardSigmoid, pl.LogSigmoid]
    point = problem.start()
    assert torch.allclose(problem.stages[-1].forward(point["x3"], point), network(ROWS))


def test_selu_gets_fenchel():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = problem_of("SELU", rho={1: 20.0, 2: 5.0})
    assert all(isinstance(s.penalty, pl.Fenchel) for s in problem.stages[:-1])
    network = nn.Sequential(*layers()["SELU"][1]).double()
    point = problem.start()
    assert abs(float(problem.value(point)) - float(nn.functional.cross_entropy(network(ROWS), LABELS).detach())) < 1e-12    # zero at consistency
    sub = problem.restrict(slice(0, 12), problem.start_theta(), tau=10.0)
    values = [float(sub.implicit_energy(sub.anchor, 10.0, k)) for k in (1, 2, 4, 8)]
    assert all(b <= a + 1e-12 for a, b in zip(values, values[1:]))


def test_selu_and_large_rho_is_not_back_propagation():
    """sigma(z - g/rho) - sigma(z) is -sigma'(z) g / rho: one sweep tends to the gradient for any slope."""
    network = nn.Sequential(*layers()["SELU"][1]).double()
    _, gradient = (problem := problem_of("SELU", rho=1e6)).explicit_gradient(problem.start_theta())
    nn.functional.cross_entropy(network(ROWS), LABELS).backward()
    for name, p in network.named_parameters():
        assert (gradient[name] - p.grad).norm() <= 1e-4 * p.grad.norm() + 1e-9, name

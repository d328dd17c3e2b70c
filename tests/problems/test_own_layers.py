"""A user's own layers and activations inside a lifted network: gradients, the limit of back-propagation, training. A new kind is one line in NETWORKS."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import paralift as pl
from paralift.operators.linear_function import linear_function

torch.manual_seed(0)
INPUTS, LABELS = torch.randn(12, 8, dtype=torch.float64), torch.arange(12) % 3


class Circulant(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(1, n) / n**0.5), nn.Parameter(torch.zeros(n))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(self.weight) * torch.fft.rfft(x), n=x.shape[-1]) + self.bias


class LowRank(nn.Module):
    """U V x: bilinear in its parameters."""

    def __init__(self, inputs, rank, outputs):
        super().__init__()
        self.U, self.V = nn.Parameter(torch.randn(outputs, rank) / rank**0.5), nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)

    def forward(self, x):
        return x @ self.V.T @ self.U.T


class Measured(nn.Module):
    """w A* A x, A a fixed operator of ours."""

    def __init__(self):
        super().__init__()
        self.operator, self.weight = pl.Convolution(torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64), pl.Space((8,), torch.float64)), nn.Parameter(torch.ones(1, 1))

    def forward(self, x):
        return self.weight * self.operator.adjoint(self.operator(x))


class Foreign(nn.Module):
    """A matrix that numpy applies, then a trained scale."""

    def __init__(self):
        super().__init__()
        self.matrix, self.scale = np.random.default_rng(0).normal(size=(8, 8)), nn.Parameter(torch.ones(8))

    def forward(self, x):
        apply = lambda M: lambda v: torch.as_tensor(v.detach().numpy() @ M.T)
        return self.scale * linear_function(x, apply(self.matrix), apply(self.matrix.T))


class PairThreshold(pl.Functional):
    """a sum |pair of units|: coordinates are coupled."""

    def _value(self, x):
        return self._sum(0.2 * x.unflatten(-1, (-1, 2)).norm(dim=-1))

    def _prox(self, x, sigma):
        pairs = x.unflatten(-1, (-1, 2))
        sigma = sigma.expand_as(x).unflatten(-1, (-1, 2))[..., :1] if torch.is_tensor(sigma) and sigma.dim() else sigma
        return (pairs * (1 - 0.2 * sigma / pairs.norm(dim=-1, keepdim=True).clamp(min=1e-30)).clamp(min=0)).flatten(-2)


class Skip(nn.Module):
    """Found by torch.export: a layer and an activation of one's own, used twice, beside a skip."""

    def __init__(self):
        super().__init__()
        self.layer, self.act, self.out = Circulant(8), pl.networks.chain(PairThreshold()), nn.Linear(8, 3)

    def forward(self, x):
        x = x + self.act(self.layer(x))
        return self.out(x + self.act(self.layer(x)))


NETWORKS = {
    "circulant": lambda: nn.Sequential(Circulant(8), nn.Tanh(), Circulant(8), nn.ReLU(), nn.Linear(8, 3)),
    "low rank": lambda: nn.Sequential(LowRank(8, 2, 6), nn.Tanh(), nn.Linear(6, 3)),
    "operator inside": lambda: nn.Sequential(Measured(), nn.ReLU(), nn.Linear(8, 3)),
    "numpy inside": lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), Foreign(), nn.ReLU(), nn.Linear(8, 3)),
    "own activation": lambda: pl.networks.chain(pl.affine(8, 6), PairThreshold(), pl.affine(6, 3)),
    "trained activation": lambda: nn.Sequential(nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
    "graph": Skip,
}


def problem_of(name, **options):
    torch.manual_seed(1)
    return pl.LiftedTraining(NETWORKS[name]().double(), INPUTS, LABELS, **options)


def test_the_activation_is_the_prox_of_its_potential():
    points = 2 * torch.randn(6, 8, dtype=torch.float64)
    pl.testing.check_functional(PairThreshold(), points=points)
    for penalty in (pl.LiftedBregman, pl.Lifted, pl.Fenchel, pl.MAC):
        pl.testing.check_penalty(penalty(PairThreshold()), points=points)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("penalty", ["bregman", "mac", "lifted"])
def test_gradients_of_the_lifted_objective(name, penalty):
    pl.testing.check_problem(problem_of(name, penalty=penalty))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_sweep_tends_to_back_propagation(name):
    problem = problem_of(name, rho=1e7)
    network = copy.deepcopy(problem.network)
    loss, gradient = problem.explicit_gradient(problem.start_theta())
    reference = nn.functional.cross_entropy(network(INPUTS), LABELS)
    reference.backward()
    assert torch.isclose(loss, reference)
    for key, p in network.named_parameters():
        assert (gradient[key] - p.grad).norm() < 1e-5 * p.grad.norm(), key


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("solver", [lambda: pl.ISGM(20, batch_size=4, step=1e-2), lambda: pl.ISGM(5, batch_size=4, sweeps=2, metric="plain", step=1.0),
                                    lambda: pl.PGD(40)], ids=["sweep", "implicit", "all samples"])
def test_training_lowers_the_loss(name, solver):
    problem = problem_of(name)
    before = float(problem.mean_loss(problem.start_theta()))
    result = solver().solve(problem, progress=False)
    assert result.success and float(problem.mean_loss(result.x)) < 0.97 * before


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trained_module_is_the_users(name):
    problem = problem_of(name)
    result = pl.ISGM(2, batch_size=4).solve(problem, progress=False)
    assert type(result.network) is type(NETWORKS[name]()) and set(result.network.state_dict()) == set(problem.network.state_dict())
    assert torch.allclose(result.network(INPUTS), problem.predict(result.x, INPUTS))

import pytest
import torch

import paralift as pl

L1 = 0.1 * pl.L1Norm()
COMPOSE = [(pl.ReLU(), L1), (pl.SoftThreshold(0.3), L1), (pl.Identity(), L1), (pl.Clip(-0.5, 1.0), L1), (pl.LeakyReLU(0.2), L1), (pl.Tanh(), 1e-3 * pl.L1Norm()),
           (pl.Identity(), pl.IndicatorL2Ball(1.0)), (pl.Tanh(), pl.IndicatorBox(0.0, 0.5)), (pl.ReLU(), 0.2 * pl.L2Norm()), (pl.LeakyReLU(0.2), pl.IndicatorBox(-1.0, 0.5))]
REFUSED = [(pl.Sigmoid(), 1e-4 * pl.L1Norm()), (pl.LeakyReLU(0.2), pl.L2NormSquared()), (pl.Clip(-0.5, 1.0), pl.L2Norm()),
           (pl.Softmax(), L1), (pl.Clip(-0.5, 1.0), pl.IndicatorL2Ball(1.0))]


@pytest.mark.parametrize("f,g", COMPOSE, ids=repr)
def test_composed_prox_is_that_of_the_sum(f, g):
    joint = pl.JointProx(f, g)
    if not isinstance(f, pl.Tanh):
        pl.testing.check_functional(joint)
    z = torch.randn(5, 7)
    assert torch.allclose(joint._activation(z), joint.prox(z, 1.0 + 1e-6), atol=1e-5)
    pl.testing.check_penalty(pl.LiftedBregman(f).plus(g))


@pytest.mark.parametrize("f,g", REFUSED, ids=repr)
def test_others_are_refused(f, g):
    with pytest.raises(ValueError, match="not known"):
        pl.JointProx(f, g)


def test_the_order_matters():
    """A box, then shrinkage, is no prox of their sum: at 2 it gives 0.5, the minimiser is 1."""
    box, v = pl.Clip(-1.0, 1.0), torch.tensor([2.0])
    assert pl.L1Norm().prox(box.prox(v), 0.5) == 0.5 and pl.JointProx(box, 0.5 * pl.L1Norm()).prox(v) == 1


def net(activation):
    torch.manual_seed(1)
    return pl.networks.chain(pl.affine(5, 6), activation, pl.affine(6, 4), activation, pl.affine(4, 3)).double()


X, Y = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


@pytest.mark.parametrize("penalty", ["bregman", "mac", "lifted"])
def test_activation_regulariser_reaches_its_minimum(penalty):
    """PGD on x alone agrees with perturbation: no small move lowers E; nor does a larger one where E is convex in the x's."""
    activation = pl.Tanh() if penalty == "mac" else pl.SoftThreshold(0.1)              # MAC is smooth where the activation is
    problem = pl.LiftedTraining(net(activation), X, Y, penalty=penalty, activation_regulariser={1: L1, 2: L1}, frozen="*")
    point = pl.PGD(max_iterations=1000, acceleration="nesterov", tolerance=1e-10).solve(problem).x
    best, g = problem.value(point), torch.Generator().manual_seed(0)
    for l in (1, 2):
        S = problem.stages[l - 1].penalty.regulariser
        assert torch.allclose(problem.rho[l] * S(point[f"x{l}"]), L1(point[f"x{l}"]))
        for scale in (1e-3,) if penalty == "mac" else (1e-3, 1e-1):
            for _ in range(20):
                move = scale * torch.randn(point[f"x{l}"].shape, dtype=torch.float64, generator=g)
                assert problem.value({**point, f"x{l}": point[f"x{l}"] + move * (torch.rand(move.shape, generator=g) < 0.1)}) >= best - 1e-9
    pl.testing.check_problem(problem, point)


def test_palm_sweeps_descend_with_a_regulariser():
    problem = pl.LiftedTraining(net(pl.ReLU()), X, Y, activation_regulariser={1: 0.3 * pl.L1Norm()})
    theta = problem.start_theta()
    sub = problem.restrict(slice(0, 12), theta, tau=10.0)
    values = [float(sub.value(sub.forward(theta)))] + [float(sub.implicit_energy(theta, 10.0, sweeps)) for sweeps in (1, 2, 4, 8)]
    assert all(b <= a + 1e-12 for a, b in zip(values, values[1:]))


def test_a_regulariser_that_does_not_compose_is_refused_when_the_problem_is_built():
    with pytest.raises(ValueError, match=r"activation_regulariser\[2\].*indicator of a box"):
        pl.LiftedTraining(net(pl.Sigmoid()), X, Y, activation_regulariser={2: L1})
    with pytest.raises(ValueError, match="use LiftedBregman, MAC or Lifted"):
        pl.LiftedTraining(net(pl.ReLU()), X, Y, penalty=lambda psi: pl.Fenchel(psi, activation=torch.relu, slope=1.0), activation_regulariser={2: L1})


def test_either_part_may_say_the_space():
    box, norm = pl.Clip(torch.full((9,), -1.0), torch.linspace(0.5, 2, 9)), pl.WeightedL1Norm(torch.linspace(0, 1, 9))
    x = torch.linspace(-3, 3, 9)
    assert torch.equal(pl.JointProx(box, norm).prox(x, 0.7), pl.JointProx(norm, box).prox(x, 0.7))

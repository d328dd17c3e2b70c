"""A penalty of the user's own with `_value`, `_gradient_z` and `_prox_x`, nothing else, goes through every solver."""

import pytest
import torch

import paralift as pl


class HuberTie(pl.Penalty):
    """sum h(x - sigma(z)): finite for every x."""

    def __init__(self, potential, delta=0.3):
        super().__init__(potential)
        self.tie = delta * pl.Huber(delta)

    def _value(self, x, z):
        return self.tie._value(x - self.activation(z))

    def _gradient_z(self, x, z):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            s = self.activation(z)
        return torch.autograd.grad(s, z, -self.tie._gradient(x - s.detach()))[0]

    def _prox_x(self, v, z, tau):
        s = self.activation(z)
        return s + self.tie._prox(v - s, tau)


class Own(pl.Penalty):
    """The Bregman penalty written out: infinite where the potential is."""

    def _value(self, x, z):
        p = self.activation(z)
        return ((x - p) * (0.5 * (x + p) - z)).sum(-1) + self.potential(x) - self.potential(p)

    def _gradient_z(self, x, z):
        return self.activation(z) - x

    def _prox_x(self, v, z, tau):
        return self.potential._prox((v + tau * z) / (1 + tau), tau / (1 + tau))


(X, Y), (XT, YT) = pl.data.digits()


def problem(penalty, potential, samples=400, dtype=torch.float64):
    torch.manual_seed(0)
    network = pl.networks.chain(pl.affine(64, 32), potential, pl.affine(32, 10)).to(dtype)
    return pl.LiftedTraining(network, X[:samples].to(dtype), Y[:samples], penalty=penalty, validation=(XT.to(dtype), YT))


@pytest.mark.parametrize("potential", [pl.ReLU(), pl.Tanh()], ids=repr)
@pytest.mark.parametrize("penalty", [HuberTie, Own])
def test_three_methods_suffice(penalty, potential):
    pl.testing.check_penalty(penalty(potential))
    pl.testing.check_problem(problem(penalty, potential, 20))
    for solver in (pl.ISGM(epochs=10, batch_size=32, step=3e-3), pl.ISGM(epochs=4, batch_size=32, metric="plain", step=1.0, sweeps=3)):
        assert solver.solve(problem(penalty, potential)).history["accuracy"][-1] > 0.85
    for solver in (pl.PGD(max_iterations=40), pl.PGD(max_iterations=40, acceleration="nesterov"), pl.BCD(max_iterations=10)):
        objective = solver.solve(problem(penalty, potential)).history["objective"]
        assert objective[-1] < 0.95 * objective[0]


def test_arguments_of_a_factory_are_kept():
    built = problem(lambda psi: HuberTie(psi, 0.05), pl.ReLU())
    assert built.stages[0].penalty.tie.a == 0.05


def test_own_bregman_trains_as_the_library_does():
    ours, library = (pl.PGD(max_iterations=20).solve(problem(P, pl.ReLU())) for P in (Own, pl.LiftedBregman))
    assert abs(ours.objective - library.objective) < 1e-9


def test_a_regulariser_of_x_beside_an_own_penalty_is_refused():
    with pytest.raises(ValueError, match="penalty's own _value and _prox_x"):
        pl.LiftedTraining(torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)), X, Y, penalty=HuberTie,
                          activation_regulariser={1: pl.L1Norm()})

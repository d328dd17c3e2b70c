"""`ContrastiveTraining`: train a network by the difference of two minima over its layers' outputs, one with the loss and one without."""

import copy
import math

import torch
from torch import nn

from ..arguments import Count, Names, is_finite, shown
from ..notices import warn
from ..operators.functional import Functional
from ..operators.penalties import MAC, Fenchel, Penalty
from .activations import NO_PROX, potential_of
from .lifted import LiftedProblem
from .lifted_training import Data, LiftedTraining
from .losses import Loss
from .problem import Linearisation, Point, Problem

__all__ = ["ContrastiveProblem", "ContrastiveTraining"]


class _NoLoss(Loss):
    """0, the loss of the free phase."""

    lipschitz = 0.0

    def value(self, z, y):
        return z.new_zeros(len(z))

    def gradient(self, z, y):
        return torch.zeros_like(z)


class ContrastiveProblem(Problem):
    """F(theta) = min_x E(theta, x) - min_x [E(theta, x) without its loss] [+ |theta - anchor|^2 / (2 tau)], G = R(theta), on the samples of `lifted`, whose energy is E.

    The blocks are the parameters. Both minimisations start at the forward pass and take the same `inner_sweeps` sweeps with the same steps.
    """

    def __init__(self, lifted: LiftedProblem, regularisers: dict[str, Functional], inner_sweeps: Count):
        self.clamped, self.free = copy.copy(lifted), copy.copy(lifted)
        self.free.loss, self.free.anchor = _NoLoss(), None
        for phase in (self.clamped, self.free):
            phase.regularisers, phase._kept = {}, {}                 # R is no part of the phases
        self.regularisers, self.inner_sweeps = regularisers, inner_sweeps
        self.inputs, self.samples, self.theta_names = lifted.inputs, lifted.samples, lifted.theta_names
        self._settled: tuple = ((), None)

    def restrict(self, samples: torch.Tensor | slice, anchor: Point | None = None, tau: float = math.inf, seed: int = 0) -> "ContrastiveProblem":
        """The same problem on some samples (an index tensor or slice), with |theta - anchor|^2 / (2 tau) added."""
        return ContrastiveProblem(self.clamped.restrict(samples, anchor, tau, seed), self.regularisers, self.inner_sweeps)

    # ---- the two phases
    def settle(self, theta: Point, update_buffers: bool = False) -> tuple[Point, Point]:
        """(clamped point, free point): theta with the layers' outputs of the two phases. Kept until theta changes."""
        key = [(t, t._version) for t in theta.values()]
        old, points = self._settled
        if update_buffers or len(old) != len(key) or any(a is not b or i != j for (a, i), (b, j) in zip(old, key)):
            forward = self.clamped.forward(theta, update_buffers)
            bounds = self.clamped.lipschitz(forward, [name for name in forward if name not in theta])
            points = self._minimise(self.clamped, forward, bounds), self._minimise(self.free, forward, bounds)
            self._settled = (key, points)
        return points

    def _minimise(self, phase, forward, bounds):
        """Backward sweeps of mirror descent in phi, x_l = sigma(u_l): u_l <- u_l + ( (rho_l/n) (x_l - u_l) - dF/dx_l ) / L_l, which needs no prox but sigma."""
        point, hidden = dict(forward), [stage for stage in reversed(phase.stages) if stage.index < phase.depth]
        u = {stage.index: phase._z(stage, point) for stage in hidden}
        for _ in range(self.inner_sweeps):
            for stage in hidden:
                l, name = stage.index, f"x{stage.index}"
                gradient = phase.linearise(point, (name,)).gradient[name]
                u[l] = u[l] + (phase.rho[l] / phase.samples * (point[name] - u[l]) - gradient) / bounds[name]
                point[name] = stage.penalty._minimiser(u[l].clone())
        return point

    # ---- the contract
    def start_theta(self) -> Point:
        return self.clamped.start_theta()

    def start(self):
        """The anchor, or the initial parameters; normalisation buffers move here, once."""
        theta = self.start_theta()
        self.settle(theta, update_buffers=True)
        return theta

    def smooth_value(self, point, blocks=None):
        clamped, free = self.settle(point)
        return self.clamped.value(clamped) - self.free.value(free)

    def linearise(self, point, blocks=None):
        clamped, free = self.settle(point)
        names = [name for name in self.theta_names if blocks is None or name in blocks]
        gradient, other = self.clamped.linearise(clamped, names).gradient, self.free.linearise(free, names).gradient
        return Linearisation(self.smooth_value(point), {name: gradient[name] - other[name] for name in names})

    def nonsmooth_value(self, point: Point) -> torch.Tensor:
        first = next(iter(point.values()))
        return sum((R(point[name]) for name, R in self.regularisers.items()), first.new_zeros(()))

    regularisation = nonsmooth_value

    def prox(self, point, steps):
        return {name: self.regularisers[name]._prox(v, steps[name]) if name in self.regularisers else v for name, v in point.items()}

    def lipschitz(self, point, blocks=None):
        """The bounds of the clamped energy at its x. What is subtracted is convex in theta_1 and without theta_L: for these they hold; else they are estimates, so backtrack."""
        return self.clamped.lipschitz(self.settle(point)[0], [name for name in self.theta_names if blocks is None or name in blocks])

    def sweep_order(self):
        return [group for group in self.clamped.sweep_order() if group[0] in self.theta_names]

    # ---- minibatches
    def loss_at(self, theta: Point) -> torch.Tensor:
        """F at theta without the proximal term."""
        return self.smooth_value(theta) - (0 if self.clamped.anchor is None else self.clamped.proximity(theta))

    def explicit_gradient(self, theta: Point) -> tuple[torch.Tensor, Point]:
        """(F, {name: dF/dname}); normalisation buffers move here, once."""
        self.settle(theta, update_buffers=True)
        lin = self.linearise(theta)
        return lin.value, lin.gradient

    def implicit_step(self, theta: Point, tau: float, sweeps: int) -> tuple[torch.Tensor, Point]:
        """(F, {name: (theta - theta+) / tau}) with theta+ from `sweeps` steps on F + R; a step minimises the clamped energy's quadratic bound in theta at the settled x,
        which is sharp for hidden linear layers, less the tangent of the free minimum."""
        loss, _ = self.explicit_gradient(theta)
        point = dict(theta)
        for _ in range(sweeps):
            gradient, clamped = self.linearise(point).gradient, self.settle(point)[0]
            for group in self.sweep_order():
                solve = None if any(name in self.regularisers for name in group) else self.clamped.majoriser(clamped, group)
                if solve is None:
                    bounds = self.clamped.lipschitz(clamped, group)
                    new = self.prox({name: point[name] - gradient[name] / bounds[name] for name in group}, {name: 1 / bounds[name] for name in group})
                else:
                    new = {name: point[name] - change for name, change in solve({name: gradient[name] for name in group}).items()}
                point.update(new)
        return loss, {name: (theta[name] - point[name]) / tau for name in self.theta_names}


class ContrastiveTraining(ContrastiveProblem):
    """min over theta of J(theta) + R(theta), J the difference of a clamped and a free minimum over the outputs x = (x_1, .., x_{L-1}) of all hidden layers:

        J(theta) = (1/n) sum_i { min_x [ loss(z_L, y) + U(x) ] - min_x U(x) },      U(x) = sum_{l<L} rho_l ( |x_l - z_l|^2/2 + Psi_l(x_l) ) + S_l(x_l)
        dJ/dtheta_l = (1/n) sum_i rho_l J_l* [ (z_l - x_l) of the clamped minimiser - (z_l - x_l) of the free one ],      J_l = dz_l/dtheta_l

    By the envelope theorem neither a minimiser nor an activation is differentiated. With affine layers and a convex loss both minima are strongly convex in x, so this
    gradient exists everywhere. With one hidden layer the free minimiser is the forward pass, and J is the lifted Bregman objective minimised over x. With more, x_{l+1} pulls
    at x_l, and what is trained is the free minimiser; it tends to the forward pass as rho_{l+1}/rho_l -> 0 (`discount`). The history's "free_distance" is their relative distance.

    As a function of theta and both x this is a min-max problem, without descent; so a solver sees theta alone, and both x are found inside, as functions of theta. Which methods
    apply: ISGM on minibatches; PGD and BCD on all samples, which lower J (as computed with `inner_sweeps` sweeps), and FISTA without its theorem. SGD, SAGA, SVRG and Katyusha,
    which use the gradients of single samples, refuse it: such a gradient is a difference between two points, each to be settled anew.

    Parameters
    ----------
    network, inputs, targets, loss, weight_regulariser, activation_regulariser, frozen, validation : as in `LiftedTraining`. Every activation must be a proximal map;
        the loss needs a slope bound; S_l = activation_regulariser[l] is part of both minima.
    rho : weight of the last hidden layer, the ones before it being rho_l = rho_{l+1} / discount; or {l: number}, which leaves discount out. 1/rho is the nudging strength of
        equilibrium propagation: as rho grows, J tends to the loss at the free minimiser.
    discount : in (0, 1].
    inner_sweeps : backward sweeps of each minimisation, two products a layer each. After a few the gradient is damped, in the first layers most; with more it tends to dJ/dtheta.

    Raises ValueError/TypeError in a sentence where something does not fit, before any work; warns where float32 cannot hold the weights' range.
    Sources: Zach & Estellers, BMVC 2019, 163; Scellier & Bengio, Front. Comput. Neurosci. 11, 2017 (the limit). Proofs: doc/theory.md.
    """

    def __init__(self, network: nn.Module, inputs: Data, targets: Data | None = None, loss: str | Functional | Penalty | Loss = "cross_entropy",
                 weight_regulariser: Functional | dict[str, Functional] | None = None, activation_regulariser: dict[int, Functional] | None = None,
                 rho: float | dict[int, float] = 2.0, discount: float = 0.1, inner_sweeps: Count = 5, frozen: Names = (), validation: Data | None = None):
        if not 0 < discount <= 1:
            raise ValueError(f"ContrastiveTraining got discount={discount!r}; it needs a number in (0, 1], by which the weights fall from layer to layer.")
        if not isinstance(rho, dict) and not (is_finite(rho) and rho > 0):
            raise ValueError(f"rho = {shown(rho)} was given; a penalty weight needs a positive finite number.")
        for name, module in network.named_modules() if isinstance(network, nn.Module) else ():
            if isinstance(module, NO_PROX) and potential_of(module) is None:
                raise TypeError(f"layer {name} ({type(module).__name__}) was given, which is no proximal map that we know, so it has no energy; "
                                "take Softplus, ELU, ReLU or LeakyReLU, or LiftedTraining, which gives it the MAC penalty.")
        weights = rho if isinstance(rho, dict) else lambda depth: {l: rho / discount ** (depth - 1 - l) for l in range(1, depth)}
        self.training = training = LiftedTraining(network, inputs, targets, loss, "lifted", weight_regulariser, activation_regulariser, weights, frozen, validation)
        if any(isinstance(stage.penalty, (MAC, Fenchel)) for stage in training.stages):
            raise TypeError("the network calls an activation that is no proximal map that we know, so it has no energy; take softplus, elu, relu or leaky_relu, or LiftedTraining.")
        if not math.isfinite(training.loss.lipschitz):
            raise ValueError(f"loss={loss!r} was given, whose gradient has no Lipschitz bound; the clamped minimisation needs one: "
                             "use LiftedTraining with PGD(step='backtracking').")
        largest, dtype = max(training.rho.values(), default=0.0), next(iter(training.initial.values())).dtype
        if largest * torch.finfo(dtype).eps > 1:
            warn(f"the largest weight rho is {largest:.1e}; {dtype} rounds the differences that it multiplies: raise discount (now {discount}), "
                          "or use float64.")
        super().__init__(training.restrict(slice(None)), training.regularisers, inner_sweeps)

    def start(self):
        return self.training.start_theta()

    def start_theta(self) -> Point:
        return self.training.start_theta()

    def buffers(self) -> Point:
        return self.training.buffers()

    def set_buffers(self, buffers: Point) -> None:
        self.training.set_buffers(buffers)

    # ---- what the user sees
    def metrics(self, point):
        """Validation loss and accuracy of the forward network; how far the free x is from the forward pass, on the first 128 samples."""
        columns, part = self.training.metrics(point), self.restrict(slice(0, 128))
        forward, free = part.free.forward(point), part.settle(point)[1]
        distances = [float((free[name] - x).norm() / x.norm().clamp(min=1e-30)) for name, x in forward.items() if name not in point]
        return {**columns, "free_distance": max(distances, default=0.0)}

    def finish(self, point):
        return self.training.finish(point)

    def __repr__(self):
        weights = ", ".join(f"{l}: {value:.3g}" for l, value in self.training.rho.items())
        inside = f"  x is found inside, once clamped and once free: {self.inner_sweeps} sweeps each from the forward pass; rho {{{weights}}}"
        return "\n".join([*self.training._table("ContrastiveTraining"), inside])

"""`LiftedInversion`: the input of a trained network from its noisy output."""

import copy
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..arguments import Integers
from ..operators.dual_prox import DualProx, variations
from ..operators.functional import Functional
from ..operators.module import copied
from ..operators.norms import ZeroFunctional
from ..operators.penalties import MAC, LiftedBregman, Penalty
from ..operators.penalty_term import PenaltyTerm
from ..operators.space import Space, all_finite
from .activations import NO_PROX, potential_of
from .composite import Composite
from .conv_adjoint import conv_adjoint
from .convexity import AffinePart, Convexity, convexity, is_affine
from .cut import leaves_of
from .finite_sum import take
from .input_sweep import InputSweep
from .lift import lift
from .lifted import LiftedProblem, check_names
from .lifted_training import LiftedTraining
from .losses import Loss, PenaltyLoss, SquaredError, loss_from
from .problem import Point
from .stages import Stage, bind_spaces

__all__ = ["LiftedInversion"]


class LiftedInversion(InputSweep, LiftedProblem):
    """min over x_0, .., x_{L-1} of (1/n) sum_i [ D(z_L, y) + sum_{0<l<L} rho_l P_l(x_l, z_l) + alpha R(x_0) + C(x_0) ], z_l = A_l(x_{l-1}), the parameters theta fixed.

    Blocks "x0" (the inputs), "x1", .. of n samples; the parameters lie in the point beside them and never move. `result.solution` holds the inputs x_0.

    Parameters
    ----------
    network : torch.nn.Module of one input and one output; used in evaluation mode, as a copy.
    output : (n, ...), what the network gave, with noise, samples on the first axis.
    regulariser : R with a prox (TotalVariation(), L1Norm(), ..), or of terms f @ K whose joint prox is found on the dual (`DualProx`), or smooth: HuberTotalVariation(0.02),
        and other smooth ones without a closed prox beside C, count to F, so that a step costs a gradient and no inner iteration. On one sample's input, of which total
        variation takes the last two axes as the image. None for none.
    constraint : C, a Functional with a prox such as IndicatorBox(0, 1), or None.
    weight : alpha >= 0.
    penalty : of the hidden layers, as in `LiftedTraining`.
    fidelity : D. "bregman": the last layer's own penalty P_L(y, z_L) (|z_L - y|^2 / 2 where the network ends in no activation), or a name, Functional or Loss as `LiftedTraining`'s
        loss, after the last activation, whose output is an unknown then; "squared_error" where noise fell on outputs that the activation had cut to a constant.
    rho : weight of the hidden penalties, a number, {l: number} (1 elsewhere) or a function L -> {l: number}.
    shape : of one input; taken from `start`, from R's space or from a first nn.Linear where left out.
    start : "backprojection", t J* (y - N(0)), J the derivative of the network N at 0 and t by least squares; "zeros"; or the inputs (n, *shape). Hidden x start at the
        forward pass.

    One affine layer makes it convex, and any solver serves: PDHG, ADMM and SPDHG take R in terms f @ K, and B(y, A .) by its prox where the source takes gradient steps,
    their objective being the sum over the samples; FISTA, PGD and BCD take R by its prox. With more layers ImplicitGradient was the fastest on images; BCD (with Nesterov's
    inertia), PGD and FISTA (without its theorem) minimise the lifted energy; `convexity()` says whether it is convex still. Raises TypeError/ValueError in a sentence before any
    work: activations that are no proximal maps (unless penalty="mac"), outputs outside the last activation's range, NaN, wrong shapes.
    Source: Wang & Benning, Front. Appl. Math. Stat. 9:1176850, 2023.
    """

    lowest, normalised, convex = 0, False, False

    def __init__(self, network: nn.Module, output: torch.Tensor, regulariser: Functional | None = None, penalty: str | Callable[[Functional], Penalty] | dict[str, Any] = "bregman",
                 weight: float = 1.0, fidelity: str | Functional | Penalty | Loss = "bregman", rho: float | dict[int, float] | Callable[[int], dict[int, float]] = 1.0,
                 constraint: Functional | None = None, shape: Integers | None = None, start: str | torch.Tensor = "backprojection"):
        if not isinstance(network, nn.Module):
            raise TypeError(f"LiftedInversion got {type(network).__name__} as its network; it needs a torch.nn.Module, for instance torch.nn.Sequential(...).")
        if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ValueError(f"LiftedInversion got weight={weight!r}; it needs a number >= 0.")
        if penalty not in ("mac", MAC):
            _need_prox(f"layer {name} ({type(m).__name__})" for name, m in network.named_modules() if isinstance(m, NO_PROX) and potential_of(m) is None)
        self.network = copied(network).eval().requires_grad_(False)
        initial = {name: p.detach() for name, p in self.network.named_parameters()}
        check_names(initial)
        bad = [name for name, p in initial.items() if not all_finite(p)]
        if bad:
            raise ValueError(f"the network's parameters {bad} hold NaN or inf; load other weights.")
        like = next(iter(initial.values()), output)
        output = _checked(output, like, "output")
        given = self._input_shape(self.network, shape, start, regulariser)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no proximal map that we know")
            stages = lift(self.network, torch.zeros(2, *given, dtype=like.dtype, device=like.device), penalty=penalty)
        if penalty not in ("mac", MAC):
            _need_prox(f"layer {s.label}" for s in stages if isinstance(s.penalty, MAC) and s.penalty.map is not None)
        last, loss = stages[-1].penalty, None
        if fidelity == "bregman":
            stages[-1].penalty = None
        elif last is not None:
            stages.append(Stage(len(stages) + 1, nn.Identity(), {}, None))
        z = bind_spaces(stages, torch.zeros(2, *given, dtype=like.dtype, device=like.device), initial)
        if output.shape[1:] != z.shape[1:]:
            raise ValueError(f"LiftedInversion got an output of shape {tuple(output.shape)}; inputs of shape {tuple(given)} give (n, {', '.join(map(str, z.shape[1:]))}), "
                             "n samples on the first axis.")
        if fidelity == "bregman" and last is not None:
            loss = PenaltyLoss(last.on(stages[-1].elements))
            values = loss.value(torch.zeros_like(output), output)
            if not torch.isfinite(values).all():
                raise ValueError(f"the output, with values from {float(output.min()):.4g} to {float(output.max()):.4g}, lies outside the range of the last activation, "
                                 f"{loss.penalty.potential!r}; project it there (potential.prox(output)), or use fidelity='squared_error'.")
        else:
            loss = SquaredError() if fidelity == "bregman" else loss_from(fidelity, last)
            loss.check(z[:1].expand(len(output), *z.shape[1:]), output)
        inputs = self._start_inputs(start, output, given, like)
        super().__init__(stages, loss, inputs, output, LiftedTraining._rho(rho, len(stages), 1.0), {}, {}, initial, initial=initial)
        self.weight, self._maps, self._norms, self._spectra, self._still = float(weight), {}, {}, {}, set()
        self._first = next(stage for stage in stages if 0 in stage.parents)
        self.regulariser, self.constraint = self._bound(regulariser, constraint)
        start = self.start()
        self._still = {stage.index for stage in stages if is_affine(stage, start)}
        self.affine, self._kept = len(self._still) == self.depth, {}
        self.convex = self.depth == 1 and self.affine and loss.convex and all(f.convex for f in (self.regulariser, self.constraint) if f is not None)

    # ---- what was given
    @staticmethod
    def _input_shape(network, shape, start, regulariser):
        if torch.is_tensor(start):
            found = tuple(start.shape[1:])
        elif shape is not None:
            found = (shape,) if isinstance(shape, int) else tuple(shape)
        elif getattr(regulariser, "space", None) is not None:
            found = regulariser.space.shape
        else:
            first = (leaves_of(network) or [("", None)])[0][1]
            if not isinstance(first, nn.Linear):
                raise ValueError("LiftedInversion got no shape of the input, and this network takes several; pass shape=(1, 28, 28), for instance, or start=.")
            found = (first.in_features,)
        if shape is not None and found != ((shape,) if isinstance(shape, int) else tuple(shape)):
            raise ValueError(f"LiftedInversion got a start of shape {(len(start), *found)} and shape={shape}; make them agree, or leave shape out.")
        return found

    def _start_inputs(self, start, output, shape, like):
        if torch.is_tensor(start):
            start = _checked(start, like, "start")
            if len(start) != len(output):
                raise ValueError(f"LiftedInversion got {len(start)} starts and {len(output)} outputs; every sample needs one of each.")
            return start.clone()
        if start not in ("zeros", "backprojection"):
            raise ValueError(f"LiftedInversion got start={start!r}; choose 'backprojection', 'zeros', or pass the inputs as a tensor.")
        zeros = torch.zeros(len(output), *shape, dtype=like.dtype, device=like.device)
        if start == "zeros":
            return zeros
        with torch.enable_grad():
            u = zeros.clone().requires_grad_()
            z = self.network(u)
            v = torch.zeros_like(z, requires_grad=True)
            back = torch.autograd.grad(z, u, v, create_graph=True)[0]
        r = output - z.detach()
        g = torch.autograd.grad(z, u, r, retain_graph=True)[0]
        Jg = torch.autograd.grad(back, v, g)[0]                   # back is linear in v: J by its adjoint's adjoint
        t = (r * Jg).flatten(1).sum(1) / Jg.square().flatten(1).sum(1).clamp(min=torch.finfo(like.dtype).tiny)
        return t.clamp(min=0).view(-1, *[1] * len(shape)) * g

    def _bound(self, R, C):
        """R and C on the space of one input; total variation without a space of its own acts on the last axes. Sets what G holds of x_0."""
        self.space = Space(tuple(self.inputs.shape[1:]), self.inputs.dtype, self.inputs.device)
        for name, f in (("regulariser", R), ("constraint", C)):
            if f is not None and not isinstance(f, Functional):
                raise TypeError(f"LiftedInversion got {f!r} as its {name}; it needs a Functional, such as TotalVariation().")
        if C is not None and not C.has_prox:
            raise TypeError(f"LiftedInversion got {C!r} as its constraint; it needs a functional with a prox, such as IndicatorBox(0, 1).")
        n = self.space.ndim
        if R is not None and R.space is None and 1 < R.ndim < n:
            n = R.ndim
        inner = Space(self.space.shape[self.space.ndim - n:], self.space.dtype, self.space.device) if R is None or R.space is None else R.space
        if inner.shape != self.space.shape[self.space.ndim - inner.ndim:]:
            raise ValueError(f"LiftedInversion got {R!r} for inputs of shape {self.space.shape}; it needs one on their last axes.")
        R, C = (f if f is None else f.on(inner) for f in (R, C))
        scaled, self.explicit = None if R is None else self.weight * R, None
        if R is None or not self.weight:
            self.prior = C or ZeroFunctional(inner)
        elif scaled.smooth and scaled.differentiable and (C is not None or not R.has_prox or variations(R)):
            self.prior, self.explicit = C or ZeroFunctional(inner), scaled               # a gradient costs one pass, the prox an iteration
        elif C is None and R.has_prox:
            self.prior = scaled
        else:
            self.prior = DualProx(scaled, C, inner)
        self.inner_space = inner
        return R, C

    # ---- points
    def start(self):
        return self.forward(self.initial)

    def forward(self, point, update_buffers=False):
        """The point with all hidden x from its "x0" (the start where it has none)."""
        return super().forward({"x0": self.inputs, **point})

    def restrict(self, samples, anchor=None, tau=math.inf, seed=0):
        """The same problem on some samples (an index tensor or slice); nothing is trained, so an anchor and tau change nothing."""
        new = copy.copy(self)
        new.inputs, new.targets, new.seed, new._kept, new._maps = take(self.inputs, samples), take(self.targets, samples), seed, {}, {}
        new.samples = len(new.inputs)
        return new

    def buffers(self) -> Point:
        return {}

    def set_buffers(self, buffers: Point) -> None:
        pass

    # ---- the contract
    def _potential(self, l):
        return (1.0, self.prior) if l == 0 else super()._potential(l)

    def input_prox(self, x: torch.Tensor, step: float | torch.Tensor, weight: float = 1.0) -> torch.Tensor:
        """At inputs x, the prox of what G holds of a sample's, with R times `weight`; a constraint beside R keeps its own. `step` : a number, or one for each coordinate."""
        return self.prior._prox(x, step if self.constraint is not None else weight * step)

    def stage_value(self, stage, point, z):
        value = super().stage_value(stage, point, z)
        return value if self.explicit is None or stage is not self._first else value + self.explicit(point["x0"]).sum()

    def stage_terms(self, stage, point, theta, wanted, need_out, n, value=True):
        term, parts = super().stage_terms(stage, point, theta, wanted, need_out, n, value)
        if self.explicit is not None and stage is self._first and wanted[stage.parents.index(0)]:
            parts.append(("x0", self.explicit._gradient(point["x0"]) / n))
        return term, parts

    def stage_bounds(self, stage, point, theta, wanted, need_out, n):
        bounds = super().stage_bounds(stage, point, theta, wanted, need_out, n)
        if self.explicit is not None and stage is self._first and "x0" in bounds:
            bounds["x0"] += self.explicit.grad_lipschitz / n
        return bounds

    # ---- stages that are affine in their inputs: theta never moves, so one local map and one bound serve all points, and z on a line follows from z at two points
    def _inputs_of(self, stage, point):
        return [point[f"x{p}"] for p in stage.parents]

    def _keep(self, stage, inputs, z):
        self._kept[stage.index] = [(inputs, [a._version for a in inputs], z), *self._kept.get(stage.index, ())[:2]]
        return z

    def _z(self, stage, point):
        if stage.index not in self._still:
            return super()._z(stage, point)
        inputs = self._inputs_of(stage, point)
        for own, versions, z in self._kept.get(stage.index, ()):
            if all(a is b and a._version == v for a, b, v in zip(inputs, own, versions)):
                return z
        return self._keep(stage, inputs, stage.forward(self._input(stage, point), point))

    def _evaluate(self, stage, point, wanted, theta):
        if stage.index not in self._still:
            return super()._evaluate(stage, point, wanted, theta)
        if stage.index not in self._maps:
            adjoint = conv_adjoint(stage.module, stage._local(point).get("weight"), tuple(self._inputs_of(stage, point)[0].shape[1:]))
            pull = stage.evaluate(self._input(stage, point), point, wrt_theta=False, keep=True)[1] if adjoint is None else None
            self._maps[stage.index] = adjoint or (lambda r: pull(r)[0])
        adjoint, several = self._maps[stage.index], len(stage.parents) > 1

        def chosen(r, scale=1.0):
            g = adjoint(r)
            return (tuple(v if w else None for v, w in zip(g, wanted)) if several else g), {}

        return self._z(stage, point), chosen

    def _input_norm(self, stage, point):
        if stage.index not in self._still:
            return super()._input_norm(stage, point)
        if stage.index not in self._norms:
            xs = [torch.zeros_like(x[:1]) for x in self._inputs_of(stage, point)]
            joined = lambda vs: vs[0] if len(vs) == 1 else tuple(vs)
            offset, pull = stage.evaluate(joined(xs), point, wrt_theta=False, keep=True)
            g = torch.Generator().manual_seed(0)
            vs = [torch.randn(x.shape, dtype=x.dtype, generator=g).to(x.device) for x in xs]
            for _ in range(50):
                size = torch.stack([v.norm() for v in vs]).norm().clamp(min=1e-30)
                back = pull(stage.forward(joined([v / size for v in vs]), point) - offset)[0]
                vs = list(back) if len(xs) > 1 else [back]
            self._norms[stage.index] = 1.03 * float(torch.stack([v.norm() for v in vs]).norm())
        return self._norms[stage.index]

    def extrapolate(self, old, new, weight, blocks):
        y = super().extrapolate(old, new, weight, blocks)
        for stage in self.stages:
            name = f"x{stage.parents[0]}"
            if stage.index in self._still and len(stage.parents) == 1 and name in blocks:
                self._keep(stage, [y[name]], torch.lerp(self._z(stage, old), self._z(stage, new), 1 + weight))
        return y

    def convexity(self) -> Convexity:
        """The certificate of joint convexity in x_0, .., x_{L-1}: see `Convexity`."""
        return convexity(self)

    def split_form(self, subsets=1, explicit=True):
        """One affine layer: a Composite of the inputs, PenaltyTerm(y, A x + b) + alpha f(K x) + C(x), summed over the samples; TypeError for more layers."""
        if self.depth > 1 or not self.affine or not isinstance(self.loss, (PenaltyLoss, SquaredError)):
            kind = "affine" if self.affine else "not affine"
            raise TypeError(f"LiftedInversion of {self.depth} stages ({kind}) with {type(self.loss).__name__} is no sum of terms H(K x) of one unknown, which this method needs; "
                            "use BCD, PGD or FISTA, which take its blocks one by one.")
        if subsets > 1:
            raise TypeError(f"subsets={subsets} was asked of LiftedInversion, whose outputs are not split; use PDHG, or SPDHG(subsets=1).")
        A = AffinePart(self.stages[0], self.initial, self.space)
        penalty = self.loss.penalty if isinstance(self.loss, PenaltyLoss) else LiftedBregman(ZeroFunctional(A.range))
        data = PenaltyTerm(penalty, self.targets, A.offset, A.range) @ A
        smooth = self.explicit if self.regulariser is not None and not self.regulariser.has_prox else None
        terms = [] if self.regulariser is None or not self.weight or smooth is not None else (self.weight * self.regulariser).split(self.inner_space)
        if not data.f.has_prox:
            return Composite(data if smooth is None else data + smooth, self.constraint, terms, self.inputs)
        return Composite(smooth, self.constraint, [data, *terms], self.inputs)                 # gradient steps of length 1/|A|^2 would leave the kernel of A to R almost still

    # ---- what the user sees
    def metrics(self, point):
        """|N(x_0) - y| / |y| of the forward network N, and the penalty residual |x - sigma(z)| / |sigma(z)|."""
        if "x0" not in point:
            return {}
        with torch.no_grad():
            error = (self.network(point["x0"]) - self.targets).norm() / self.targets.norm().clamp(min=1e-30)
        residuals = self.penalty_residuals(point) if all(f"x{l}" in point for l in range(self.depth)) else {}
        return {"output_error": float(error), **({"penalty_residual": max(residuals.values())} if residuals else {})}

    def finish(self, point):
        """The recovered inputs (n, *shape)."""
        return point["x0"]

    def __repr__(self):
        short = lambda penalty: re.sub(r" on \([^()]*\)", "", repr(penalty))
        fidelity = short(self.loss.penalty) if isinstance(self.loss, PenaltyLoss) else type(self.loss).__name__
        lines = [f"LiftedInversion: {self.samples} samples, inputs {self.space.shape}, {self.depth} stages, fidelity {fidelity}"]
        for s in self.stages:
            tie = "(output)" if s.penalty is None else f"{self.rho[s.index]:g} {short(s.penalty)}"
            lines.append(f"  {s.index:>5}  {', '.join(map(str, s.parents)):<9.9} {s.operator:<34.34} {s.space!s:<16} {tie}")
        return "\n".join([*lines, f"  x0: {' + '.join(repr(f) for f in (self.explicit, self.prior) if f is not None)}"])


def _need_prox(layers):
    layers = list(layers)
    if layers:
        raise TypeError(f"{', '.join(layers)}: no proximal map that we know, so its Bregman penalty does not exist; take a network with ReLU, Softplus, ELU, Tanh or another "
                        "proximal activation, or pass penalty='mac', which differentiates the activation.")


def _checked(a, like, name):
    """`a` as a tensor of the network's dtype, finite, samples first."""
    if not torch.is_tensor(a) or a.dim() < 1 or not len(a):
        raise TypeError(f"LiftedInversion got {type(a).__name__ if not torch.is_tensor(a) else tuple(a.shape)} as its {name}; it needs a tensor with samples on the first axis.")
    if not a.is_floating_point() and not a.is_complex():
        raise TypeError(f"LiftedInversion got an {name} of dtype {a.dtype}; it needs floating-point numbers: pass it as .float() or .double().")
    if a.dtype != like.dtype:
        raise TypeError(f"LiftedInversion got an {name} of dtype {a.dtype}; the network's parameters are {like.dtype}: convert one with .to(...).")
    if not all_finite(a):
        raise ValueError(f"LiftedInversion got an {name} that holds NaN or inf; remove or repair those samples.")
    return a.detach().to(like.device)

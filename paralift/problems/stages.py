"""A network cut into stages x_l = sigma_l(A_l(x_{l-1}; theta_l)): an operator with parameters, then a potential.

Every stage's vector-Jacobian product is local: no graph spans two stages, and no activation with a potential is differentiated.
"""

import warnings
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from .. import operators as P
from ..operators.functional import Functional
from ..operators.module import call_module, is_random
from ..operators.operator import push_forward
from ..operators.penalties import MAC, Fenchel, Lifted, LiftedBregman, Penalty

__all__ = ["Stage", "cut", "chain", "affine"]

PENALTIES = {"bregman": LiftedBregman, "mac": MAC, "lifted": Lifted, "fenchel": Fenchel}
NO_PROX = (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanhshrink, nn.Hardshrink, nn.Hardsigmoid, nn.RReLU, nn.Threshold, nn.Softmin, nn.SELU, nn.Softsign,
           nn.LogSigmoid, nn.ELU, nn.CELU, nn.LeakyReLU)


def affine(inputs, outputs, bias=True):
    """torch.nn.Linear, under the name it has in the mathematics."""
    return nn.Linear(inputs, outputs, bias)


class Activation(nn.Module):
    """The activation of any potential as a torch module (the module's forward is prox_Psi)."""

    def __init__(self, potential):
        super().__init__()
        self.potential = potential

    def forward(self, z):
        return P.activation(self.potential.on(tuple(z.shape[1:])), z)

    def extra_repr(self):
        return repr(self.potential)


def chain(*parts):
    """torch.nn.Sequential of modules and potentials: `chain(affine(784, 300), SoftThreshold(0.3), affine(300, 784))`."""
    return nn.Sequential(*(Activation(part) if isinstance(part, Functional) else part for part in parts))


def potential_of(module):
    """The potential of an activation module; None where the module is no activation that we know as a proximal map."""
    if isinstance(module, Activation):
        return module.potential
    if isinstance(module, nn.LeakyReLU):
        return P.ReLU() if module.negative_slope == 0 else P.LeakyReLU(module.negative_slope) if 0 < module.negative_slope <= 1 else None
    if isinstance(module, nn.ELU):
        return P.ELU(module.alpha) if 0 < module.alpha <= 1 else None
    if isinstance(module, nn.CELU):
        return P.CELU(module.alpha) if module.alpha > 0 else None
    if isinstance(module, nn.ReLU6):
        return P.ReLU6()
    if isinstance(module, nn.Hardtanh):
        return P.Clip(module.min_val, module.max_val)
    if isinstance(module, nn.Softshrink):
        return P.SoftThreshold(module.lambd)
    if isinstance(module, nn.Softplus):
        return P.Softplus(module.beta)
    if isinstance(module, nn.Softmax) and module.dim not in (None, 0):
        return P.Softmax(module.dim - 1 if module.dim > 0 else module.dim)
    if isinstance(module, nn.Softmax2d):
        return P.Softmax(-3)
    simple = {nn.ReLU: P.ReLU, nn.Tanh: P.Tanh, nn.Sigmoid: P.Sigmoid}
    return simple[type(module)]() if type(module) in simple else None


@dataclass
class Stage:
    """A_l and sigma_l. `theta` maps the parameters' names in the network to their names inside `module`."""

    index: int
    module: nn.Module
    theta: dict
    penalty: Penalty | None = None
    random: bool = False                        # holds Dropout: drawn once a subproblem
    space: tuple = field(default=())

    @property
    def is_linear_layer(self):
        return type(self.module) is nn.Linear

    @cached_property
    def names(self):
        """{name inside the module: name in the network}."""
        return {inside: name for name, inside in self.theta.items()}

    def _local(self, point):
        return {inside: point[name] for name, inside in self.theta.items()}

    def forward(self, x, point, seed=None, update_buffers=False):
        """z = A(x; theta), no graph."""
        if self.is_linear_layer:
            names = self.names
            return nn.functional.linear(x, point[names["weight"]], point[names["bias"]] if "bias" in names else None)
        with torch.no_grad():
            return self._call_module(self._local(point), x, seed, update_buffers)

    def _call_module(self, local, x, seed, update_buffers):
        return call_module(self.module, local, x, 10007 * seed + self.index if self.random and seed is not None else None, update_buffers)

    def linear_gradient(self, r, x, scale=1.0):
        """{name: scale * sum_i r_i (x) [x_i, 1]} of a linear layer."""
        names, rows, flat = self.names, r, x
        if r.dim() != 2:
            rows, flat = r.reshape(-1, r.shape[-1]), x.reshape(-1, x.shape[-1])
        G = torch.addmm(rows.new_zeros(1, 1), rows.T, flat, beta=0, alpha=scale)
        return {names["weight"]: G, **({names["bias"]: rows.sum(0).mul_(scale)} if "bias" in names else {})}

    def pull_linear(self, x, point, wrt_input=True, wrt_theta=True):
        """The local map of a linear layer in closed form."""
        W = next(point[name] for name, inside in self.theta.items() if inside == "weight")
        return lambda r, scale=1.0: (r @ W if wrt_input else None, self.linear_gradient(r, x, scale) if wrt_theta else {})

    def evaluate(self, x, point, seed=None, update_buffers=False, wrt_input=True, wrt_theta=True, keep=False):
        """z and the local map (r, scale) -> (A'(x)* r, {name: scale * J_theta* r}), which may be called once, often with `keep`."""
        if self.is_linear_layer:
            return self.forward(x, point), self.pull_linear(x, point, wrt_input, wrt_theta)
        with torch.enable_grad():
            x = x.detach().requires_grad_(wrt_input and x.is_floating_point())
            local = {k: v.detach().requires_grad_(wrt_theta) for k, v in self._local(point).items()}
            z = self._call_module(local, x, seed, update_buffers)
        leaves = ([x] if x.requires_grad else []) + (list(local.values()) if wrt_theta else [])

        def pull(r, scale=1.0):
            if not leaves or not z.requires_grad:
                return None, {}
            grads = list(torch.autograd.grad(z, leaves, r, retain_graph=keep, allow_unused=True))
            grads = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves)]
            gx = grads.pop(0) if x.requires_grad else None
            if scale != 1 and grads:
                torch._foreach_mul_(grads, scale)
            return gx, dict(zip(self.theta, grads)) if wrt_theta else {}

        return z.detach(), pull

    def input_norm_squared(self, x, point, seed=None, iterations=12):
        """|A'(x)|^2 by power iteration (per sample the same operator for affine layers), with 10 % on top."""
        if self.is_linear_layer:
            W = point[next(name for name, inside in self.theta.items() if inside == "weight")]
            v = torch.ones(W.shape[1], dtype=W.dtype, device=W.device)
            for _ in range(iterations):
                v = W.T @ (W @ (v / torch.linalg.vector_norm(v).clamp(min=1e-30)))
            return 1.1 * torch.linalg.vector_norm(v)
        x = x[:8]
        f = lambda u: self._call_module(self._local(point), u, seed, False)  # noqa: E731
        v = torch.ones_like(x) + 0.1 * torch.sin(torch.arange(x.numel(), dtype=x.dtype, device=x.device)).view_as(x)
        for _ in range(iterations):
            v = v / torch.linalg.vector_norm(v).clamp(min=1e-30)
            v = torch.func.vjp(f, x)[1](push_forward(f, x, v))[0]
        return 1.1 * torch.linalg.vector_norm(v)


def _bind(penalty, potential, label):
    """The stage's penalty from a name, a class or a factory."""
    if isinstance(penalty, str):
        if penalty not in PENALTIES:
            raise ValueError(f"penalty={penalty!r} was given for {label}; choose one of {sorted(PENALTIES)}, or a Penalty class.")
        return PENALTIES[penalty](potential)
    if isinstance(penalty, Penalty):
        raise TypeError(f"penalty={penalty!r} was given, which is bound to its own potential; every layer needs its own: pass the class {type(penalty).__name__}, "
                        "or a function potential -> Penalty.")
    bound = penalty(potential) if callable(penalty) else None
    if not isinstance(bound, Penalty):
        raise TypeError(f"penalty={penalty!r} was given for {label}; it needs a name, a Penalty class, or a function potential -> Penalty.")
    return bound


def cut(network, penalty="bregman"):
    """Stages of a `torch.nn.Sequential` (nested ones are opened): a stage ends at every activation. Returns (stages, ends_in_activation).

    Modules that work in place are told not to: their input is an unknown. Activations without a potential get MAC, and one warning for all;
    SELU, of slope above 1, gets Fenchel.
    """
    leaves = []

    def open_up(module, prefix):
        for name, child in module._modules.items():      # a module used twice counts twice
            if type(child) is nn.Sequential:
                open_up(child, f"{prefix}{name}.")
            else:
                leaves.append((f"{prefix}{name}", child))

    if isinstance(network, nn.Sequential):
        open_up(network, "")
    elif isinstance(network, nn.Module):
        leaves.append(("", network))
    else:
        raise TypeError(f"{type(network).__name__} was given as the network; it needs a torch.nn.Module, for instance torch.nn.Sequential(...) or paralift.networks.chain(...).")
    for m in network.modules():
        if getattr(m, "inplace", False):
            m.inplace = False
    stages, pending, by_mac = [], [], []

    def close(stage_penalty):
        modules = [m for _, m in pending]
        module = modules[0] if len(modules) == 1 else nn.Sequential(*modules) if modules else nn.Identity()
        theta = {}
        for position, (name, m) in enumerate(pending):
            for inside, _ in m.named_parameters():
                theta[f"{name}.{inside}" if name else inside] = inside if len(modules) == 1 else f"{position}.{inside}"
        stages.append(Stage(len(stages) + 1, module, theta, stage_penalty, is_random(module)))
        pending.clear()

    for name, module in leaves:
        potential = potential_of(module)
        label = f"layer {name} ({type(module).__name__})"
        if potential is not None:
            close(_bind(penalty, potential, label))
        elif isinstance(module, nn.SELU) and penalty in ("bregman", "fenchel", LiftedBregman, Fenchel):
            close(Fenchel(P.SELUEnergy(), activation=module, slope=P.SELUEnergy.slope))
        elif isinstance(module, NO_PROX):
            by_mac.append(label)
            close(MAC(None, activation=module))
        else:
            pending.append((name, module))
    if by_mac and penalty not in ("mac", MAC):
        warnings.warn(f"{', '.join(by_mac)}: no proximal map that we know, so these stages get the MAC penalty with a local derivative. "
                      "Near potentials: Softplus, ELU, ReLU, LeakyReLU.", stacklevel=3)
    ends_in_activation = not pending
    if pending:
        close(None)
    return stages, ends_in_activation

"""A stage x_l = sigma_l(A_l(x_p; theta_l)): an operator with parameters on the outputs of its parents, then a potential.

Every stage's vector-Jacobian product is local: no graph spans two stages, and no activation with a potential is differentiated.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import torch
from torch import nn

from .. import operators as P
from ..arguments import Count, Kind, checked, reason
from ..operators.functional import Functional
from ..operators.module import call_module
from ..operators.operator import push_forward
from ..operators.penalties import Penalty
from ..operators.space import Space
from .loans import lending, lent_input
from .problem import Point

__all__ = ["Stage", "chain", "affine", "bind_spaces"]


@checked
def affine(inputs: Count, outputs: Count, bias: bool = True) -> nn.Linear:
    """torch.nn.Linear, under the name it has in the mathematics."""
    return nn.Linear(inputs, outputs, bias)


class Activation(nn.Module):
    """The activation of any potential as a torch module (the module's forward is prox_Psi)."""

    def __init__(self, potential: Functional):
        super().__init__()
        self.potential = potential

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        found = getattr(_lifting, "found", None)
        if found is not None:                                    # a graph is being found: one call, which names the potential
            found.append(self.potential)
            return torch.ops.paralift.activation(z, len(found) - 1)
        return P.activation(self.potential.on(space_of(z)), z)

    def extra_repr(self):
        return repr(self.potential)


_lifting = threading.local()        # found: potentials met while this thread finds a graph; last: those of its last graph


@contextmanager
def lifting():
    """While a graph is being found, Activation modules appear in it as single calls; `lifted_potential` tells their potentials afterwards."""
    if not hasattr(torch.ops.paralift, "activation"):
        torch.library.define("paralift::activation", "(Tensor z, int key) -> Tensor")
        torch.library.impl("paralift::activation", "CompositeExplicitAutograd", lambda z, key: z.clone())
        torch.library.register_fake("paralift::activation", lambda z, key: torch.empty_like(z))
    before, _lifting.found = getattr(_lifting, "found", None), []
    try:
        yield
    finally:
        _lifting.last, _lifting.found = _lifting.found, before


def lifted_potential(key):
    return _lifting.last[key]


@checked
def chain(*parts: Annotated[nn.Module | Functional, Kind("torch.nn.Modules and Functionals", lambda v: isinstance(v, (nn.Module, Functional)))]) -> nn.Sequential:
    """torch.nn.Sequential of modules and potentials: `chain(affine(784, 300), SoftThreshold(0.3), affine(300, 784))`."""
    return nn.Sequential(*(Activation(part) if isinstance(part, Functional) else part for part in parts))


def space_of(z):
    """The space of one sample of z."""
    return Space(tuple(z.shape[1:]), z.dtype, z.device)


def corrected(r, correction):
    """r with the correction added to its first rows."""
    r = r.clone()
    r[:len(correction)] += correction
    return r


def _moves(x):
    """Whether x has a gradient."""
    return x.is_floating_point() or x.is_complex()


def _is_fresh(z, xs):
    """Whether z shares no memory with its arguments `xs` and is not a result that its own graph keeps (as of tanh, exp)."""
    if z.untyped_storage().data_ptr() in {x.untyped_storage().data_ptr() for x in xs}:
        return False
    made = z._base if z._is_view() else z
    kept = getattr(made.grad_fn, "_saved_result", None)
    return kept is None and not isinstance(z, nn.Parameter) and made.grad_fn is not None and z.is_contiguous()


@dataclass
class Stage:
    """A_l and sigma_l: z_l = A_l(x_p; theta_l) of the outputs x_p of its parents p; parent 0 is the data.

    `theta` maps the parameters' names in the network to their names inside `module`. The input `x` of the methods is a tensor, or a tuple in the order of
    `parents` where there are several; the gradients in it have the same form.
    """

    index: int
    module: nn.Module
    theta: dict
    penalty: Penalty | None = None
    parents: tuple = ()
    label: str = ""                             # where the network has it
    random: bool = False                        # holds Dropout: drawn once a subproblem
    elements: Space | None = None               # of one sample's z_l and x_l, once a few inputs have passed
    operator: str = ""                          # what the module does, in words
    products: torch.dtype | None = None         # in which the products with residuals are made; None: as everything else
    pieces: dict = field(default_factory=dict)  # {position of a parent whose output is only taken apart: by which call}

    def __post_init__(self):
        self.parents = self.parents or (self.index - 1,)
        self.operator = self.operator or ", ".join(type(m).__name__ for m in (self.module if isinstance(self.module, nn.Sequential) else [self.module]))

    @property
    def space(self) -> tuple[int, ...]:
        """The shape of one sample's z_l and x_l; () before any input has passed."""
        return () if self.elements is None else self.elements.shape

    @cached_property
    def is_linear_layer(self) -> bool:
        """A real nn.Linear and nothing else, whose products are known in closed form."""
        return type(self.module) is nn.Linear and not self.module.weight.is_complex()

    @cached_property
    def names(self) -> dict[str, str]:
        """{name inside the module: name in the network}."""
        return {inside: name for name, inside in self.theta.items()}

    def pairs(self, values: Any) -> list[tuple[int, Any]]:
        """(parent, its part of `values`), absent parts left out."""
        return [(p, v) for p, v in zip(self.parents, values if isinstance(values, tuple) else (values,)) if v is not None]

    def _local(self, point):
        return {inside: point[name] for name, inside in self.theta.items()}

    def forward(self, x: Any, point: Point, seed: int | None = None, update_buffers: bool = False) -> torch.Tensor:
        """z = A(x; theta), no graph."""
        if self.is_linear_layer:
            names = self.names
            return nn.functional.linear(x, point[names["weight"]], point[names["bias"]] if "bias" in names else None)
        with torch.no_grad():
            return self._call_module(self._local(point), x, seed, update_buffers)

    def _call_module(self, local, x, seed, update_buffers):
        return call_module(self.module, local, x, 10007 * seed + self.index if self.random and seed is not None else None, update_buffers)

    def linear_gradient(self, r: torch.Tensor, x: torch.Tensor, scale: float = 1.0) -> Point:
        """{name: scale * sum_i r_i (x) [x_i, 1]} of a linear layer."""
        names, rows, flat = self.names, r, x
        if r.dim() != 2:
            rows, flat = r.reshape(-1, r.shape[-1]), x.reshape(-1, x.shape[-1])
        G = torch.addmm(rows.new_zeros(1, 1), rows.T, flat, beta=0, alpha=scale) if self.products is None else self._product(rows.T, flat).mul_(scale)
        return {names["weight"]: G, **({names["bias"]: rows.sum(0).mul_(scale)} if "bias" in names else {})}

    def gathered_gradient(self, factors: Sequence[tuple], point: Point, room: Point) -> Point:
        """`linear_gradient` of several parts [(r, x, scale, behind), ..] in one product. behind = (rows, c, p) adds c (sigma(z at `point`) - p) to the first rows of a part's r,
        with one product for all parts. `room` {name: tensor} is memory to gather in, kept by the caller."""
        def gather(name, parts):
            rows = sum(map(len, parts))
            if name not in room or len(room[name]) != rows:
                room[name] = parts[0].new_empty((rows, *parts[0].shape[1:]))
            return torch.cat(parts, out=room[name])

        r, x = gather("r", [part[0] for part in factors]), gather("x", [part[1] for part in factors])
        late = [(place, part[1], *part[3]) for place, part in zip(r.split([len(part[0]) for part in factors]), factors) if part[3] is not None]
        if late:
            new = self.penalty.activation(self.forward(gather("few", [x[:rows] for _, x, rows, _, _ in late]), point))
            for s, (place, _, rows, c, p) in zip(new.split([rows for _, _, rows, _, _ in late]), late):
                place[:rows].add_(s.sub_(p[:rows]), alpha=c)
        return self.linear_gradient(r, x, factors[0][2])

    def _product(self, a, b):
        return (a.to(self.products) @ b.to(self.products)).to(a.dtype)

    def pull_linear(self, x: torch.Tensor, point: Point, wrt_input: bool = True, wrt_theta: bool = True) -> Any:
        """The local map of a linear layer in closed form."""
        W = point[self.names["weight"]]

        def pull(r, scale=1.0, correction=None):
            gx = None if not wrt_input else r @ W if self.products is None else self._product(r, W)
            return gx, self.linear_gradient(r if correction is None else corrected(r, correction), x, scale) if wrt_theta else {}

        return pull

    def evaluate(self, x: Any, point: Point, seed: int | None = None, update_buffers: bool = False, wrt_input: bool | tuple = True,
                 wrt_theta: bool = True, keep: bool = False, loans: dict | None = None) -> tuple[torch.Tensor, Any]:
        """z and the local map (r, scale, correction) -> (A'(x)* r, {name: scale * J_theta* (r + correction)}), which may be called once, often with `keep`;
        a correction may be of the first samples only.

        `pull.fresh` says that z's memory is nobody else's: not an input's, and not kept for the local map.

        loans : {position of an input: Loan}, inputs that the local map does not hold.
        wrt_input : whether A'(x)* r is wanted; a tuple of such for several parents, None standing in the result for what is not.
        """
        if self.is_linear_layer:
            pull = self.pull_linear(x, point, wrt_input[0] if isinstance(wrt_input, tuple) else wrt_input, wrt_theta)
            pull.fresh = True
            return self.forward(x, point), pull
        several = isinstance(x, tuple)
        with torch.enable_grad(), lending(loans.values()) if loans else nullcontext():
            xs = x if several else (x,)
            wanted = wrt_input if isinstance(wrt_input, tuple) else (wrt_input,) * len(xs)
            wanted = [bool(w) and _moves(v) for v, w in zip(xs, wanted)]
            pairs = [lent_input(v, w, loans.get(i) if loans else None) for i, (v, w) in enumerate(zip(xs, wanted))]
            inputs, xs = [leaf for (leaf, _), w in zip(pairs, wanted) if w], [v for _, v in pairs]
            local = {k: v.data.requires_grad_(wrt_theta) for k, v in self._local(point).items()}          # .data: changed in place meanwhile, the map is that of the newest theta
            z = self._call_module(local, tuple(xs) if several else xs[0], seed, update_buffers)
        leaves = inputs + (list(local.values()) if wrt_theta else [])
        fresh, root = _is_fresh(z, [*xs, *local.values()]), z
        if fresh and z._is_view():                               # a view written into gets another backward, through as_strided: differentiate what it views
            root = z._base
            if root.numel() != z.numel() or not root.is_contiguous():
                fresh, root = False, z
        values, shape, differentiable = z.detach(), root.shape if root is not z else None, z.requires_grad
        edge = torch.autograd.graph.get_gradient_edge(root) if differentiable else None          # the graph, without the memory of z
        del x, xs, z, root, pairs

        def pull(r, scale=1.0, correction=None):
            if not leaves or not differentiable:
                return (None,) * len(wanted) if several else None, {}
            back = lambda r, of, keep: list(torch.autograd.grad(edge, of, r if shape is None else r.reshape(shape), retain_graph=keep, allow_unused=True)) if of else []
            if correction is None or not wrt_theta:
                grads = back(r, leaves, keep)
            else:
                grads = back(r, inputs, True) + back(corrected(r, correction), leaves[len(inputs):], keep)
            grads = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves)]
            own, found = grads[len(inputs):], iter(grads[:len(inputs)])
            gx = tuple(next(found) if w else None for w in wanted)
            if scale != 1 and own:
                torch._foreach_mul_(own, scale)
            return gx if several else gx[0], dict(zip(self.theta, own)) if wrt_theta else {}

        pull.fresh = fresh
        return values, pull

    def input_norm_squared(self, x: Any, point: Point, seed: int | None = None, iterations: int = 12, lowest: int = 1) -> Any:
        """|A'(x)|^2 in all parents from number `lowest` on at once, by power iteration on at most 8 samples (for affine layers the operator is the same for each),
        with 10 % on top."""
        if self.is_linear_layer:
            W = point[self.names["weight"]]
            v = torch.ones(W.shape[1], dtype=W.dtype, device=W.device)
            for _ in range(iterations):
                v = W.T @ (W @ (v / torch.linalg.vector_norm(v).clamp(min=1e-30)))
            return 1.1 * torch.linalg.vector_norm(v)
        xs = [v[:8] for v in (x if isinstance(x, tuple) else (x,))]
        moving = [i for i, v in enumerate(xs) if _moves(v) and (self.parents[i] >= lowest or len(xs) == 1)]
        local = self._local(point)

        def f(*us):
            full = list(xs)
            for i, u in zip(moving, us):
                full[i] = u
            return self._call_module(local, tuple(full) if len(full) > 1 else full[0], seed, False)

        at = tuple(xs[i] for i in moving)
        vs = tuple(torch.ones_like(u) + 0.1 * torch.sin(torch.arange(u.numel(), dtype=u.real.dtype, device=u.device)).view_as(u) for u in at)
        length = lambda vs: torch.stack([torch.linalg.vector_norm(v) for v in vs]).norm().clamp(min=1e-30)
        for _ in range(iterations):
            size = length(vs)
            vs = torch.func.vjp(f, *at)[1](differential(f, at, tuple(v / size for v in vs)))
        return 1.1 * length(vs)


def differential(f: Callable[..., torch.Tensor], at: tuple, along: tuple) -> torch.Tensor:
    """f'(at) along; by a central difference where a layer knows no forward derivative, as recurrences on GPUs, which is good enough for bounds."""
    try:
        return push_forward(f, at, along)
    except NotImplementedError:
        step = lambda a, d, h: {k: step(v, d[k], h) for k, v in a.items()} if isinstance(a, dict) else a + h * d
        there, back = (f(*(step(a, d, h) for a, d in zip(at, along))) for h in (1e-4, -1e-4))
        return (there - back) / 2e-4


def bind_spaces(stages: Sequence[Stage], x: torch.Tensor, theta: Point) -> torch.Tensor:
    """Bind every stage and its penalty to the space of its output, by one forward pass of a few inputs x; returns the last stage's z. ValueError where a stage refuses."""
    values = {0: x}
    with torch.no_grad():
        for stage in stages:
            given = values[stage.parents[0]] if len(stage.parents) == 1 else tuple(values[p] for p in stage.parents)
            try:
                z = stage.forward(given, theta, seed=0)
                if not torch.is_tensor(z):
                    raise RuntimeError(f"it returns a {type(z).__name__}, and a stage needs one tensor: wrap the layer in a module that picks it.")
            except (RuntimeError, IndexError, ValueError) as error:
                shapes = ", ".join(str(tuple(v.shape)) for v in (given if isinstance(given, tuple) else (given,)))
                raise ValueError(f"stage {stage.index} ({stage.operator}) refused an input of shape {shapes}, dtype {x.dtype}: {reason(error)}. "
                                 "Make the layer's size and dtype fit the data or the layer before.") from None
            stage.elements = space_of(z)
            if stage.penalty is not None:
                stage.penalty = stage.penalty.on(stage.elements)
                values[stage.index] = stage.penalty.activation(z)
    return z

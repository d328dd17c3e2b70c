"""A Composite on several workers: the elements of its batch (slices, frames), or the rows of its data terms (coils, views, samples)."""

import copy

import torch

from ..operators.functional import Functional
from ..operators.functional_algebra import _Composed, _Scaled, _Sum, _Wrapper
from ..operators.least_squares import LeastSquares
from ..operators.operator import LinearOperator, _Composition, _Rows
from ..operators.operator import _Scaled as _ScaledOperator
from ..operators.space import Space, inner
from ..operators.subsets import _part
from ..problems.composite import _total
from ..problems.problem import Linearisation, Problem
from .blocks import SHARDS
from .mesh import Mesh

__all__ = ["place_terms", "shares_terms"]


def shares_terms(problem, workers):
    """Whether `problem` has slices, or data terms with rows, for so many workers."""
    return _batch(problem) >= workers or any(_rows(op) >= workers for op in _operators(problem))


def place_terms(problem, solver, wish, interrupted):
    """A copy of `problem` (Composite) whose batch, or the rows of whose data terms, are on `wish.total` workers; its scalars are those of all."""
    if wish.layers not in (None, 1):
        raise ValueError(f"{wish} was given for {type(problem).__name__}, which has no layers; use Workers({wish.total}).")
    if not shares_terms(problem, wish.total):
        rows = [f"{op!r} has {_rows(op)}" for op in _operators(problem)]
        raise ValueError(f"{wish.total} workers were asked for, and {type(problem).__name__} has a batch of {_batch(problem)} images and no data term f @ A with so many rows "
                         f"that can be computed apart ({'; '.join(rows) or 'it has no operator'}); use fewer workers, or give A's class a rows(index).")
    x = problem.start()["x"]
    kind = _Slices if _batch(problem) >= wish.total and solver.shared == "blocks" else _RowsOfTerms
    if kind is _RowsOfTerms and not any(_rows(op) >= wish.total for op in _operators(problem)):
        raise TypeError(f"{solver!r} has no way to share the {_batch(problem)} images of a batch; use PGD, FISTA, PDHG or ADMM, or solve without workers=.")
    placed = copy.copy(problem)
    placed.__class__ = type(type(problem).__name__, (kind, type(problem)), {})
    placed.mesh, placed.interrupted = Mesh(wish.total, 1, wish.timeout), interrupted
    placed.leads, placed.alone = placed.mesh.rank == 0, placed.mesh.size == 1
    placed._place(x, x.dtype in (torch.float64, torch.complex128) if wish.deterministic is None else wish.deterministic)
    return placed


# ---- what there is to share
def _operators(problem):
    """The operators of separable terms f(A x)."""
    found = []

    def look(f):
        if isinstance(f, _Composed) and f.op.is_linear and f.f.separable:
            found.append(f.op)
        for name in getattr(f, "parts", ()):
            look(getattr(f, name))

    look(problem.smooth_part)
    return found + [K for H, K in problem.linear if H.separable]


def _rows(op):
    """The length of the first axis of the range, where its rows can be computed apart; 0 elsewhere."""
    inside = op
    while isinstance(inside, (_Composition, _ScaledOperator)):
        through = isinstance(inside, _Composition) and type(inside.left)._rows_after is not LinearOperator._rows_after
        inside = inside.right if through else getattr(inside, "left", None) or inside.op
    return op.range.shape[0] if op.range.ndim and type(inside).rows is not LinearOperator.rows and not isinstance(inside, _Rows) else 0


def _batch(problem):
    """The length of the first axis of x, where no part of the problem couples its elements; 0 elsewhere."""
    x, parts = problem.start()["x"], (problem.smooth_part, problem.nonsmooth_part, *(K.domain for _, K in problem.linear))
    ndim = max((f.ndim for f in parts if f is not None), default=x.dim())
    return len(x) if x.dim() > ndim else 0


def _ordered(mesh, parts, counts):
    """The sum over all shards of equal tensors, complex ones too, in their order."""
    if not parts.is_complex():
        return mesh.ordered(parts, counts)
    return torch.view_as_complex(mesh.ordered(torch.view_as_real(parts), counts))


def _joined(mesh, v, axis=0):
    """The parts of all workers, one after the other, where v lies."""
    return torch.cat([part.to(v.device) for part in mesh.objects(v.cpu())], axis)


class _Shared(Problem):
    """What both kinds share."""

    def agree(self, *flags):
        return self.mesh.agree(flags, self.interrupted())


# ---- rows of data terms: x is on all workers, and every product A* y is a sum over them
class _RowOperator(LinearOperator):
    """Some shards of the rows of `op`: its adjoint is the sum over the shards of all workers."""

    def __init__(self, op, shards, own, mesh, counts):
        self.parts, self.sizes = [op.rows(shards[i]) for i in own], [len(range(op.range.shape[0])[shards[i]]) for i in own]
        super().__init__(op.domain, Space((sum(self.sizes), *op.range.shape[1:]), op.range.dtype, op.range.device))
        self.mesh, self.counts, self.inside = mesh, counts, slice(shards[own[0]].start, shards[own[-1]].stop)

    def split(self, y):
        return y.split(self.sizes, -self.range.ndim)

    def _call(self, x):
        return self.parts[0]._call(x) if len(self.parts) == 1 else torch.cat([A._call(x) for A in self.parts], -self.range.ndim)

    def _adjoint(self, y):
        return _ordered(self.mesh, torch.stack([A._adjoint(p) for A, p in zip(self.parts, self.split(y))]), self.counts)

    def rows(self, index):
        raise NotImplementedError("the rows of a term that lies on several workers are split already.")


class _RowTerm(_Wrapper):
    """f on this worker's rows, whose value is that of all rows."""

    transparent = True

    def __init__(self, f, A, whole):
        super().__init__(_part(f, A.inside, whole).on(A.range))
        self.A, begin, self.shards = A, A.inside.start, []
        for size, part in zip(A.sizes, A.parts):
            self.shards.append(_part(f, slice(begin, begin + size), whole).on(part.range))
            begin += size
        self.positive_homogeneous = f.positive_homogeneous

    grad_lipschitz = property(lambda self: self.f.grad_lipschitz)

    def _over(self, y, name):
        return self.A.mesh.ordered(torch.stack([getattr(f, name)(p) for f, p in zip(self.shards, self.A.split(y))]), self.A.counts)

    def _value(self, y):
        return self._over(y, "_value")

    def _conj_value(self, y):
        return self._over(y, "_conj_value")

    def _each(self, name, y, *steps):
        """Shard by shard, as vectorised functions round the end of a tensor in another way than its middle."""
        if len(self.shards) == 1:
            return getattr(self.f, name)(y, *steps)
        return torch.cat([getattr(f, name)(p, *steps) for f, p in zip(self.shards, self.A.split(y))], -self.ndim)

    def _gradient(self, y):
        return self._each("_gradient", y)

    def _prox(self, y, sigma):
        return self._each("_prox", y, sigma)

    def _conj_prox(self, y, sigma, out=None):
        return self._each("_conj_prox", y, sigma)

    def on(self, space):
        return self

    def __repr__(self):
        return f"{self.f!r}, shared"


class _RowLeastSquares(LeastSquares):
    """LeastSquares on this worker's rows, whose value is that of all rows."""

    def _half_square(self, r):
        values = torch.stack([inner(p, p, self.op.range.ndim) for p in self.op.split(r)])
        return 0.5 * self.weight * self.op.mesh.ordered(values, self.op.counts)


class _RowsOfTerms(_Shared):
    def _place(self, x, deterministic):
        self.layout = f"rows of the data terms on {self.mesh.size} workers"
        whole, self.smooth_part = self.smooth_part, self._share(self.smooth_part, deterministic)
        self.linear = tuple((_RowTerm(H, A, K.range), A) if (A := self._row_operator(K, deterministic) if H.separable else None) is not None else (H, K) for H, K in self.linear)
        self.subsets = tuple(self.smooth_part if f is whole else self._share(f, deterministic) for f in self.subsets)

    def _row_operator(self, op, deterministic):
        mesh, n = self.mesh, _rows(op)
        if n < mesh.size:
            return None
        size = min(SHARDS, n) if deterministic and mesh.size <= min(SHARDS, n) else mesh.size
        shards = [slice(i * n // size, (i + 1) * n // size) for i in range(size)]
        ends = [d * size // mesh.size for d in range(mesh.size + 1)]
        return _RowOperator(op, shards, range(ends[mesh.rank], ends[mesh.rank + 1]), mesh, [b - a for a, b in zip(ends, ends[1:])])

    def _share(self, f, deterministic):
        """f with its separable terms on this worker's rows."""
        if isinstance(f, _Scaled):
            return f.a * self._share(f.f, deterministic)
        if isinstance(f, _Sum):
            return self._share(f.f, deterministic) + self._share(f.g, deterministic)
        if not isinstance(f, _Composed) or not f.op.is_linear or not f.f.separable:
            return f
        A = self._row_operator(f.op, deterministic)
        if A is None:
            return f
        if isinstance(f, LeastSquares):
            new = _RowLeastSquares(A, f.data[(..., A.inside, *[slice(None)] * (A.range.ndim - 1))], f.weight, f.tolerance, f.max_iterations)
            new.f = _RowTerm(f.f, A, f.op.range)
            return new
        return _RowTerm(f.f, A, f.op.range) @ A

    def image_square(self, K, y):
        if not isinstance(K, _RowOperator):
            return inner(y, y)
        return self.mesh.ordered(torch.stack([inner(p, p) for p in K.split(y)]), K.counts)

    # ---- duals of shared terms, whole and spread
    def _walk(self, tree, change):
        if isinstance(tree, dict):
            return {k: self._walk(v, change) for k, v in tree.items()}
        if isinstance(tree, (list, tuple)):
            if len(tree) == len(self.linear) and all(torch.is_tensor(v) for v in tree):
                return [change(K, v) if isinstance(K, _RowOperator) else v for (_, K), v in zip(self.linear, tree)]
            return type(tree)(self._walk(v, change) for v in tree)
        return tree

    def collect(self, tree):
        return self._walk(tree, lambda K, y: _joined(self.mesh, y, -K.range.ndim))

    def spread(self, tree):
        return self._walk(tree, lambda K, y: y[(..., K.inside, *[slice(None)] * (K.range.ndim - 1))].clone())


# ---- elements of a batch: every worker has its own images, and only scalars are shared
class _Slices(_Shared):
    def _place(self, x, deterministic):
        n, P, r = len(x), self.mesh.size, self.mesh.rank
        self.bounds = [d * n // P for d in range(P + 1)]
        self.inside, self.total, self.layout = slice(self.bounds[r], self.bounds[r + 1]), n, f"{n} images of the batch on {P} workers"
        cut = lambda f: None if f is None else _images(f, self.inside, n)
        self.smooth_part, self.nonsmooth_part = cut(self.smooth_part), cut(self.nonsmooth_part)
        self.linear = tuple((cut(H), K) for H, K in self.linear)
        self._start = x[self.inside].clone()

    def _sum(self, values):
        """The sum over all images, in their order, of what this worker has of each: (images, ...) or a number for all of its images."""
        values = values.reshape(len(values), -1).sum(1) if values.dim() else torch.cat([values[None], values.new_zeros(len(self._start) - 1)])
        padded = torch.cat([values, values.new_zeros(max(b - a for a, b in zip(self.bounds, self.bounds[1:])) - len(values))])
        rows = self.mesh.gather_data(padded) if self.mesh.size > 1 else padded[None]
        return torch.cat([row[:b - a] for row, a, b in zip(rows, self.bounds, self.bounds[1:])]).sum()

    def linearise(self, point, blocks=None):
        x, F = point["x"], self.smooth_part
        return Linearisation(self._zero(x), {"x": torch.zeros_like(x)}) if F is None else Linearisation(self._sum(F._value(x)), {"x": F._gradient(x)})

    def smooth_value(self, point, blocks=None):
        return self._zero(point["x"]) if self.smooth_part is None else self._sum(self.smooth_part._value(point["x"]))

    def nonsmooth_value(self, point):
        x = point["x"]
        own = self._zero(x) if self.nonsmooth_part is None else self.nonsmooth_part._value(x)
        for H, K in self.linear:
            own = own + H(K._call(x))
        return self._sum(own)

    def _squares(self, a, b):
        return inner(a, b, a.dim() - 1)

    def inner(self, a, b):
        return self._sum(sum(self._squares(v, b[k]) for k, v in a.items()))

    def image_square(self, K, y):
        return self._sum(self._squares(y, y))

    def excess(self, new, point, lin, d):
        F = self.smooth_part
        return (self._sum(F.excess(new["x"], point["x"])), 0.0) if isinstance(F, LeastSquares) else Problem.excess(self, new, point, lin, d)

    def gap(self, point, dual=()):
        """The sum of the workers' gaps, each of which bounds what its images lack."""
        own = copy.copy(self)
        own.__class__ = type(self).__bases__[1]
        return self._sum(_total(own.gap(point, dual)))

    def finish(self, point):
        return super().finish(self._walk(point, self._whole))

    # ---- states, whole and spread
    def _walk(self, tree, change):
        if isinstance(tree, dict):
            return {k: self._walk(v, change) for k, v in tree.items()}
        if isinstance(tree, (list, tuple)):
            return type(tree)(self._walk(v, change) for v in tree)
        return change(tree) if torch.is_tensor(tree) and tree.dim() > 1 else tree

    def _whole(self, v):
        return _joined(self.mesh, v) if len(v) == len(self._start) else v

    def collect(self, tree):
        return self._walk(tree, self._whole)

    def spread(self, tree):
        return self._walk(tree, lambda v: v[self.inside].clone() if len(v) == self.total else v)


def _images(f, inside, n):
    """f with the data of some images of a batch of n."""
    new = copy.copy(f)
    spaces = [s for s in (f.space, f.op.range if isinstance(f, _Composed) else None) if s is not None]
    for name, value in vars(f).items():
        if isinstance(value, Functional):
            setattr(new, name, _images(value, inside, n))
        elif torch.is_tensor(value) and any(tuple(value.shape) == (n, *s.shape) for s in spaces):
            setattr(new, name, value[inside])
    if isinstance(new, _Composed):
        new._seen = []
    return new

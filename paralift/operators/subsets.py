"""`subsets`: one data term as a sum of terms, for methods that visit them in turn."""

import copy
from collections.abc import Sequence

import torch

from ..arguments import checked, shown
from ..notices import warn
from .functional import Functional, _Composed, _Scaled
from .operator import _Rows, check_rows

__all__ = ["subsets"]


@checked
def subsets(term: Functional, parts: int | Sequence[torch.Tensor | slice]) -> list[Functional]:
    """f(A x) = sum_j f_j(A_j x): [f_1 @ A_1, ...], A_j some rows of A (the first axis of its range: rows of a matrix, views, coils), f_j f on their data.

    Parameters
    ----------
    term : f @ A with a separable f, such as `KullbackLeibler(counts) @ A`, `LeastSquares(A, b)` or a multiple of one.
    parts : how many: part j takes the rows j, j + parts, j + 2 parts, ...; or a list of index tensors or slices that take every row once.

    Raises TypeError / ValueError where the term has another form or the parts miss or repeat a row. An A that knows no `rows` of its own computes all of them
    for every subset; there is a warning then.
    """
    a = 1.0
    while isinstance(term, _Scaled):
        a, term = a * term.a, term.f
    if not isinstance(term, _Composed) or not term.op.is_linear or not term.op.range.ndim:
        raise TypeError(f"subsets got {term!r}; it needs f @ A with a linear A, such as KullbackLeibler(counts) @ A.")
    f, A = term.f, term.op
    if not f.separable:
        raise TypeError(f"subsets got {f!r}, which is no sum over coordinates, so it does not split.")
    n = A.range.shape[0]
    if isinstance(parts, int) and not isinstance(parts, bool):
        if not 1 <= parts <= n:
            raise ValueError(f"subsets got parts={parts}; the first axis of {A!r} allows 1 to {n}.")
        parts = [slice(j, None, parts) for j in range(parts)]
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f"subsets got parts={shown(parts)}; it needs a number, or a list of index tensors or slices.")
    for part in parts:
        check_rows(A, part)
    every = torch.arange(n)
    rows = [every[p.cpu() if torch.is_tensor(p) else p] for p in parts]
    if not torch.equal(torch.cat(rows).sort().values, every) or any(not len(r) for r in rows):
        raise ValueError(f"subsets got parts that do not take each of the {n} rows of {A!r} once; pass a number, or index tensors or slices that do.")
    terms = [(a * _part(f, p, A.range) if a != 1 else _part(f, p, A.range)) @ A.rows(p) for p in parts]
    if len(terms) > 1 and _in_full(terms[0].op):
        warn(f"{A!r} computes all of its rows for every subset; give its class a rows(index) that computes only these.")
    return terms


def _in_full(op):
    return isinstance(op, _Rows) or any(_in_full(vars(op)[name]) for name in ("left", "op") if name in vars(op))


def _part(f, index, space):
    """f on some rows: its tensors of the space's shape are the data, row by row."""
    new = copy.copy(f)
    new.space, inside = None, (..., index, *[slice(None)] * (space.ndim - 1))
    for name, value in vars(f).items():
        if isinstance(value, Functional):
            setattr(new, name, _part(value, index, space))
        elif torch.is_tensor(value) and value.dim() >= space.ndim and tuple(value.shape[-space.ndim:]) == space.shape:
            setattr(new, name, value[inside])
    return new

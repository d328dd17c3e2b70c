"""Inputs lent to the stages' local maps: the memory of a backward sweep.

A local map made by torch keeps its inputs. In a sweep most of them can be computed again from the stage before, or are not needed; and where several stages take
parts of one x (queries, keys and values), their pulls on it go into one buffer, without zeros for the parts that each leaves out.
"""

from contextlib import contextmanager

import torch

__all__ = ["Loan", "Pieces", "lending", "lent_input", "mark_pieces"]

LARGE = 2**18                    # numbers in a tensor from which the bookkeeping pays
_PARTS = (torch.ops.aten.unbind.int, torch.ops.aten.split.Tensor, torch.ops.aten.split_with_sizes.default, torch.ops.aten.chunk.default)
_AXES = (torch.ops.aten.permute.default, torch.ops.aten.transpose.int)
_sinks = {}


class Loan:
    """x for a stage's local map, which calls `ask()` for it later (None: it keeps what it needs itself); `pieces` collects the pulls on parts of x."""

    def __init__(self, x, ask=None, pieces=None):
        self.x, self.ask, self.pieces = x, ask, pieces


class Pieces:
    """The pull on an x of which every child takes parts by the same call: each writes its own into one buffer."""

    def __init__(self, x):
        self.shape, self.dtype, self.device = x.shape, x.dtype, x.device
        self.buffer, self.calls, self.filled, self.weight, self.ratio = None, None, set(), None, 1.0

    def begin(self, weight):
        """The next pulls are weight * g; the buffer holds them without the first weight."""
        self.weight = weight if self.weight is None else self.weight
        self.ratio = weight / self.weight

    def _views(self):
        if self.buffer is None:
            self.buffer = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        return _views(self.buffer, self.calls)

    def add(self, gradients):
        for k, (view, g) in enumerate(zip(self._views(), gradients)):
            if g is not None:
                if k in self.filled:
                    view.add_(g, alpha=self.ratio)
                elif self.ratio == 1:
                    view.copy_(g)
                else:
                    torch.mul(g, self.ratio, out=view)
                self.filled.add(k)
        return self.buffer

    def finish(self):
        """(g, weight), once every child has made its pull."""
        for k, view in enumerate(self._views()):
            if k not in self.filled:
                view.zero_()
        return self.buffer, self.weight


class _Lend(torch.autograd.Function):
    """x in place of a leaf of its shape without memory, so that the graph does not hold x."""

    @staticmethod
    def forward(ctx, leaf, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return g, None


def _views(x, calls):
    """The calls (op, arguments) one after the other, the last of which takes apart."""
    for op, arguments in calls:
        x = op(x, *arguments)
    return x


class _Parts(torch.autograd.Function):
    """_views(x, calls), a tuple, whose pull goes into the buffer of `pieces`."""

    @staticmethod
    def forward(ctx, x, pieces, calls):
        ctx.set_materialize_grads(False)
        ctx.pieces = pieces
        pieces.calls = calls
        return tuple(_views(x, calls))

    @staticmethod
    def backward(ctx, *gradients):
        return ctx.pieces.add(gradients), None, None


def take_parts(x, *calls):
    """_views(x, calls) inside a stage."""
    pieces = _sinks.get(x.data_ptr()) if _sinks else None
    return _views(x, calls) if pieces is None else _Parts.apply(x, pieces, calls)


def mark_pieces(graph_module):
    """{position of an input that is only taken apart: the calls}, axes being exchanged before, perhaps; the calls go through `take_parts`."""
    found = {}
    for position, node in enumerate(n for n in graph_module.graph.nodes if n.op == "placeholder"):
        chain, last = [], node
        while len(last.users) == 1 and not (chain and chain[-1].target in _PARTS):
            user = next(iter(last.users))
            if user.target not in (*_PARTS, *_AXES) or user.kwargs or not all(isinstance(a, (int, list, tuple)) for a in user.args[1:]):
                break
            chain.append(user)
            last = user
        if chain and chain[-1].target in _PARTS:
            calls = [(user.target, tuple(user.args[1:])) for user in chain]
            found[position] = str(calls)
            last.args, last.target = (node, *calls), take_parts
            for user in reversed(chain[:-1]):
                graph_module.graph.erase_node(user)
    if found:
        graph_module.recompile()
    return found


def lent_input(x, differentiable, loan):
    """(leaf, what the module gets) for an input x of a local map: without a loan both are the same."""
    if loan is None or not differentiable:
        leaf = x.detach().requires_grad_(differentiable)
        return leaf, leaf
    leaf = x.new_empty(()).expand(x.shape).requires_grad_()
    return leaf, _Lend.apply(leaf, x)


@contextmanager
def lending(loans):
    """While a local map is made: tensors that it saves and that are a lent x, whole, are asked for again; calls of `take_parts` on a lent x go into its pieces."""
    asks = {loan.x.data_ptr(): (loan.x.numel(), loan.ask) for loan in loans if loan.ask is not None and loan.x.is_contiguous()}
    own = {loan.x.data_ptr(): loan.pieces for loan in loans if loan.pieces is not None}
    _sinks.update(own)

    def pack(t):
        numel, ask = asks.get(t.data_ptr(), (0, None))
        return (ask, t.shape) if ask is not None and t.numel() == numel and t.is_contiguous() else t

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept[0]().view(kept[1]) if isinstance(kept, tuple) else kept):
            yield
    finally:
        for key in own:                                      # not those of another thread
            _sinks.pop(key)

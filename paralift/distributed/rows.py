"""Minibatches of samples that lie with several workers, for methods that keep something for every sample."""

import torch

__all__ = ["Rows"]


class Rows:
    """Some samples of a placed problem (layers = 1): every worker computes those that it owns, shard by shard, and gradients are sums over all shards in their order.

    Factors hold the rows of this worker, in the order of its shards; values and gradients are those of all.
    """

    def __init__(self, placed, rows, seed):
        self.placed, self.seed = placed, seed
        self.rows = torch.arange(*rows.indices(placed.samples)) if isinstance(rows, slice) else rows.cpu()
        self.samples = len(self.rows)
        self.theta_names = placed.theta_names

    def restrict(self, samples, seed=0):
        return Rows(self.placed, self.rows[samples], seed)

    def own(self, samples=slice(None)):
        """[indices of the samples of each of this worker's shards]."""
        rows = self.rows[samples]
        return [rows[(rows >= s.start) & (rows < s.stop)] for s in self.placed.own_shards]

    def _shares(self, samples=slice(None)):
        """(number among this worker's shards, their subproblem) for shards that hold some of the samples."""
        p = self.placed.problem
        return [(i, p.restrict(rows.to(p.inputs.device), seed=self.seed + 1_000_003 * (self.placed.first + i))) for i, rows in enumerate(self.own(samples)) if len(rows)]

    def _sum(self, gradients):
        """{name: sum over all shards}; gradients {number of an own shard: {name: tensor}}."""
        placed, names = self.placed, self.theta_names
        shapes = placed.problem.initial
        flat = torch.stack([torch.cat([(gradients[i][n] if i in gradients else torch.zeros_like(shapes[n])).reshape(-1) for n in names]) for i in range(len(placed.parts))])
        return placed.split(names, placed.mesh.ordered(flat, placed.counts))

    def _mean(self, values):
        """The mean over all samples here, from {number of an own shard: sum over its samples}."""
        total = self.placed.table((self.placed.shards,), [((self.placed.first + i,), v) for i, v in values.items()]).sum()
        return (total / self.samples).to(self.placed.empty.dtype)

    def explicit_gradient(self, theta):
        values, gradients = {}, {}
        for i, sub in self._shares():
            loss, own = sub.explicit_gradient(theta)
            values[i], gradients[i] = loss * sub.samples, {n: g * (sub.samples / self.samples) for n, g in own.items()}
        return self._mean(values), self._sum(gradients)

    def factors(self, theta, samples=slice(None), value=False):
        values, pieces = {}, []
        for i, sub in self._shares(samples):
            found = sub.factors(theta, value=value)
            if value:
                values[i], found = found[0] * sub.samples, found[1]
            pieces.append(found)
        joined = self._joined(pieces)
        return (self.restrict(samples)._mean(values), joined) if value else joined

    def _joined(self, pieces):
        if not pieces:                                             # none of the samples is here: no rows, of the right widths
            p = self.placed.problem
            pieces = [{l: (r[:0], None if x is None else x[:0]) for l, (r, x) in p.restrict(slice(0, p.least_samples)).factors(p.initial).items()}]
        return {l: (torch.cat([q[l][0] for q in pieces]), None if pieces[0][l][1] is None else torch.cat([q[l][1] for q in pieces])) for l in pieces[0]}

    def expand(self, factors, samples=slice(None), scale=None):
        begin, gradients, count, twice = 0, {}, len(self.rows[samples]), self._repeats(factors, samples)
        for i, sub in self._shares(samples):
            rows = slice(begin, begin + sub.samples)
            pick = lambda v: v if v is None else torch.cat([v[rows.start + k * self._here(samples):rows.stop + k * self._here(samples)] for k in range(twice)])
            own = {l: (pick(r) if x is not None else r[rows], pick(x)) for l, (r, x) in factors.items()}
            gradients[i] = sub.expand(own, scale=1 / count if scale is None else scale)
            begin = rows.stop
        return self._sum(gradients)

    def _here(self, samples):
        return sum(map(len, self.own(samples)))

    def _repeats(self, factors, samples):
        """How many gradients the factors hold: a difference of two has its rows one after the other where inputs differ (`subtract`)."""
        here = self._here(samples)
        return max((len(x) // here for _, x in factors.values() if x is not None and here), default=1)

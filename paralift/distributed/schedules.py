"""How minibatches pass through stages that lie on several workers, and when each worker changes its parameters."""

from collections import deque

import torch

from ..operators.module import batch_norms
from .mesh import as_real

__all__ = ["Flushed", "Streamed"]

SHARE = 4                        # of the samples, one in so many gives the feedback, with so many times the weight


class Schedule:
    """Microbatches run forwards through the workers and backwards, one visit forwards and one backwards in turn; worker s of P has P - s of them under way.

    microbatches : parts of a minibatch, over all workers along `data`; None: a default.
    """

    def __init__(self, microbatches: int | None = None):
        if microbatches is not None and (not isinstance(microbatches, int) or isinstance(microbatches, bool) or microbatches < 1):
            raise ValueError(f"{type(self).__name__} got microbatches={microbatches!r}; it needs an integer >= 1.")
        self.microbatches = microbatches

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items() if v is not None)})"


class Flushed(Schedule):
    """All workers finish a minibatch before the next begins (1F1B with a flush): the serial gradient, the same on every mesh, with idle time (P - 1)/(M + P - 1)."""

    flush = True

    def parts(self, data: int, layers: int, deterministic: bool) -> int:
        return self.microbatches or max(data, 8 if deterministic or layers > 1 else 1)


class Streamed(Schedule):
    """No worker waits: microbatches follow each other without a flush, and each worker changes its parameters when it has seen the M parts of a minibatch backwards.

    The forward visit at worker s then lies (P - 1 - s)/M updates before the backward one, so the result depends on the number P of layer workers. M is P, for each worker
    along `data`, unless given: less than an update. Where theta_l has changed between the visits, the gradient in theta_l takes the residual r_l + c (sigma(z_l') -
    sigma(z_l)), z_l' at the newest theta_l: the target x_l belongs to the sample, and what the updates meanwhile have done towards it is not asked for again. It is not
    sent on to earlier layers. c is `feedback` times the schedule's factor on the step. One sample in four gives it, with four times the weight (all where batch statistics
    couple them): a quarter of a product a layer, made once a minibatch for linear layers, and no copy of parameters.
    """

    flush = False

    def __init__(self, microbatches: int | None = None, feedback: float = 0.3):
        super().__init__(microbatches)
        if not isinstance(feedback, (int, float)) or not 0 <= feedback <= 1:
            raise ValueError(f"Streamed got feedback={feedback!r}; it needs a number from 0 (none) to 1.")
        self.feedback = feedback

    def parts(self, data: int, layers: int, deterministic: bool) -> int:
        return self.microbatches or data * layers


class Stream:
    """One worker's part of a pass over minibatches: a generator that yields where it waits for a message.

    problem : the whole one. groups : the numbers of the stages of each worker. channel : how messages cross. A parameter of stages on several workers lies with the first; the
    others work on copies, whose gradients they send there. together : whether a minibatch's gradient is made as a whole, a product a linear layer, or microbatch by microbatch, for
    sums in a fixed order.
    """

    def __init__(self, problem, groups, rank, channel, together=False):
        self.problem, self.rank, self.layers, self.channel, self.together, group = problem, rank, len(groups), channel, together, groups[rank]
        self.stages, self.left, self.right = [problem.stages[l - 1] for l in group], crossing(problem.stages, group.start - 1), crossing(problem.stages, group.stop - 1)
        self.whole = any(batch_norms(s.module) for s in self.stages)
        self.last = rank == self.layers - 1
        users = {name: [k for k, g in enumerate(groups) if any(name in problem.stages[l - 1].theta for l in g)] for name in problem.initial}
        self.lent = [(name, w) for name, ks in users.items() if ks[:1] == [rank] for w in ks[1:]]               # copies of what lies here
        self.borrowed = [(name, ks[0]) for name, ks in users.items() if rank in ks[1:]]
        self.names = [name for s in self.stages for name in s.theta if name not in dict(self.borrowed)]

    def run(self, theta, batches, schedule, cut, factor, update):
        """cut(samples) -> [(number, samples) of this row's microbatches]; update(k, [gradient of each, or of all]) changes theta; `losses` (k, number, loss) stay here, the means
        weighted by the microbatches' sizes."""
        self.losses, self.waiting, self.room, self.updates, feedback = [], deque(), {}, 0, 0.0 if schedule.flush else schedule.feedback
        ahead = self.layers - 1 - self.rank
        work = [(k, i, rows, seed + 104729 * i, len(samples)) for k, (samples, seed) in enumerate(batches) for i, rows in cut(samples)]
        first, size = cut(batches[0][0])[0][0], len(cut(batches[0][0]))
        groups = [work]
        if schedule.flush:
            groups = [work[a:a + size] for a in range(0, len(work), size)]
        self.lag, self.copies, self.seen = 0 if schedule.flush else -(-(self.layers - 1) // size), {}, 0         # updates that a copy may lie behind, so that nobody waits
        yield from self._exchange_copies(theta)
        trained = lambda pairs: [pair for pair in pairs if pair[0] in self.problem.trained]
        self.lent, self.borrowed = trained(self.lent), trained(self.borrowed)                 # the others stay as they are
        self.coming = deque(len(rows) for _, _, rows, _, _ in work)                           # samples of the x that arrive, in their order
        self._expect_x()
        for group in groups:
            gradients, gathered = [], {} if self.together else None
            for turn in range(len(group) + ahead):
                if turn < len(group):
                    yield from self._forward(theta, *group[turn])
                if turn >= ahead:
                    k, i, gradient = yield from self._backward(theta, feedback * factor(self.updates), gathered)
                    gradients.append(gradient)
                    if i == first + size - 1:
                        if self.together:
                            gradients = [self._total(gradients, gathered, {**theta, **self.copies})]
                            gathered.clear()
                        yield from self._gather_copies(gradients)
                        update(k, gradients)
                        gradients, self.updates = [], self.updates + 1
                        for name, w in self.lent:
                            self.channel.tell(w, name, theta[name])
        while self.seen < self.updates + 1:
            yield from self._exchange_copies(theta)

    def _total(self, gradients, gathered, theta):
        """The gradient of a minibatch from those of its microbatches and the factors of linear layers'."""
        total = {}
        for own in (*gradients, *(self.problem.stages[l - 1].gathered_gradient(factors, theta, self.room.setdefault(l, {})) for l, factors in gathered.items())):
            for name, g in own.items():
                total[name] = total[name] + g if name in total else g
        return total

    def _exchange_copies(self, theta):
        """The first values of copies, or the next ones."""
        if self.seen == 0:
            for name, w in self.lent:
                self.channel.tell(w, name, theta[name])
        for name, w in self.borrowed:
            while not self.channel.told(w, name):
                yield
            self.copies[name] = self.channel.hear(w, name, self.problem.initial[name])
        self.seen += 1

    def _gather_copies(self, gradients):
        """Gradients in copies, microbatch by microbatch, go to the worker that has the parameter, which adds them to its own."""
        for name, w in self.borrowed:
            self.channel.tell(w, "gradient of " + name, torch.stack([own.pop(name) for own in gradients]))
        for name, w in self.lent:
            while not self.channel.told(w, "gradient of " + name):
                yield
            for own, g in zip(gradients, self.channel.hear(w, "gradient of " + name, self.problem.initial[name], len(gradients))):
                own[name] = own[name] + g

    def _forward(self, theta, k, i, rows, seed, n):
        if self.borrowed and k > self.lag and self.seen <= k - self.lag:
            yield from self._exchange_copies(theta)
        theta = {**theta, **self.copies}
        sub = self.problem.draw(rows, theta, seed=seed)
        values = {}
        if self.left:
            while not self.channel.ready("x"):
                yield
            values = dict(zip(self.left, self.channel.receive()))
            self._expect_x()
        kept, values = sub.evaluate_stages(theta, stages=self.stages, values=values, gather=self.together)
        share = sub.samples / n
        loss, r = sub.loss_and_residual(kept) if self.last else (0.0, None)
        own = [l for l in sub.extra if self.stages[0].index <= l <= self.stages[-1].index]
        loss = loss + sum(sub.extra[l](values[l]).sum() for l in own) / sub.samples
        if self.last or own:
            self.losses.append((k, i, share * loss))
        if self.right:
            self.channel.send([values[p] for p in self.right])
        self.waiting.append((k, i, n, sub, kept, values, r, self.updates))
        if len(self.waiting) == 1:
            self._expect_pulls()

    def _expect_x(self):
        """Make room for the next x, so that it travels while this worker computes."""
        if self.left and self.coming:
            rows = self.coming.popleft()
            own = [self.problem.stages[p - 1].elements for p in self.left]
            self.channel.expect([((rows, *e.shape), e.dtype) for e in own])

    def _expect_pulls(self):
        """The same for the pulls of the microbatch that comes back next."""
        if self.right and self.waiting:
            values = self.waiting[0][5]
            self.channel.expect_pulls([(values[p].shape, values[p].dtype) for p in self.right])

    def _backward(self, theta, c, gathered):
        k, i, n, sub, kept, values, r, made = self.waiting.popleft()
        pulls = {}
        if self.right:
            while not self.channel.ready("pull"):
                yield
            pulls = dict(zip(self.right, self.channel.receive_pulls()))
            self._expect_pulls()
        rows = sub.samples if self.whole else -(-sub.samples // SHARE)
        feedback = (c * sub.samples / rows, {**theta, **self.copies}, rows) if c and made < self.updates else None
        gradient, pulls = sub.sweep_back(self.stages, kept, values, pulls, r, n, feedback=feedback, gathered=gathered)
        if self.left:
            self.channel.send_pulls([pulls[p] for p in self.left])
        return k, i, gradient


def crossing(stages, after):
    """The x_p that stages after `after` need from those up to it."""
    return sorted({p for s in stages if s.index > after for p in s.parents if 0 < p <= after})


class Wire:
    """Messages to the workers of this row of the mesh: what goes one way at a time travels in one buffer.

    gloo sends nothing before the other end has made room, so room is made for the next message while this one is computed with. NCCL takes the messages of a lane in the order in
    which both ends ask for them (`Mesh.lanes`), so there a message is asked for when it is needed.
    """

    def __init__(self, mesh, like, names):
        self.mesh, self.like, self.weights, self.theirs, self.x, self.pulls = mesh, like.real, None, None, None, None
        self.tags = {name: 10 + i for i, name in enumerate([*names, *("gradient of " + name for name in names)])}

    def ready(self, kind):
        return True

    def _pack(self, tensors):
        return tensors[0].contiguous() if len(tensors) == 1 else torch.cat([as_real(t).reshape(-1) for t in tensors])

    def _room(self, kinds, layer, tag, lane):
        """What waits for the next message of some tensors, of kinds (shape, dtype), and returns them."""
        sizes = [torch.Size(s).numel() * (1 + dtype.is_complex) for s, dtype in kinds]
        buffer = self.like.new_empty(sum(sizes))
        ask = lambda: self.mesh.receive(buffer, layer, tag, lane)
        work = ask() if self.like.device.type == "cpu" else None

        def arrived():
            (work or ask()).wait()
            return [torch.view_as_complex(v.view(*s, 2)) if dtype.is_complex else v.view(s) for v, (s, dtype) in zip(buffer.split(sizes), kinds)]

        return arrived

    def send(self, tensors):
        self.mesh.settle(8)
        self.mesh.send(self._pack(tensors), self.mesh.layer_rank + 1, 1, "x")

    def expect(self, kinds):
        self.x = self._room(kinds, self.mesh.layer_rank - 1, 1, "x")

    def receive(self):
        return self.x()

    def send_pulls(self, pulls):
        if self.weights is None:                                 # they are the same every time
            self.weights = torch.tensor([w for _, w in pulls], dtype=torch.float64)
            self.mesh.send(self.weights, self.mesh.layer_rank - 1, 3)
        self.mesh.settle(8)
        self.mesh.send(self._pack([g for g, _ in pulls]), self.mesh.layer_rank - 1, 2, "pull")

    def expect_pulls(self, kinds):
        self.pulls = len(kinds), self._room(kinds, self.mesh.layer_rank + 1, 2, "pull")

    def receive_pulls(self):
        count, arrived = self.pulls
        if self.theirs is None:
            weights = torch.empty(count, dtype=torch.float64)
            self.mesh.receive(weights, self.mesh.layer_rank + 1, 3).wait()
            self.theirs = weights.tolist()
        return list(zip(arrived(), self.theirs))

    def tell(self, worker, name, t):
        self.mesh.send(t.clone(), worker, self.tags[name], self._lane(name))

    def told(self, worker, name):
        return True

    def hear(self, worker, name, like, *several):
        return self._room([((*several, *like.shape), like.dtype)], worker, self.tags[name], self._lane(name))()[0]

    def _lane(self, name):
        return "gradient of a copy" if name.startswith("gradient of ") else "copy"


class Post:
    """`Wire` for workers that run in one process: they share `boxes` {(from, to, kind): messages}."""

    def __init__(self, boxes, rank):
        self.boxes, self.rank = boxes, rank

    def _box(self, sender, to, kind):
        return self.boxes.setdefault((sender, to, kind), deque())

    def ready(self, kind):
        return bool(self._box(self.rank - 1, self.rank, "x") if kind == "x" else self._box(self.rank + 1, self.rank, "pull"))

    def send(self, tensors):
        self._box(self.rank, self.rank + 1, "x").append([t.clone() for t in tensors])

    def expect(self, kinds):
        """Nothing: what is sent is here."""

    expect_pulls = expect

    def receive(self):
        return self._box(self.rank - 1, self.rank, "x").popleft()

    def send_pulls(self, pulls):
        self._box(self.rank, self.rank - 1, "pull").append([(g.clone(), w) for g, w in pulls])

    def receive_pulls(self):
        return self._box(self.rank + 1, self.rank, "pull").popleft()

    def tell(self, worker, name, t):
        self._box(self.rank, worker, name).append(t.clone())

    def told(self, worker, name):
        return bool(self._box(worker, self.rank, name))

    def hear(self, worker, name, like, *several):
        return self._box(worker, self.rank, name).popleft()


def take_turns(runs):
    """Run generators until all have ended."""
    runs = list(runs)
    while runs:
        runs = [run for run in runs if next(run, runs) is not runs]

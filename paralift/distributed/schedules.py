"""How minibatches pass through stages that lie on several workers, and when each worker changes its parameters."""

from collections import deque

import torch

__all__ = ["Flushed", "Streamed"]


class Schedule:
    """Microbatches run forwards through the workers and backwards, one visit forwards and one backwards in turn; worker s < P - 1 of P has P - s + 1 of them under way, one more
    than the visits need, so that messages have time to travel.

    microbatches : parts of a minibatch, over all workers along `data`; None: a default.
    """

    def __init__(self, microbatches=None):
        if microbatches is not None and (not isinstance(microbatches, int) or isinstance(microbatches, bool) or microbatches < 1):
            raise ValueError(f"{type(self).__name__} got microbatches={microbatches!r}; it needs an integer >= 1.")
        self.microbatches = microbatches

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items() if v is not None)})"


class Flushed(Schedule):
    """All workers finish a minibatch before the next begins (1F1B with a flush): the serial gradient, the same on every mesh, with idle time (P - 1)/(M + P - 1)."""

    flush = True

    def parts(self, data, layers, deterministic):
        return self.microbatches or max(data, 8 if deterministic or layers > 1 else 1)


class Streamed(Schedule):
    """No worker waits: microbatches follow each other without a flush, and each worker changes its parameters when it has seen the M parts of a minibatch backwards.

    A forward visit then lies up to (P - s)/M updates before the backward one, so the result depends on the number P of layer workers. M is P/2 rounded up, for each worker along
    `data`, unless given. Where theta_l has changed between the visits, the gradient in theta_l takes the residual r_l + c (sigma(z_l') - sigma(z_l)), z_l' at the newest theta_l:
    the target x_l belongs to the sample, and what the updates meanwhile have done towards it is not asked for again. It is not sent on to earlier layers. c is `feedback` times the
    schedule's factor on the step. It costs a product a layer, and no copy of parameters.
    """

    flush = False

    def __init__(self, microbatches=None, feedback=0.3):
        super().__init__(microbatches)
        if not isinstance(feedback, (int, float)) or not 0 <= feedback <= 1:
            raise ValueError(f"Streamed got feedback={feedback!r}; it needs a number from 0 (none) to 1.")
        self.feedback = feedback

    def parts(self, data, layers, deterministic):
        return self.microbatches or data * -(-layers // 2)


class Stream:
    """One worker's part of a pass over minibatches: a generator that yields where it waits for a message.

    problem : the whole one. stages : its own. left, right : the blocks x_p that cross its boundaries. channel : how they cross (`receive`, `send`, `ready`).
    """

    def __init__(self, problem, stages, rank, layers, left, right, channel):
        self.problem, self.stages, self.rank, self.layers, self.left, self.right, self.channel = problem, stages, rank, layers, left, right, channel
        self.last, self.most = rank == layers - 1, 0
        self.graphs = [name for s in stages if not s.is_linear_layer for name in s.theta]           # their local maps hold the parameters they were made with

    def run(self, theta, batches, schedule, cut, factor, update):
        """cut(samples) -> [this row's microbatches]; update(k, [gradient of each]) changes theta; `losses` [k][i] stays here, the means weighted by the microbatches' sizes."""
        self.losses, self.waiting, self.updates, feedback = [], deque(), 0, 0.0 if schedule.flush else schedule.feedback
        ahead = 0 if self.last else self.layers - self.rank
        work = [(k, i, rows, seed + 104729 * i, len(samples)) for k, (samples, seed) in enumerate(batches) for i, rows in enumerate(cut(samples))]
        groups, size = [work], len(cut(batches[0][0]))
        if schedule.flush:
            groups = [work[a:a + size] for a in range(0, len(work), size)]
        for group in groups:
            gradients = []
            for turn in range(len(group) + ahead):
                if turn < len(group):
                    yield from self._forward(theta, *group[turn])
                if turn >= ahead:
                    k, i, gradient = yield from self._backward(theta, feedback * factor(self.updates))
                    gradients.append(gradient)
                    if i == size - 1:
                        if self.waiting:
                            for name in self.graphs:
                                theta[name] = theta[name].clone()
                        update(k, gradients)
                        gradients, self.updates = [], self.updates + 1

    def _forward(self, theta, k, i, rows, seed, n):
        sub = self.problem.draw(rows, theta, seed=seed)
        values = {}
        if self.left:
            while not self.channel.ready("x"):
                yield
            values = dict(zip(self.left, self.channel.receive("x", [(len(rows), *self.problem.stages[p - 1].space) for p in self.left])))
        kept, values = sub._evaluate_all(theta, stages=self.stages, values=values)
        share = sub.samples / n
        loss, r = sub._loss_and_residual(kept) if self.last else (0.0, None)
        own = [l for l in sub.extra if self.stages[0].index <= l <= self.stages[-1].index]
        loss = loss + sum(sub.extra[l](values[l]).sum() for l in own) / sub.samples
        if self.last or own:
            self.losses.append((k, i, share * loss))
        if self.right:
            self.channel.send("x", [values[p] for p in self.right])
        self.waiting.append((k, i, n, sub, kept, values, r, self.updates))
        self.most = max(self.most, len(self.waiting))

    def _backward(self, theta, c):
        k, i, n, sub, kept, values, r, made = self.waiting.popleft()
        pulls = {}
        if self.right:
            while not self.channel.ready("pull"):
                yield
            pulls = dict(zip(self.right, self.channel.receive_pulls([values[p].shape for p in self.right])))
        gradient, pulls = sub._sweep_back(self.stages, kept, values, pulls, r, n, feedback=(c, theta) if c and made < self.updates else None)
        if self.left:
            self.channel.send_pulls([pulls[p] for p in self.left])
        return k, i, gradient


def crossing(stages, after):
    """The x_p that stages after `after` need from those up to it."""
    return sorted({p for s in stages if s.index > after for p in s.parents if 0 < p <= after})


class Wire:
    """Messages to the neighbours of this worker in its row of the mesh: what goes one way at a time travels in one buffer."""

    def __init__(self, mesh, like):
        self.mesh, self.like, self.weights = mesh, like, None

    def ready(self, kind):
        return True

    def _pack(self, tensors):
        return tensors[0].contiguous() if len(tensors) == 1 else torch.cat([t.reshape(-1) for t in tensors])

    def _take(self, shapes, layer, tag):
        buffer = self.like.new_empty(sum(torch.Size(s).numel() for s in shapes))
        self.mesh.receive(buffer, layer, tag).wait()
        return [v.view(s) for v, s in zip(buffer.split([torch.Size(s).numel() for s in shapes]), shapes)]

    def send(self, kind, tensors):
        self.mesh.settle(4)
        self.mesh.send(self._pack(tensors), self.mesh.layer_rank + 1, 1)

    def receive(self, kind, shapes):
        return self._take(shapes, self.mesh.layer_rank - 1, 1)

    def send_pulls(self, pulls):
        if self.weights is None:                                 # they are the same every time
            self.weights = [w for _, w in pulls]
            self.mesh.send(torch.tensor(self.weights, dtype=torch.float64), self.mesh.layer_rank - 1, 3)
        self.mesh.settle(4)
        self.mesh.send(self._pack([g for g, _ in pulls]), self.mesh.layer_rank - 1, 2)

    def receive_pulls(self, shapes):
        if not hasattr(self, "theirs"):
            weights = torch.empty(len(shapes), dtype=torch.float64)
            self.mesh.receive(weights, self.mesh.layer_rank + 1, 3).wait()
            self.theirs = weights.tolist()
        return list(zip(self._take(shapes, self.mesh.layer_rank + 1, 2), self.theirs))


class Mailbox:
    """Messages between two neighbours in one process."""

    def __init__(self):
        self.x, self.pulls = deque(), deque()


class Post:
    """What one worker of a simulated row sees: mailboxes to its left and right."""

    def __init__(self, left, right):
        self.left, self.right = left, right

    def ready(self, kind):
        return bool(self.left.x if kind == "x" else self.right.pulls)

    def send(self, kind, tensors):
        self.right.x.append([t.clone() for t in tensors])

    def receive(self, kind, shapes):
        return self.left.x.popleft()

    def send_pulls(self, pulls):
        self.left.pulls.append([(g.clone(), w) for g, w in pulls])

    def receive_pulls(self, shapes):
        return self.right.pulls.popleft()


def take_turns(runs):
    """Run generators until all have ended."""
    runs = list(runs)
    while runs:
        runs = [run for run in runs if next(run, runs) is not runs]

"""Gradients from workers that do not wait for each other: worker 0 holds the parameters and takes the steps, the others hold the samples."""

import heapq
import os
import queue
import threading
import time
from dataclasses import replace

import torch
import torch.distributed as dist

from ..notices import warn
from ..problems.finite_sum import slices
from .mesh import Simulated

__all__ = ["serve_gradients"]

HEADER = 32                      # bytes: four numbers of 8
ALIGNED = 16                     # bytes, of the largest number type
SILENT = 1.0                     # seconds without an answer after which a worker is named, where its longest answer took less than a tenth of them
FIRST = 10.0                     # seconds for its first answer
PATIENCE = 0.9                   # of the time-out: once the process group's own has passed, nobody can be told to stop
GRACE = 2.0                      # seconds at the end for gradients that nobody needs any more


def serve_gradients(run, problem, solver, wish, interrupted):
    """run(the problem as worker 0 sees it) there, while the other workers take gradients. Under torchrun every worker returns the result."""
    computing, simulated = wish.total - 1, isinstance(wish, Simulated)
    name = type(solver).__name__
    if not 1 <= computing <= problem.samples:
        raise ValueError(f"{name}(asynchronous=True) got {wish.total} worker{'s' * (computing > 0)}; it needs one for the parameters and at least one for gradients, of at "
                         f"least one sample each, and the problem has {problem.samples}: use workers=2 to {problem.samples + 1}.")
    if wish.layers not in (None, 1):
        raise ValueError(f"{name}(asynchronous=True) got {wish!r}; its workers share the samples, not the stages: use Workers({wish.total}).")
    if solver.shards is not None and solver.shards < computing:
        raise ValueError(f"{name} got shards={solver.shards} for {computing} workers that take gradients; use shards={computing} or more, or leave it out.")
    shards = slices(problem.samples, solver.shards or computing)
    cuts = [range(w * len(shards) // computing, (w + 1) * len(shards) // computing) for w in range(computing)]
    if simulated:
        holders = [Holder(problem, solver, {i: shards[i] for i in own}) for own in cuts]
        return run(Master(problem, shards, cuts, sum((h.bounds() for h in holders), []), Clock(holders, wish.speeds, solver.seed), interrupted))
    rank, theta = dist.get_rank(), problem.start_theta()
    holder = Holder(problem, solver, {i: shards[i] for i in cuts[rank - 1]} if rank else {})
    bounds = [None] * wish.total
    dist.all_gather_object(bounds, holder.bounds())
    if rank:
        result = holder.serve(theta)
        return None if result is None else replace(result, solution=problem.finish(result.x))
    wires = Wires(computing, theta, {name: theta[name] for name in problem.theta_names}, wish.timeout, interrupted)
    result = None
    try:
        result = run(Master(problem, shards, cuts, sum(bounds, []), wires, interrupted))
        return result
    finally:
        wires.close(replace(result, solution=None, state={}) if result is not None and "TORCHELASTIC_RUN_ID" in os.environ else None)


class Message:
    """Numbers and named tensors in one block of memory, which travels at once."""

    def __init__(self, like):
        places, end = {}, HEADER
        for name, v in like.items():
            places[name] = (end, end + v.numel() * v.element_size())
            end = -(-places[name][1] // ALIGNED) * ALIGNED
        self.bytes = torch.zeros(end, dtype=torch.uint8)
        self.numbers = self.bytes[:HEADER].view(torch.float64)
        self.blocks = {name: self.bytes[a:b].view(like[name].dtype).view(like[name].shape) for name, (a, b) in places.items()}

    def write(self, blocks, *numbers):
        self.numbers[:len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        for name, v in self.blocks.items():
            v.copy_(blocks[name])


class Holder:
    """The shards {number: samples} of one worker, with their tables."""

    def __init__(self, problem, solver, shards):
        self.problem, self.solver = problem, solver
        gradient = lambda: {name: torch.zeros_like(problem.initial[name]) for name in problem.theta_names}
        self.parts = {i: (problem.restrict(rows), {}, gradient()) for i, rows in shards.items()}

    def bounds(self):
        """What the solver needs of each shard to choose a step; 0 where it needs none."""
        whole = lambda part: slice(0, part.samples)
        needed = isinstance(self.solver.step_size, str) or self.problem.convex
        return [self.solver.bound(part, self.problem.start_theta(), whole(part), self.problem.samples) if needed else 0.0 for part, *_ in self.parts.values()]

    def gradient(self, i, theta):
        """(f - <g, theta>, the change of g) with the shard's value f and gradient g at theta."""
        part, table, g = self.parts[i]
        value, change = self.solver.arrive(part, theta, slice(0, part.samples), table, not table, self.problem.samples)
        torch._foreach_add_(list(g.values()), [change[name] for name in g])
        return value - float(self.problem.inner(g, theta)), change

    def serve(self, theta):
        """Answer worker 0 until it sends the result, or None."""
        asked, answer = Message(theta), Message({name: theta[name] for name in self.problem.theta_names})
        device = next(iter(theta.values())).device
        while True:
            dist.recv(asked.bytes, 0)
            i, version = int(asked.numbers[0]), float(asked.numbers[1])
            if i < 0:
                found = [None]
                dist.recv_object_list(found, 0, device=torch.device("cpu"))
                return found[0]
            value, change = self.gradient(i, {name: v.to(device) for name, v in asked.blocks.items()})
            answer.write(change, i, version, value)
            dist.send(answer.bytes, 0)


class Wires:
    """Questions to workers and their answers. A receive cannot be polled, so each worker has a thread; messages travel through the CPU's memory."""

    def __init__(self, computing, theta, gradient, timeout, interrupted):
        self.timeout, self.interrupted, self.arrived = timeout, interrupted, queue.SimpleQueue()
        self.questions, self.answers = [Message(theta) for _ in range(computing)], [Message(gradient) for _ in range(computing)]
        self.asked, self.longest, self.named = [None] * computing, [None] * computing, [False] * computing
        self.orders, self.result = [queue.SimpleQueue() for _ in range(computing)], None
        self.threads = [threading.Thread(target=self._talk, args=(w,), daemon=True) for w in range(computing)]
        for thread in self.threads:
            thread.start()

    def _talk(self, w):
        try:
            while self.orders[w].get():
                dist.send(self.questions[w].bytes, w + 1)
                dist.recv(self.answers[w].bytes, w + 1)
                self.arrived.put((w, None))
            self.questions[w].numbers[0] = -1
            dist.send(self.questions[w].bytes, w + 1)
            dist.send_object_list([self.result], w + 1, device=torch.device("cpu"))
        except RuntimeError as error:
            self.arrived.put((w, error))

    def ask(self, w, i, version, point):
        self.questions[w].write(point, i, version)
        self.asked[w] = time.monotonic()
        self.orders[w].put(True)

    def answered(self):
        """[(worker, shard, value, version, change)] of all that have answered, at least one; each change is good until its worker is asked again."""
        found = []
        while not found or not self.arrived.empty():
            try:
                w, error = self.arrived.get(timeout=0.1)
            except queue.Empty:
                self._look()
                if self.interrupted():
                    raise KeyboardInterrupt from None
                continue
            if error is not None:
                raise error
            self.longest[w] = max(time.monotonic() - self.asked[w], self.longest[w] or 0.0)
            self.asked[w], self.named[w] = None, False
            i, version, value = self.answers[w].numbers[:3].tolist()
            found.append((w, int(i), value, int(version), self.answers[w].blocks))
        self._look()
        return found

    def _look(self):
        """Name workers that are silent; give up on those that stay so."""
        now = time.monotonic()
        for w, since in enumerate(self.asked):
            if since is not None and now - since > PATIENCE * self.timeout:
                raise RuntimeError(f"worker {w + 1} has sent no gradient for {now - since:.1f} s; look at that process, or raise Workers(timeout={self.timeout:g}) where a "
                                   "gradient takes longer. All workers stop; solve on with resume=<checkpoint>.")
            if since is not None and not self.named[w] and now - since > (FIRST if self.longest[w] is None else max(SILENT, 10 * self.longest[w])):
                self.named[w] = True
                warn(f"worker {w + 1} has sent no gradient for {now - since:.1f} s; the others go on until the oldest gradient reaches max_delay, and then wait for "
                              f"it, up to the time-out of {self.timeout:g} s.")

    def close(self, result):
        """Tell the workers to end, at once or after the gradient that they are at; where nobody waits for the result, who takes longer is left behind."""
        self.result, end = result, time.monotonic() + (GRACE if result is None else self.timeout)
        for orders in self.orders:
            orders.put(False)
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))


class Clock:
    """The workers of a simulation: gradients take rows / speed, times a factor between 0.5 and 1.5, of a clock that needs no time; answers come in its order."""

    def __init__(self, holders, speeds, seed):
        self.holders, self.speeds = holders, speeds or (1.0,)
        self.now, self.count, self.due, self.generator = 0.0, 0, [], torch.Generator().manual_seed(seed)

    def ask(self, w, i, version, point):
        rows, factor = self.holders[w].parts[i][0].samples, 0.5 + float(torch.rand((), generator=self.generator))
        self.count += 1
        heapq.heappush(self.due, (self.now + rows / self.speeds[w % len(self.speeds)] * factor, self.count, w, i, version, point))

    def answered(self):
        self.now, _, w, i, version, point = heapq.heappop(self.due)
        value, change = self.holders[w].gradient(i, point)
        return [(w, i, value, version, change)]


class Master:
    """The problem as worker 0 sees it: its own, and the gradients that arrive from the others."""

    leads = True

    def __init__(self, problem, shards, cuts, bounds, transport, interrupted):
        self.problem, self.bounds, self.transport, self.interrupted = problem, bounds, transport, interrupted
        self.shards, self.sizes, self.sent = len(shards), [rows.stop - rows.start for rows in shards], {}
        self.turns = [list(own) for own in cuts]                        # of every worker, the shard that is next first
        self.idle, self.fresh = list(range(len(cuts))), True
        self.layout = f"1 worker with the parameters, {len(cuts)} with {len(shards)} shards of the samples"

    def __getattr__(self, name):
        return getattr(self.problem, name)

    def agree(self, *flags):
        if self.interrupted():
            raise KeyboardInterrupt
        return flags

    def arrivals(self, version, point, born):
        """Send `point` to the workers that have answered, where their next shard's gradient is not of this version, and wait for the next answers:
        [(shard, value, version of its point, that point, change of the gradient, rows)]."""
        ready = [w for w in self.idle if born[self.turns[w][0]] < version]
        for w in ready:
            self.transport.ask(w, self.turns[w][0], version, point)
            self.sent[w] = point
            self.turns[w].append(self.turns[w].pop(0))
        self.fresh, self.idle = False, [w for w in self.idle if w not in ready]
        found = self.transport.answered()
        self.idle += [w for w, *_ in found]
        here = lambda change: {name: v.to(point[name].device) for name, v in change.items()}
        return [(i, value, taken, self.sent[w], here(change), self.sizes[i]) for w, i, value, taken, change in found]

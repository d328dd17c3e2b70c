"""What workers share, and what communicating costs them: given, or measured on this computer."""

import gc
import math
import os
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle

import torch
import torch.distributed as dist
from torch import nn

from ..arguments import Extended, checked
from ..problems.lifted_training import LiftedTraining
from .costs import Link
from .mesh import Mesh
from .placed import BUCKET
from .room import Room
from .schedules import Post, Stream, Streamed, take_turns

__all__ = ["Machine", "calibrate"]

SMALL, LARGE = 2**12, 2**22      # bytes of a message
MINIBATCHES = 10


@checked
@dataclass(frozen=True)
class Machine:
    """Workers and what is between them.

    messages, sums : Link of a message between two workers, and of a sum over workers, gathering included. cores : that all workers share; math.inf: each has its own.
    visit : seconds that a microbatch costs a worker beside its stages. gather : seconds a byte of gathering residuals and inputs in memory that is kept, as in streams.
    Raises ValueError where a number does not fit.
    """

    messages: Link = Link(20e-6, 10e9)
    sums: Link = Link(20e-6, 10e9)
    cores: Extended = math.inf
    visit: float = 0.0
    gather: float = 0.0

    def __post_init__(self):
        if not self.cores > 0 or not all(0 <= v < math.inf for v in (self.visit, self.gather)):
            raise ValueError(f"{self} was given; it needs cores > 0 (math.inf: each worker its own), visit >= 0 (s) and gather >= 0 (s a byte).")


def calibrate(repeats: int = 9) -> Machine:
    """The Machine that this computer is, for workers of one thread: 3 seconds of two processes, which should have it for themselves.

    Messages of 4 KiB and 4 MiB both ways at once, sums of 4 KiB and 8 MiB as forked workers make them (through memory that they share): seconds, and the processor time of one
    process in them. Gathering of four times 8 MiB. Streams over eight and two workers in one process, of the same stages: the difference is their visits'. The fastest of
    `repeats` tries each.
    Raises ValueError where repeats is no integer >= 1, RuntimeError inside a process group or where there is no fork.
    """
    if not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"calibrate got repeats={repeats!r}; it needs an integer >= 1.")
    if not hasattr(os, "fork") or dist.is_initialized():
        raise RuntimeError("calibrate starts a process by fork and a process group of its own, which cannot be here; call it outside of workers, on Unix, or give Machine(...).")
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="paralift") as folder:
        gc.collect()
        gc.freeze()                                              # an earlier group's garbage is not for the child
        Room.current = room = Room(2)
        child = os.fork()
        try:
            facts = _facts(folder, int(child == 0), repeats)
        finally:
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            room.mail.close()
            Room.current = None
            gc.unfreeze()
            torch.set_num_threads(threads)
    return facts


def _facts(folder, rank, repeats):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(folder + "/store", 2), rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        along, across = Mesh(1, 2), Mesh(2, 1)

        def message(size):
            out, into = torch.zeros(size // 4), torch.empty(size // 4)

            def exchange():
                work = along.receive(into, 1 - rank, 1)
                along.send(out, 1 - rank, 1)
                work.wait()
                along.settle()

            return _timed(exchange, across, repeats, 20)

        def total(size):
            several = cycle([list(torch.zeros(8, size // 32)) for _ in range(4)])           # as gradients are, not what the cache has from before
            return _timed(lambda: across.sum_data(next(several)).wait(), across, repeats, 8)

        def link(small, large, sent):
            per_byte = max(large[0] - small[0], 1e-12) / sent
            return Link(small[0], 1 / per_byte, cores=large[1] / large[0])

        several, kept = [list(torch.zeros(8, BUCKET // 32)) for _ in range(4)], torch.empty(BUCKET // 4)
        gathering = _timed(lambda: [torch.cat(parts, out=kept) for parts in several], across, repeats, 2)[0]
        messages = link(message(SMALL), message(LARGE), LARGE - SMALL)
        sums = link(*((seconds / 2, busy / 2) for seconds, busy in (total(SMALL), total(BUCKET))), (BUCKET - SMALL) / 2)       # two steps, of half of it
        problem = _small()
        many, few = (_timed(lambda: _stream(problem, workers), across, repeats, 1)[0] for workers in (8, 2))
        visit = max(0.0, many - few) / (6 * 8 * MINIBATCHES)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return Machine(messages, sums, cores, visit, gathering / 4 / BUCKET)
    finally:
        dist.destroy_process_group()


def _timed(work, mesh, repeats, times):
    """(seconds, processor seconds of this process) of work(), made by both processes at once: those of the fastest try."""
    work()
    tries = []
    for _ in range(repeats):
        mesh.total(torch.zeros(1))
        began, busy = time.perf_counter(), time.process_time()
        for _ in range(times):
            work()
        tries.append(((time.perf_counter() - began) / times, (time.process_time() - busy) / times))
    return min(tries)


def _small():
    """Eight small stages, and the samples of ten minibatches of eight microbatches."""
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(*[m for _ in range(7) for m in (nn.Linear(16, 16), nn.ReLU())], nn.Linear(16, 16))
        x = torch.randn(64 * MINIBATCHES, 16)
    return LiftedTraining(network, x, x, loss="squared_error")


def _stream(problem, workers):
    """A pass over eight or fewer workers, all in this process, without updates."""
    boxes, size, cut = {}, 8 // workers, lambda samples: list(enumerate(samples.tensor_split(8)))
    groups = [range(1 + k * size, 1 + (k + 1) * size) for k in range(workers)]
    batches = [(samples, 0) for samples in torch.arange(problem.samples).split(64)]
    streams = [Stream(problem, groups, k, Post(boxes, k)) for k in range(workers)]
    take_turns(s.run(problem.start_theta(), batches, Streamed(8, feedback=0), cut, lambda k: 1.0, lambda k, gradients: None) for s in streams)

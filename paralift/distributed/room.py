"""Memory that forked workers share: a sum through it costs them a copy and an addition, where sockets take the processor for several passes over the numbers."""

import mmap
import os

import torch

from .mail import Mail

__all__ = ["Room", "Slots"]

LEAST = 2**16                    # bytes from which it is worth it
MOST = 2**30                     # bytes of room for sums, and as many for mail, of which only what is used exists
POSTED = -1                      # the tag of "it is there"


class Room:
    """Memory of `workers` that are about to fork: for their `mail`, and for sums two halves, used in turn: whoever writes into one has waited for all messages of the other, so
    everybody has read what was in it before.

    All workers of a column (those with the same stages) begin the same messages in the same order, and wait for them in that order; a half is left when nothing is under way.
    """

    current: "Room | None" = None               # of the workers that are being forked

    def __init__(self, workers):
        size = min(MOST, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8) // 128 * 128
        while True:
            try:
                memory = mmap.mmap(-1, 2 * size)
                break
            except OSError:                                        # a limit on a process's memory, or on what all may ask for: less of it, and more travels by gloo
                size = size // 256 * 128
                if size < workers * LEAST:
                    raise
        self.memory, self.mail = torch.frombuffer(memory, dtype=torch.uint8)[:size], Mail(workers, memory, size)

    def enter(self, mesh, timeout):
        """The part of this worker's column."""
        part = len(self.memory) // mesh.layers // 2 // 64 * 64
        own = self.memory[2 * mesh.layer_rank * part:2 * (mesh.layer_rank + 1) * part]
        self.halves, self.workers, self.worker, self.turn, self.used, self.open = own.split(part), mesh.data, mesh.data_rank, 0, 0, 0
        self.others = [d * mesh.layers + mesh.layer_rank for d in range(mesh.data) if d != mesh.data_rank]
        self.mail.enter(mesh.rank, timeout)
        return self

    def take(self, shape, dtype):
        """Slots (workers, *shape) for one message; None where it is small, or does not fit."""
        count = torch.Size(shape).numel()
        step = -(-count * dtype.itemsize // 64) * 64
        if count * dtype.itemsize < LEAST or self.used + self.workers * step > len(self.halves[0]):
            return None
        flat = self.halves[self.turn][self.used:self.used + self.workers * step].view(dtype).view(self.workers, -1)
        self.used, self.open = self.used + self.workers * step, self.open + 1
        return Slots(self, flat[:, :count].unflatten(1, shape))

    def close(self):
        self.open -= 1
        if not self.open:
            self.turn, self.used = 1 - self.turn, 0


class Slots:
    """A message under way: `own` is to be written before `post`; `wait` gives (workers, *shape), good until the next message but one."""

    def __init__(self, room, rows):
        self.room, self.rows, self.own = room, rows, rows[room.worker]

    def post(self):
        for worker in self.room.others:
            self.room.mail.tell(worker, POSTED)
        return self

    def wait(self):
        for worker in self.room.others:
            self.room.mail.heard(worker, POSTED)
        self.room.close()
        return self.rows

"""Messages between forked workers: a copy into memory that both see, and a few bytes in the receiver's pipe that say so; no thread and no socket in between."""

import os
import select
import struct
import time
from collections import defaultdict, deque
from contextlib import suppress

import torch

__all__ = ["Mail"]

RECORD = struct.Struct("<qqqq")  # sender, tag, slot, position; shorter than what a pipe takes at once
SLOTS = 256                      # messages of a worker that may be unread
ELSEWHERE = -1                   # the slot of a message that comes another way, or has no content
GONE = RECORD.pack(-1, 0, ELSEWHERE, 0)
LOOK = 1.0                       # seconds between two looks whether worker 0 is there
AGAIN = 0.01                     # and between two tries to write into a pipe that is full


class Mail:
    """An inbox for each of `workers` processes, made before they fork, and room for what each of them sends in `memory` (an mmap) from `begin` on.

    A worker that sends puts a message where none that is unread lies, the lowest place first, so that a few places are used again and again; the reader marks it as read.
    Messages of one sender and tag are read in the order in which they were sent.
    """

    def __init__(self, workers, memory, begin):
        self.pipes, self.parent, self.rank = [os.pipe() for _ in range(workers)], os.getpid(), None
        for _, end in self.pipes:
            os.set_blocking(end, False)
        size = (len(memory) - begin) // workers // 64 * 64
        room = torch.frombuffer(memory, dtype=torch.uint8)
        self.read = [memoryview(memory)[begin + w * size:begin + w * size + SLOTS] for w in range(workers)]            # a byte a slot: 1 once it is read
        self.rooms = [room[begin + w * size + SLOTS:begin + (w + 1) * size] for w in range(workers)]
        self.unread, self.arrived = {}, defaultdict(deque)       # {slot: (begin, end)} of mine; {(sender, tag): [(slot, position)]} for me

    def enter(self, rank, timeout):
        """As the worker of this rank."""
        if self.rank is None:
            self.rank, self.timeout, self.inbox = rank, timeout, select.poll()
            self.inbox.register(self.pipes[rank][0], select.POLLIN)
        return self

    def send(self, t, to, tag):
        """Whether there was room for a copy of t; where not, the receiver knows that it comes elsewhere."""
        size = t.numel() * t.element_size()
        slot, begin = self._place(size)
        if slot != ELSEWHERE and size:
            self.rooms[self.rank][begin:begin + size].view(t.dtype).copy_(t.reshape(-1))
        self._write(to, tag, slot, begin)
        return slot != ELSEWHERE

    def _place(self, size):
        """(slot, position) of room for so many bytes."""
        flags = self.read[self.rank]
        for slot in [s for s in self.unread if flags[s]]:
            del self.unread[slot]
            flags[slot] = 0
        begin = 0
        for taken, end in sorted(self.unread.values()):
            if begin + size <= taken:
                break
            begin = end
        if len(self.unread) == SLOTS or begin + size > len(self.rooms[self.rank]):
            return ELSEWHERE, 0
        slot = next(s for s in range(SLOTS) if s not in self.unread)
        self.unread[slot] = (begin, begin + -(-size // 64) * 64)
        return slot, begin

    def receive(self, buffer, sender, tag):
        """Wait for the next message of this sender and tag, and write it into the buffer; False where it comes elsewhere."""
        slot, begin = self._next(sender, tag)
        if slot == ELSEWHERE:
            return False
        if buffer.numel():
            buffer.view(-1).copy_(self.rooms[sender][begin:begin + buffer.numel() * buffer.element_size()].view(buffer.dtype))
        self.read[sender][slot] = 1
        return True

    def tell(self, to, tag):
        """A message without content."""
        self._write(to, tag, ELSEWHERE, 0)

    def heard(self, sender, tag):
        """Wait for one."""
        self._next(sender, tag)

    def _next(self, sender, tag):
        waiting, ends = self.arrived[sender, tag], None
        while not waiting:
            ends = self._look(min(LOOK, self.timeout), ends, f"a message of worker {sender}")
        return waiting.popleft()

    def _write(self, to, *what):
        """Into a pipe; while it is full mine is read, since who should empty that one may wait for room in mine."""
        record, ends = RECORD.pack(self.rank, *what), None
        while True:
            try:
                os.write(self.pipes[to][1], record)
                return
            except BlockingIOError:
                ends = self._look(min(AGAIN, self.timeout), ends, f"worker {to} to read its messages")

    def _look(self, seconds, ends, awaited):
        """Note what arrives within so many seconds; where nothing does, the time at which the wait is given up."""
        if self.inbox.poll(1e3 * seconds):
            for found, kind, slot, begin in RECORD.iter_unpack(os.read(self.pipes[self.rank][0], SLOTS * RECORD.size)):
                if found < 0:
                    raise RuntimeError("a worker has gone: Connection closed by peer")
                self.arrived[found, kind].append((slot, begin))
            return ends
        ends = ends or time.monotonic() + self.timeout - seconds
        if self.rank and os.getppid() != self.parent:
            raise RuntimeError("worker 0 has gone: Connection closed by peer")
        if time.monotonic() > ends:
            raise RuntimeError(f"Timed out waiting for {awaited}")
        return ends

    def end(self):
        """Tell all that others have gone."""
        for _, end in self.pipes:
            with suppress(BlockingIOError):
                os.write(end, GONE)

    def close(self):
        for pipe in self.pipes:
            for end in pipe:
                os.close(end)

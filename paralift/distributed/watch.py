"""Who looks after the workers: `Watch` sees forked ones end, which the kernel tells (torchrun has an agent of its own for that); `Pulse` says which ones are silent, by signs of
life that each of them leaves in the store."""

import multiprocessing.connection
import os
import signal
import threading
import time

import torch.distributed as dist

__all__ = ["Watch", "Pulse", "explained", "is_lost"]

BEAT = 1.0                       # seconds between two signs of life
LOST = 3                         # exit code of a worker that another one has left
PLACES = (os.path.dirname(__file__) + os.sep, os.path.dirname(dist.__file__) + os.sep)           # of the code in which workers wait for each other


def _exit_code(child):
    """Of a process that has just ended: it may be a moment until it is known."""
    for _ in range(50):
        if child.exitcode is not None:
            return child.exitcode
        time.sleep(0.02)
    return -1


def _cause(codes, others=(LOST,)):
    """(worker, exit code) of one that ended badly, {worker: code} of all that have ended, where its code is not among others'."""
    return min(((number, code) for number, code in codes.items() if code and code not in others), key=lambda pair: pair[1], default=None)


class Watch:
    """A thread beside worker 0, which may wait where no Python runs: once a child dies the others are killed too, and at the second Ctrl-C all are, so that every wait ends."""

    def __init__(self, children, mail):
        self.children, self.mail, self.dead, self.stopped, self.pipe, self.before = children, mail, None, False, os.pipe(), None
        if threading.current_thread() is threading.main_thread():
            os.set_blocking(self.pipe[1], False)
            self.before = signal.set_wakeup_fd(self.pipe[1])
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        presses, open_sentinels = 0, {child.sentinel: (number, child) for number, child in enumerate(self.children, 1)}
        while True:
            ready = multiprocessing.connection.wait([self.pipe[0], *open_sentinels])
            if self.pipe[0] in ready:
                signals = os.read(self.pipe[0], 64)
                if b"\0" in signals:
                    return
                presses += signals.count(bytes([signal.SIGINT]))
                if presses > 1:
                    self.stopped = True
                    return self._end()
            ended = [open_sentinels.pop(r) for r in ready if r in open_sentinels]
            codes = {number: _exit_code(child) for number, child in ended}
            if any(codes.values()):
                self.dead = _cause(codes)
                time.sleep(1.0)                                    # the others may end by themselves, with their own words
                codes.update({number: child.exitcode for number, child in open_sentinels.values()})
                self.dead = self.dead or _cause(codes) or _cause(codes, ())
                return self._end()

    def _end(self):
        for child in self.children:
            child.kill()
        self.mail.end()

    def close(self):
        if self.before is not None:
            signal.set_wakeup_fd(self.before)
        os.write(self.pipe[1], b"\0")
        self.thread.join(3)
        for end in self.pipe:
            os.close(end)


class Pulse:
    """Signs of life of this worker in the store, and who gave none."""

    def __init__(self, store, rank, size):
        self.store, self.rank, self.size, self.done = store, rank, size, threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def _beat(self):
        while not self.done.wait(BEAT):
            try:
                self.store.set(f"pulse{self.rank}", str(time.time()))
            except RuntimeError:
                return

    def silent(self):
        """Ranks whose last sign is older than five beats; worker 0, which keeps the store, where the store does not answer."""
        found = []

        def look():
            now = time.time()
            for rank in range(self.size):
                last = float(self.store.get(f"pulse{rank}")) if self.store.check([f"pulse{rank}"]) else 0.0
                if now - last > 5 * BEAT:
                    found.append(rank)
            found.append(None)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(5 * BEAT)
        return found[:-1] if None in found else [0]

    def stop(self):
        self.done.set()
        self.thread.join(2 * BEAT)


def is_lost(error):
    """Whether the error says that another worker has gone, or was waited for in vain: one of an exchange between workers, not the user's own with such words."""
    text, last = str(error), error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    ours = last is not None and last.tb_frame.f_code.co_filename.startswith(PLACES)
    return ours and isinstance(error, RuntimeError) and any(s in text for s in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out",
                                                                                 "Connection refused"))


def explained(error, pulse, wish):
    """`error`; where a worker has waited in vain, in a sentence that names who is silent."""
    if not is_lost(error) or "imed out" not in str(error):
        return error
    silent = pulse.silent()
    who = f"worker {', '.join(map(str, silent))} does not answer" if silent else "a worker is in a step that the others have left"
    return RuntimeError(f"{who}, after {wish.timeout:g} s; look at that process, or raise Workers(timeout=...) where a step takes longer. All workers stop; "
                        "solve on with resume=<checkpoint>.")

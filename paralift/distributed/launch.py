"""Start workers, check that they hold the same problem, and let every one of them run the solver's loop."""

import hashlib
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ..problems.lifted_training import LiftedTraining
from .asynchronous import serve_gradients
from .layout import place
from .mesh import Simulated, Workers

__all__ = ["share", "rank", "interrupted"]

BEAT = 1.0                       # seconds between two signs of life

_active = False
_interrupted = False


def rank():
    """This process's number among those that torchrun has started; 0 elsewhere."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def interrupted():
    return _interrupted


def share(run, problem, solver, workers):
    """run(placed problem) on all workers: this process and `workers - 1` children, or the processes that torchrun has started. Returns worker 0's result."""
    global _active
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if _active or workers is None and not isinstance(problem, LiftedTraining):           # a solver inside a worker; a problem without stages and samples
        return run(problem)
    world = int(os.environ["WORLD_SIZE"]) if launched else 1
    wish = Workers(world) if workers is None else Workers.of(workers)
    if launched and wish.total != world:
        raise ValueError(f"workers={wish.total} was given under torchrun with {world} processes; leave workers= out, or start torchrun --nproc-per-node {wish.total}.")
    if not isinstance(problem, LiftedTraining):
        raise TypeError(f"workers={wish.total} was given for {type(problem).__name__}, which has no stages and samples to share; solve it without workers=.")
    if wish.total > problem.samples * problem.depth:
        raise ValueError(f"{wish.total} workers were asked for, and the problem has {problem.depth} stages and {problem.samples} samples; "
                         f"use workers={min(problem.samples, problem.depth)} or fewer.")
    if solver.shared is None:
        raise TypeError(f"workers={wish.total} was given for {solver!r}, which runs on one worker; use ISGM with one sweep, PGD, FISTA, BCD without groups, SGD, SVRG, SAGA, Katyusha "
                        "or PIAG(asynchronous=True).")
    free = solver.shared == "gradients"
    work = lambda: serve_gradients(run, problem, solver, wish, interrupted) if free else run(place(problem, solver, wish, interrupted))
    _active = True
    try:
        with _interrupts():
            if launched:
                return _torchrun(work, problem, solver, wish)
            return work() if wish.total == 1 or isinstance(wish, Simulated) else _fork(work, problem, solver, wish)
    finally:
        _active = False


@contextmanager
def _interrupts():
    """Ctrl-C sets a flag, on which all workers agree after the step; a second one interrupts at once."""
    global _interrupted
    _interrupted = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number, frame):
        global _interrupted
        if _interrupted:
            raise KeyboardInterrupt
        _interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_alike(problem, solver):
    """Refuse ranks with other versions, solvers or problems."""
    from .. import __version__

    mine = {"paralift": __version__, "torch": torch.__version__, "python": platform.python_version(), "solver": repr(solver), **fingerprint(problem)}
    all_of_them = [None] * dist.get_world_size()
    dist.all_gather_object(all_of_them, mine)
    for rank, other in enumerate(all_of_them):
        odd = [k for k in mine if other.get(k) != all_of_them[0].get(k)]
        if odd:
            raise ValueError(f"worker {rank} differs from worker 0 in its {', '.join(odd)}: {other[odd[0]]} instead of {all_of_them[0][odd[0]]}; give all workers the same "
                             "script, seed (torch.manual_seed before the network is made), versions and data.")


def fingerprint(problem):
    """{what: a short text} that equal problems share."""
    digest = lambda tensors: hashlib.sha256(b"".join(t.detach().double().sum().cpu().numpy().tobytes() + t.flatten()[:64].double().cpu().numpy().tobytes()
                                                     for t in tensors)).hexdigest()[:12]
    stages = "; ".join(f"{s.index} {s.operator} {s.parents} {s.space}" for s in problem.stages)
    return {"stages": hashlib.sha256(stages.encode()).hexdigest()[:12], "initial parameters": digest(problem.initial.values()),
            "samples": str(tuple(problem.inputs.shape)), "data": digest([problem.inputs, problem.targets]), "rho": str(problem.rho)}


def _join(store, rank, wish, device):
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl", store=store, rank=rank, world_size=wish.total, timeout=timedelta(seconds=wish.timeout))


# ---- under torchrun
def _torchrun(work, problem, solver, wish):
    if not dist.is_initialized():
        if wish.total == 1:
            return work()
        store, rank, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=wish.timeout)))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")                    # a restart must not read the last attempt's keys
        _join(dist.PrefixStore(f"paralift{attempt}", store), rank, wish, problem.inputs.device)
    pulse = _Pulse(dist.distributed_c10d._get_default_store(), dist.get_rank(), wish.total)
    try:
        _check_alike(problem, solver)
        return work()
    except RuntimeError as error:
        raise _explained(error, pulse, wish) from error
    finally:
        pulse.stop()


# ---- by fork
def _fork(work, problem, solver, wish):
    """This process is worker 0; the others are its children, which have everything from it."""
    if problem.inputs.device.type != "cpu" or not hasattr(os, "fork"):
        raise RuntimeError(f"workers={wish.total} starts processes by fork, which serves tensors on the CPU of a Unix machine; "
                           f"start the script with torchrun --nproc-per-node {wish.total} in place of it.")
    if dist.is_initialized():
        raise RuntimeError("workers= was given inside a process group that is already there; leave it out under torchrun, or destroy the group first.")
    context, folder, threads = multiprocessing.get_context("fork"), tempfile.TemporaryDirectory(prefix="paralift"), torch.get_num_threads()
    sys.stdout.flush()
    children = [context.Process(target=_child, args=(work, problem, solver, wish, rank, folder.name), daemon=True) for rank in range(1, wish.total)]
    try:
        for child in children:
            child.start()
        torch.set_num_threads(max(1, threads // wish.total))
        return _worker(work, problem, solver, wish, 0, folder.name)
    except RuntimeError as error:
        time.sleep(0.2)
        reports = sorted(Path(folder.name).glob("error*"))
        if reports:
            rank = reports[0].name[5:]
            raise RuntimeError(f"worker {rank} failed:\n{reports[0].read_text()}") from None
        dead = [(rank, child.exitcode) for rank, child in enumerate(children, 1) if child.exitcode]
        if dead:
            raise RuntimeError(f"worker {dead[0][0]} ended with exit code {dead[0][1]}{' (killed)' if dead[0][1] < 0 else ''}; "
                               "solve on with resume=<checkpoint>, with fewer workers where memory ran out.") from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for child in children:
            child.join(2)
            if child.is_alive():
                child.kill()
                child.join()
        torch.set_num_threads(threads)
        folder.cleanup()


def _child(work, problem, solver, wish, rank, folder):
    signal.signal(signal.SIGINT, signal.SIG_IGN)                  # worker 0 tells the others
    code = 0
    try:
        torch.set_num_threads(max(1, torch.get_num_threads() // wish.total))
        _worker(work, problem, solver, wish, rank, folder)
    except BaseException as error:
        code = 1
        if not isinstance(error, (dist.DistError, SystemExit)) and not _is_lost(error):
            (Path(folder) / f".{rank}").write_text(traceback.format_exc())
            os.replace(Path(folder) / f".{rank}", Path(folder) / f"error{rank}")
    finally:
        os._exit(code)


def _worker(work, problem, solver, wish, rank, folder):
    store = dist.FileStore(str(Path(folder) / "store"), wish.total)
    store.set_timeout(timedelta(seconds=wish.timeout))
    _join(store, rank, wish, problem.inputs.device)
    pulse = _Pulse(store, rank, wish.total)
    try:
        _check_alike(problem, solver)
        result = work()
        if solver.shared != "gradients":
            dist.barrier()                                        # nobody leaves while another still reads
        return result
    except RuntimeError as error:
        raise _explained(error, pulse, wish) from error
    finally:
        pulse.stop()


# ---- who is to blame
def _is_lost(error):
    """Whether the error says that another worker has gone, or does not answer."""
    text = str(error)
    return isinstance(error, RuntimeError) and any(s in text for s in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out",
                                                                        "Connection refused", "does not answer"))


def _explained(error, pulse, wish):
    if not _is_lost(error) or "imed out" not in str(error):
        return error
    silent = pulse.silent()
    who = f"worker {', '.join(map(str, silent))} does not answer" if silent else "a worker is in a step that the others have left"
    return RuntimeError(f"{who}, after {wish.timeout:g} s; look at that process, or raise Workers(timeout=...) where a step takes longer. All workers stop; "
                        "solve on with resume=<checkpoint>.")


class _Pulse:
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

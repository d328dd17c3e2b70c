"""Start workers, check that they hold the same problem, and let every one of them run the solver's loop."""

import gc
import hashlib
import multiprocessing
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..operators.functional import Functional
from ..operators.operator import Operator
from ..problems.composite import Composite
from ..problems.lifted_inversion import LiftedInversion
from ..problems.lifted_training import LiftedTraining
from .asynchronous import serve_gradients
from .layout import place
from .mesh import Simulated, Workers
from .room import Room
from .terms import place_terms, shares_terms
from .watch import LOST, Pulse, Watch, explained, is_lost

__all__ = ["share", "rank", "interrupted"]

LIFTED = (LiftedTraining, LiftedInversion)

_active = False
_rank = None
_interrupted = False


def rank() -> int:
    """This worker's number: among the processes that torchrun has started, or within `solve(workers=N)`; 0 elsewhere."""
    return _rank if _rank is not None else int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def interrupted():
    return _interrupted


def share(run: Callable[..., Any], problem: Any, solver: Any, workers: int | Workers | None, options: dict[str, str]) -> Any:
    """run(placed problem) on all workers: this process and `workers - 1` children, or the processes that torchrun has started. Returns worker 0's result."""
    global _active
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if _active:                                                   # a solver inside a worker
        return run(problem)
    world = int(os.environ["WORLD_SIZE"]) if launched else 1
    wish, terms = Workers(world) if workers is None else Workers.of(workers), isinstance(problem, Composite) and not isinstance(workers, Simulated)
    if workers is None and not isinstance(problem, LIFTED) and not (terms and shares_terms(problem, world)):         # nothing to share: every process solves it, one writes
        problem.leads = rank() == 0
        return run(problem)
    if launched and wish.total != world:
        raise ValueError(f"workers={wish.total} was given under torchrun with {world} processes; leave workers= out, or start torchrun --nproc-per-node {wish.total}.")
    if wish.total == 1 and (solver.shared is None or not isinstance(problem, LIFTED)):
        return run(problem)
    if not isinstance(problem, LIFTED) and (not terms or solver.shared == "gradients"):
        raise TypeError(f"workers={wish.total} was given for {type(problem).__name__}, which has no stages and samples to share; solve it without workers=.")
    if not terms and wish.total > problem.samples * problem.depth:
        raise ValueError(f"{wish.total} workers were asked for, and the problem has {problem.depth} stages and {problem.samples} samples; use fewer.")
    if not terms and solver.shared is None:
        raise TypeError(f"workers={wish.total} was given for {solver!r}, which runs on one worker; use ISGM with one sweep, PGD, FISTA, BCD without groups, SGD, SVRG, SAGA, "
                        "Katyusha or PIAG(asynchronous=True).")
    free = solver.shared == "gradients"
    work = lambda: serve_gradients(run, problem, solver, wish, interrupted) if free else run((place_terms if terms else place)(problem, solver, wish, interrupted))
    _active = True
    try:
        with _interrupts():
            if launched:
                return _torchrun(work, problem, solver, wish, options)
            return work() if wish.total == 1 or isinstance(wish, Simulated) else _fork(work, problem, solver, wish, options)
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


def _check_alike(problem, solver, options):
    """Refuse ranks with other versions, solvers, options or problems."""
    from .. import __version__

    mine = {"paralift": __version__, "torch": torch.__version__, "python": platform.python_version(), "solver": _plain(solver), **options, **fingerprint(problem)}
    all_of_them = [None] * dist.get_world_size()
    dist.all_gather_object(all_of_them, mine)
    for number, other in enumerate(all_of_them):
        odd = [k for k in mine if other.get(k) != all_of_them[0].get(k)]
        if odd:
            raise ValueError(f"worker {number} differs from worker 0 in its {', '.join(odd)}: {other[odd[0]]} instead of {all_of_them[0][odd[0]]}; give all workers the same "
                             "script, seed (torch.manual_seed before the network is made), versions and data.")


def _plain(thing):
    """repr without addresses, which differ between processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def _device(problem):
    return problem.inputs.device if isinstance(problem, LIFTED) else problem.start()["x"].device


def _tensors(thing, depth=0):
    """The tensors inside functionals and operators, in the order of their attributes."""
    if torch.is_tensor(thing):
        return [thing]
    inside = thing if isinstance(thing, (list, tuple)) else [v for k, v in vars(thing).items() if k[0] != "_"] if isinstance(thing, (Functional, Operator)) else []
    return [t for part in inside for t in _tensors(part, depth + 1)] if depth < 20 else []


def fingerprint(problem):
    """{what: a short text} that equal problems share."""
    wide = lambda t: t.detach().to(torch.complex128 if t.is_complex() else torch.float64)
    digest = lambda tensors: hashlib.sha256(b"".join(wide(t).sum().cpu().numpy().tobytes() + wide(t.flatten()[:64]).cpu().numpy().tobytes()
                                                     for t in tensors)).hexdigest()[:12]
    if isinstance(problem, Composite):
        parts = (problem.smooth_part, problem.nonsmooth_part, *problem.linear)
        return {"terms": _plain(parts), "start": digest(problem.start().values()), "data": digest(_tensors(parts))}
    stages = "; ".join(f"{s.index} {s.operator} {s.parents} {s.space} {_plain(s.penalty)}" for s in problem.stages)
    terms = _plain((type(problem.loss).__name__, problem.regularisers, problem.extra, sorted(problem.frozen)))
    return {"stages": hashlib.sha256(stages.encode()).hexdigest()[:12], "initial parameters": digest(problem.initial.values()),
            "samples": str(tuple(problem.inputs.shape)), "data": digest([problem.inputs, problem.targets]), "rho": str(problem.rho), "terms": terms}


def _join(store, rank, wish, device):
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl", store=store, rank=rank, world_size=wish.total, timeout=timedelta(seconds=wish.timeout))


# ---- under torchrun
def _torchrun(work, problem, solver, wish, options):
    if not dist.is_initialized():
        if wish.total == 1:
            return work()
        store, rank, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=wish.timeout)))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")                    # a restart must not read the last attempt's keys
        _join(dist.PrefixStore(f"paralift{attempt}", store), rank, wish, _device(problem))
    _check_backends(_device(problem))
    pulse = Pulse(dist.distributed_c10d._get_default_store(), dist.get_rank(), wish.total)
    try:
        _check_alike(problem, solver, options)
        return work()
    except RuntimeError as error:
        raise explained(error, pulse, wish) from error
    finally:
        pulse.stop()


def _check_backends(device):
    """Refuse a process group of the user's that cannot carry what workers exchange: tensors on `device`, and small ones on the CPU."""
    config = dist.get_backend_config()
    lacking = {"cpu", device.type} - {part.partition(":")[0] for part in config.split(",")}
    if lacking:
        raise RuntimeError(f"the process group that is already there ({config}) has no backend for tensors on the {' and '.join(sorted(lacking))}; workers need one for them: "
                           "make it with torch.distributed.init_process_group('cpu:gloo,cuda:nccl'), or leave that call out.")


# ---- by fork
def _fork(work, problem, solver, wish, options):
    """This process is worker 0; the others are its children, which have everything from it."""
    if _device(problem).type != "cpu" or not hasattr(os, "fork"):
        raise RuntimeError(f"workers={wish.total} starts processes by fork, which serves tensors on the CPU of a Unix machine; "
                           f"start the script with torchrun --nproc-per-node {wish.total} in place of it.")
    if dist.is_initialized():
        raise RuntimeError("workers= was given inside a process group that is already there; leave it out under torchrun, or destroy the group first.")
    if multiprocessing.current_process().daemon:
        raise RuntimeError(f"workers={wish.total} was given inside a process that may have no children (of a multiprocessing.Pool); start it outside, or leave workers= out.")
    context, folder, threads = multiprocessing.get_context("fork"), tempfile.TemporaryDirectory(prefix="paralift"), torch.get_num_threads()
    sys.stdout.flush()
    children = [context.Process(target=_child, args=(work, problem, solver, wish, options, number, folder.name), daemon=True) for number in range(1, wish.total)]
    watch, Room.current = None, Room(wish.total)
    gc.collect()                                                  # an earlier group's garbage ends here, where its threads are: in a child it would wait for them for ever
    gc.freeze()                                                   # and what is here now is never collected there
    try:
        for child in children:
            child.start()
        watch = Watch(children, Room.current.mail)
        torch.set_num_threads(1)                                  # as its children, whose copies of a pool of threads would never answer
        return _worker(work, problem, solver, wish, options, 0, folder.name)
    except RuntimeError as error:
        if watch is not None and watch.stopped:
            raise KeyboardInterrupt from None
        if not is_lost(error):
            raise
        for _ in range(20):                                       # until the cause is known
            time.sleep(0.1)
            reports = sorted(Path(folder.name).glob("error*"), key=lambda report: report.stat().st_mtime)
            if reports or watch.dead is not None:
                break
        if reports:
            raise RuntimeError(f"worker {reports[0].name[5:]} failed:\n{reports[0].read_text()}") from None
        if watch.dead is not None:
            raise RuntimeError(f"worker {watch.dead[0]} ended with exit code {watch.dead[1]}{' (killed)' if watch.dead[1] < 0 else ''}; "
                               "solve on with resume=<checkpoint>, with fewer workers where memory ran out.") from error
        raise
    finally:
        if watch is not None:
            watch.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        Room.current.mail.end()                                   # who still waits there
        end = time.monotonic() + 2
        for child in children:
            if child.pid is not None:
                child.join(max(0.0, end - time.monotonic()))
                if child.is_alive():
                    child.kill()
                    child.join()
        torch.set_num_threads(threads)
        Room.current.mail.close()
        Room.current = None
        gc.unfreeze()
        folder.cleanup()


def _child(work, problem, solver, wish, options, number, folder):
    global _rank
    signal.signal(signal.SIGINT, signal.SIG_IGN)                  # worker 0 tells the others
    signal.set_wakeup_fd(-1)
    _rank, code = number, 0
    try:
        torch.set_num_threads(1)
        _worker(work, problem, solver, wish, options, number, folder)
    except BaseException as error:
        code = LOST if is_lost(error) else 1
        if code == 1 and not isinstance(error, SystemExit):
            (Path(folder) / f".{number}").write_text(traceback.format_exc())
            os.replace(Path(folder) / f".{number}", Path(folder) / f"error{number}")
        elif code == LOST:
            _clear_away(folder)
    finally:
        os._exit(code)


def _clear_away(folder):
    """Remove what worker 0 can no longer remove itself, having been killed; its sockets are closed a moment before it is known to be gone."""
    for _ in range(20):
        if os.getppid() != multiprocessing.parent_process().pid:
            return shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def _worker(work, problem, solver, wish, options, number, folder):
    store = dist.FileStore(str(Path(folder) / "store"), wish.total)
    store.set_timeout(timedelta(seconds=wish.timeout))
    _join(store, number, wish, _device(problem))
    pulse = Pulse(store, number, wish.total)
    try:
        _check_alike(problem, solver, options)
        result = work()
        if solver.shared != "gradients":
            dist.barrier()                                        # nobody leaves while another still reads
        return result
    except RuntimeError as error:
        raise explained(error, pulse, wish) from error
    finally:
        pulse.stop()

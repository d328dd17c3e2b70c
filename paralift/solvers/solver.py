"""The loop. It exists once: start, step, record, monitor, stop, checkpoint."""

import platform
import sys
import time
from math import inf, isfinite

import torch

from ..problems.problem import Problem
from .result import Result, Status

__all__ = ["Solver"]


class Solver:
    """A method: `start(problem)` gives a state (a dict of tensors and plain values with the key "point"), `step(problem, state)` the next one
    and a dict of what to record. `solve(problem)` runs the loop.

    Parameters of every method
    --------------------------
    max_iterations : at most so many steps, counted from the start, resumed ones included.
    tolerance : stop once the recorded "residual" is at most this.
    max_seconds : stop after so many seconds.
    """

    needs = ()                   # attributes of a problem that the method relies on, with the sentence that says what would serve

    def __init__(self, max_iterations=1000, tolerance=0.0, max_seconds=inf):
        for name, value, low in (("max_iterations", max_iterations, 1), ("tolerance", tolerance, 0), ("max_seconds", max_seconds, 0)):
            if not isinstance(value, (int, float)) or not value >= low:
                raise ValueError(f"{type(self).__name__} got {name}={value!r}; it needs a number >= {low}.")
        self.max_iterations, self.tolerance, self.max_seconds = int(max_iterations), tolerance, max_seconds

    # ---- what a method defines
    def start(self, problem):
        raise NotImplementedError(f"{type(self).__name__} defines no start(problem).")

    def step(self, problem, state):
        raise NotImplementedError(f"{type(self).__name__} defines no step(problem, state).")

    passes_per_step = 1.0

    def check(self, problem):
        """Raise before the work starts where the problem lacks what the method needs."""
        if not isinstance(problem, Problem):
            raise TypeError(f"{type(self).__name__}.solve got {type(problem).__name__}; it needs a Problem, for instance Composite(...) or LiftedTraining(...).")
        for attribute, sentence in self.needs:
            if not getattr(problem, attribute):
                raise TypeError(f"{type(self).__name__} cannot solve {type(problem).__name__}: {sentence}")

    # ---- the loop
    def solve(self, problem, resume=None, callback=None, checkpoint=None, progress=None, strict=False):
        """Run the method.

        resume : a Result, or the path of a checkpoint, to go on from, exactly.
        callback : called with the running Result after every step; `raise StopIteration` stops.
        checkpoint : path, written atomically after every step that is at least 30 s after the last one, and at the end.
        progress : True/False; by default a line where the output is a terminal.
        strict : raise RuntimeError unless the solver ended well.
        """
        self.check(problem)
        if resume is None:
            state, history, iteration, passes, before = self.start(problem), {}, 0, 0.0, 0.0
        else:
            saved = resume if isinstance(resume, Result) else Result.load(resume)
            self._check_resume(problem, saved)
            state, history = _clone(saved.state), {k: list(v) for k, v in saved.history.items()}
            iteration, passes, before = saved.iterations, saved.data_passes, saved.seconds
            if hasattr(problem, "set_buffers"):
                problem.set_buffers(state["buffers"])
        provenance = {"solver": repr(self), "paralift": _version(), "torch": str(torch.__version__), "python": platform.python_version(),
                      "machine": platform.machine(), "threads": torch.get_num_threads()}
        show = sys.stderr.isatty() if progress is None else progress
        began = last_save = last_line = time.perf_counter()
        status = Status.MAX_ITERATIONS

        def running():
            if hasattr(problem, "buffers"):
                state["buffers"] = problem.buffers()
            return Result(status, state["point"], state, history, iteration, before + time.perf_counter() - began, passes, None, provenance)

        try:
            while iteration < self.max_iterations:
                new, record = self.step(problem, state)
                if not all(isfinite(v) for k, v in record.items() if k in ("objective", "residual", "change")):
                    status = Status.DIVERGED
                    break
                state, iteration, passes = new, iteration + 1, passes + self.passes_per_step
                seconds = before + time.perf_counter() - began
                for name, value in {"iteration": iteration, "data_passes": passes, "seconds": seconds, **record}.items():
                    history.setdefault(name, []).append(value)
                now = time.perf_counter()
                if show and now - last_line >= 0.5:
                    print(f"\r{type(self).__name__} {iteration}/{self.max_iterations} " + " ".join(f"{k} {v:.4g}" for k, v in record.items()), end="", file=sys.stderr, flush=True)
                    last_line = now
                if checkpoint is not None and now - last_save >= 30:
                    running().save(checkpoint)
                    last_save = now
                if callback is not None:
                    callback(running())
                if record.get("residual", inf) <= self.tolerance:
                    status = Status.CONVERGED
                    break
                if seconds >= self.max_seconds:
                    status = Status.MAX_SECONDS
                    break
        except StopIteration:
            status = Status.CALLBACK
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
        if show:
            print(file=sys.stderr)
        result = running()
        result.solution = problem.finish(state["point"])
        if checkpoint is not None:
            result.save(checkpoint)
        if strict and not result.success:
            raise RuntimeError(f"{self!r} ended with {status.name}: {status.value}")
        return result

    def _check_resume(self, problem, saved):
        fresh = self.start(problem)["point"]
        if {k: tuple(v.shape) for k, v in fresh.items()} != {k: tuple(v.shape) for k, v in saved.x.items()}:
            raise ValueError("the result to resume from belongs to another problem (other blocks or shapes); resume with the problem it was made from.")
        kind = saved.provenance.get("solver", "").split("(")[0]
        if kind != type(self).__name__:
            raise ValueError(f"the result to resume from was made by {kind}; resume with the same method, not {type(self).__name__}.")

    def __repr__(self):
        shown = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({shown})"


def _clone(value):
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        return {k: _clone(v) for k, v in value.items()}
    return [_clone(v) for v in value] if isinstance(value, list) else value


def _version():
    from .. import __version__

    return __version__

"""The loop. It exists once: start, step, record, monitor, stop, checkpoint."""

from __future__ import annotations

import inspect
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite, isnan
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import Count, Extended, FilePath, check, checked, shown
from ..notices import warn
from ..problems.problem import AgreedInterrupt, Point, Problem, numbers
from .progress import Progress
from .result import Result, Status, Writer, check_writable
from .stopping import Tolerance

if TYPE_CHECKING:
    from ..distributed.mesh import Workers

__all__ = ["Solver"]

NO_GRADIENT = ("smooth", "its smooth part has no gradient; give it to PDHG or ADMM, which take proxes only, or smooth it with MoreauEnvelope.")
NO_PROX = ("has_prox", "its nonsmooth part has no prox; write it as f @ K for PDHG or ADMM, or smooth it with MoreauEnvelope.")
NOT_CONVEX = ("convex", "it is not convex; use PGD or BCD.")


class Solver:
    """A method: `start(problem)` gives a state (a dict of tensors and plain values with the key "point"), `step(problem, state)` the next one
    and what to record: a dict {column: number or 0-d tensor}, or a function without arguments that returns it and is called only where a row is
    recorded. A step leaves the tensors of the state it is given as they are. `solve(problem)` runs the loop.

    Parameters of every method
    --------------------------
    max_iterations : at most so many steps, counted from the start, resumed ones included.
    tolerance : stop once the recorded "residual" is at most this; or a rule such as `Tolerance(residual=1e-8) | Tolerance(gap=1e-6)`.
    max_seconds : stop after so many seconds.
    """

    needs: tuple[tuple[str, str], ...] = ()        # attributes of a problem that the method relies on, with the sentence that says what would serve
    splits: bool = False         # whether terms H(K x) can be treated
    shared: str | None = None    # what several workers may share: "blocks" (of a lifted problem, or the images of a batch: all scalars come from the problem), "minibatches", ...
    _such_as = "FISTA(200)"
    _given: inspect.BoundArguments

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        checked(cls)
        first, *others = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(others)                                           # help() shows the constructor's arguments, not __new__'s

    def __new__(cls, *arguments, **named):
        self = super().__new__(cls)
        self._given = inspect.signature(cls.__init__).bind(self, *arguments, **named)           # for repr, in the constructor's own words
        self._given.apply_defaults()
        return self

    def __getnewargs_ex__(self):
        return self._given.args[1:], self._given.kwargs

    def __init__(self, max_iterations: int = 1000, tolerance: float | Tolerance = 0.0, max_seconds: float = inf):
        budget = "epochs" if "epochs" in self._given.arguments else "max_iterations"
        if not isinstance(max_iterations, int) or isinstance(max_iterations, bool) or max_iterations < 1:
            raise ValueError(f"{type(self).__name__} got {budget}={max_iterations!r}; it needs an integer >= 1.")
        limits = [("max_seconds", max_seconds, 0)] + [("tolerance", tolerance, 0)] * (not isinstance(tolerance, Tolerance))
        for name, value, low in limits:
            if not isinstance(value, (int, float)) or not value >= low:
                raise ValueError(f"{type(self).__name__} got {name}={value!r}; it needs a number >= {low}.")
        self.max_iterations, self.tolerance, self.max_seconds = max_iterations, tolerance, max_seconds

    # ---- what a method defines
    def start(self, problem: Problem) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no start(problem).")

    def step(self, problem: Problem, state: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no step(problem, state).")

    def answer(self, state: dict[str, Any]) -> Point:
        """The point that the result holds."""
        return state["point"]

    passes_per_step = 1.0        # over the data, in the step just made

    def form(self, problem: Problem) -> Problem:
        """The problem as the method wants it, where it has several forms (`Reconstruction`)."""
        return problem.split_form() if self.splits else problem.prox_form()

    def check(self, problem: Problem) -> None:
        """Raise before the work starts where the problem lacks what the method needs."""
        if not isinstance(problem, Problem):
            raise TypeError(f"{type(self).__name__}.solve got {type(problem).__name__}; it needs a Problem, for instance Composite(...) or LiftedTraining(...).")
        for attribute, sentence in self.needs:
            if not getattr(problem, attribute):
                raise TypeError(f"{type(self).__name__} cannot solve {type(problem).__name__}: {sentence}")
        if problem.linear and not self.splits:
            raise TypeError(f"{type(self).__name__} cannot solve {type(problem).__name__}: it has terms H(K x), which have no prox of their own; use PDHG or ADMM.")

    # ---- the loop
    def solve(self, problem: Problem, resume: Result | str | os.PathLike | None = None, callback: Callable[[Result], Any] | None = None,
              checkpoint: str | os.PathLike | None = None, progress: bool | None = None, strict: bool = False, record_every: int = 1, workers: int | Workers | None = None,
              checkpoint_every: float = 30.0) -> Result:
        """Run the method.

        resume : a Result, or the path of a checkpoint, to go on from, exactly.
        callback : called with the running Result after every recorded step; `raise StopIteration` stops.
        checkpoint : path, written and verified in the background after a recorded step that is at least `checkpoint_every` seconds after the last one, and at the end; the old
            file stays until the new one is whole. After a restart by torchrun, or of a job that Slurm has requeued, the run goes on from it.
        progress : False for silence; otherwise one line on a terminal, a line at most every 30 s in a file.
        strict : raise RuntimeError unless the solver ended well.
        record_every : record, look for NaN and try the stopping rules every so many steps (and at the last one); the objective is evaluated there only.
        workers : how many processes share the work, or `Workers(...)`; under torchrun all of its processes do. The result and files are those of worker 0.
        """
        problem = self.form(problem) if isinstance(problem, Problem) else problem
        self.check(problem)
        who = f"{type(self).__name__}.solve"
        for name, annotation, value in (("record_every", Count, record_every), ("progress", bool | None, progress), ("strict", bool, strict),
                                        ("callback", Callable | None, callback), ("checkpoint", FilePath | None, checkpoint), ("checkpoint_every", Extended, checkpoint_every)):
            check(who, name, annotation, value)
        if checkpoint is not None and os.path.isdir(checkpoint):
            raise ValueError(f"{who} got checkpoint={checkpoint!r}, a folder; it needs the path of a file to write.")
        if checkpoint is not None:
            check_writable(checkpoint)
        if resume is not None and not isinstance(resume, (Result, str, os.PathLike)):
            raise TypeError(f"{who} got resume={shown(resume)}; it needs a Result, or the path of a checkpoint.")
        if not checkpoint_every >= 0:
            raise ValueError(f"{who} got checkpoint_every={checkpoint_every!r}; it needs a number of seconds >= 0.")
        restarted = any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
        if checkpoint is not None and restarted and os.path.exists(checkpoint):
            resume = checkpoint
        options = resume, callback, checkpoint, progress, strict, record_every, checkpoint_every
        if workers is None and "TORCHELASTIC_RUN_ID" not in os.environ:
            return self._run(problem, *options)
        from ..distributed import share

        return share(lambda placed: self._run(placed, *options), problem, self, workers,
                     {"options": str((record_every, callback is None, checkpoint is None, resume is None, self.max_seconds == inf))})

    def _run(self, problem, resume, callback, checkpoint, progress, strict, record_every, checkpoint_every):
        if resume is None:
            state, history, iteration, passes, before = self.start(problem), {}, 0, 0.0, 0.0
        else:
            state, history, iteration, passes, before = self._resumed(problem, resume)
        provenance = {"solver": repr(self), "arguments": self._arguments(), "paralift": _version(), "torch": str(torch.__version__), "python": platform.python_version(),
                      "machine": platform.machine(), "threads": torch.get_num_threads()}
        rule = self.tolerance if isinstance(self.tolerance, Tolerance) else Tolerance(residual=self.tolerance)
        wanted = rule.needs()
        writer = Writer()
        line = Progress(type(self).__name__, self.max_iterations, progress if problem.leads else False)
        began = last_save = time.perf_counter()
        buffers = getattr(problem, "buffers", dict)                  # running statistics move with the steps
        status, reason, kept = Status.MAX_ITERATIONS, "", (state, iteration, passes, buffers())

        def running():
            if hasattr(problem, "buffers"):
                state["buffers"] = problem.buffers()
            return Result(status, self.answer(state), state, history, iteration, before + time.perf_counter() - began, passes, None, provenance, reason, problem.finish,
                          problem.layout, problem.gather)

        try:
            while iteration < self.max_iterations:
                new, record = self.step(problem, state)
                state, iteration, passes = new, iteration + 1, passes + self.passes_per_step
                now = time.perf_counter()
                seconds = before + now - began
                late = self.max_seconds < inf and problem.agree(seconds >= self.max_seconds)[0]
                if iteration % record_every and iteration < self.max_iterations and not late:
                    continue
                record = _numbers(record() if callable(record) else record)
                if not _sound(record):
                    reason = f"{', '.join(f'{k} {v:g}' for k, v in record.items() if not isfinite(v))} in iteration {iteration}"
                    status = Status.DIVERGED
                    break
                kept = (state, iteration, passes, buffers() if kept[3] else kept[3])
                run = self._quantities(problem, state, record, history, wanted)
                run["seconds"], run["passes"] = seconds, passes
                for name, value in {"iteration": iteration, "data_passes": passes, "seconds": seconds, **record}.items():
                    history.setdefault(name, []).append(value)
                if now >= line.next:
                    line.show(iteration, record, now)
                stopped = callback is not None and _stops(callback, running())
                stopped, due = problem.agree(stopped, checkpoint is not None and now - last_save >= checkpoint_every)
                if due:
                    writer.write(problem, running(), checkpoint)
                    last_save = now
                if stopped:
                    status = Status.CALLBACK
                    break
                found = rule.met(run)
                if found is not None:
                    status, reason = Status[found[0]], found[1]
                    break
                if late:
                    status, reason = Status.MAX_SECONDS, f"seconds {seconds:.3g} >= {self.max_seconds:g} s"
                    break
        except KeyboardInterrupt as interrupt:
            if not (problem.alone or isinstance(interrupt, AgreedInterrupt)):
                raise                                            # the others are elsewhere: nothing can be asked of them
            status = Status.INTERRUPTED
        line.close()
        writer.wait()
        if status in (Status.DIVERGED, Status.INTERRUPTED):
            state, iteration, passes, settled = kept
            if settled:
                problem.set_buffers(settled)
        if status is Status.MAX_ITERATIONS:
            reason = f"iterations {iteration} >= {self.max_iterations}"
        result = running()
        result.solution, result.finish, result.gather = problem.finish(self.answer(state)), None, None
        result.x, result.state = problem.collect((result.x, result.state))
        if checkpoint is not None:
            writer.write(problem, result, checkpoint)
            writer.wait()
        if strict and not result.success:
            error = RuntimeError(f"{self!r} ended with {status.name}: {status.value} The result is kept in this error's `result`.")
            error.result = result
            raise error
        return result

    def _quantities(self, problem, state, record, history, wanted):
        """What the stopping rules see; the gap is computed, and recorded, where a rule asks for it."""
        run = dict(record)
        scale = max(1.0, abs(record.get("objective", 1.0)))
        if "gap" in wanted and "gap" not in record:
            run["gap"] = record["gap"] = float(problem.gap(state["point"], state.get("dual", ()))) / scale
        if "change" in wanted:
            last = history.get("objective", ())
            run["change"] = abs(record["objective"] - last[-1]) / scale if len(last) else inf
        if "residual" in wanted and "residual" not in run and not history and self.tolerance != 0:
            raise ValueError(f"{type(self).__name__} records no residual to stop on; it records {', '.join(record)}: use Tolerance(change=...), seconds or passes.")
        return run

    def _resumed(self, problem, resume):
        """(state, history, iteration, passes, seconds) to go on from: the state on the devices of a fresh one, whatever machine it was made on."""
        saved = resume if isinstance(resume, Result) else Result.load(resume)
        saved = replace(saved, state=problem.spread(saved.state))
        fresh = self._check_resume(problem, saved)
        state = _clone(saved.state, fresh, next(iter(fresh["point"].values())).device)
        if hasattr(problem, "set_buffers"):
            problem.set_buffers(state["buffers"])
        return state, {k: list(v) for k, v in saved.history.items()}, saved.iterations, saved.data_passes, saved.seconds

    def _check_resume(self, problem, saved):
        """A fresh state, of the form that the saved one has; ValueError where it has another."""
        kind = saved.provenance.get("solver", "").split("(")[0]
        if kind != type(self).__name__:
            raise ValueError(f"the result to resume from was made by {kind}; resume with the same method, not {type(self).__name__}.")
        fresh = self.start(problem)
        form = lambda point: {k: (tuple(v.shape), v.dtype) for k, v in point.items()}
        moving = form(problem.buffers()) if hasattr(problem, "buffers") else {}
        if form(fresh["point"]) != form(saved.state["point"]) or moving != form(saved.state.get("buffers", {})):
            raise ValueError("the result to resume from belongs to another problem (other blocks, shapes, dtypes or buffers); resume with the problem it was made from.")
        if not _alike(fresh, {k: v for k, v in saved.state.items() if k != "buffers"}):
            raise ValueError(f"the result to resume from was made by {saved.provenance['solver']}, which keeps another state than {self!r}; resume with the same arguments, "
                             "budgets excepted.")

        now, then = self._arguments(), saved.provenance.get("arguments", {})
        changed = [f"{k}={v} instead of {then[k]}" for k, v in now.items() if then.get(k, v) != v and " at 0x" not in v]
        if changed:
            warn(f"{type(self).__name__} goes on with {', '.join(changed)}: the run is not the one that would have been without a stop.")
        return fresh

    def _arguments(self):
        """{name: text} of what steers the iteration: all arguments but budgets and tolerances."""
        return {k: repr(v) for k, v in list(self._given.arguments.items())[1:] if k not in ("epochs", "max_iterations", "max_seconds", "tolerance")}

    def __repr__(self):
        shown = ", ".join(f"{k}={v!r}" for k, v in list(self._given.arguments.items())[1:])
        return f"{type(self).__name__}({shown})"


def _stops(callback, result):
    try:
        callback(result)
    except StopIteration:
        return True
    return False


def _numbers(record):
    tensors = {k: v for k, v in record.items() if torch.is_tensor(v)}
    return {k: float(v) for k, v in {**record, **dict(zip(tensors, numbers(list(tensors.values()))))}.items()}


def _sound(record):
    """Finite residual; an objective may be inf where the point leaves a set on its way, as long as a residual says how the run goes."""
    residual, objective = record.get("residual"), record.get("objective", 0.0)
    if residual is None:
        return isfinite(objective)
    return isfinite(residual) and isfinite(record.get("change", 0.0)) and not isnan(objective)


def _alike(a, b):
    """Whether two states were made by the same arguments: the same keys, also of the metric."""
    keys = lambda state: (state.keys(), (state.get("metric") or {}).keys())
    return keys(a) == keys(b)


def _clone(value, like, device):
    """A copy of a saved state, each tensor where `like`, a fresh one, has its own, others on `device`."""
    if torch.is_tensor(value):
        return value.to(like.device if torch.is_tensor(like) else device, copy=True)
    if isinstance(value, dict):
        return {k: _clone(v, like.get(k) if isinstance(like, dict) else None, device) for k, v in value.items()}
    if isinstance(value, list):
        return [_clone(v, like[i] if isinstance(like, list) and i < len(like) else None, device) for i, v in enumerate(value)]
    return value


def _version():
    from .. import __version__

    return __version__

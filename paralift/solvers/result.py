"""What a solver returns, and how it is kept."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import threading
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import FilePath, checked
from ..files import replacing
from ..notices import warn
from ..problems.problem import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Result", "Status", "save_checked", "load_checked"]

_MAGIC = b"PARALIFT1\n"


class Status(Enum):
    """Why a solver stopped; the value says what to change."""

    CONVERGED = "converged: the tolerance is reached."
    MAX_ITERATIONS = "stopped at the iteration limit: raise max_iterations (epochs), or solve on with resume=result."
    MAX_SECONDS = "stopped at the time limit: raise max_seconds, or solve on with resume=result."
    MAX_PASSES = "stopped at the limit of passes over the data: raise it, or solve on with resume=result."
    CALLBACK = "stopped by a callback."
    INTERRUPTED = "interrupted by the user: x is the last complete iterate; solve on with resume=result."
    DIVERGED = "diverged to NaN or inf: x is the last finite iterate; lower the step, or use step='backtracking' or more sweeps."


@dataclass
class Result:
    """Outcome of `solver.solve(problem)`.

    status : why it stopped, a Status. reason : the rule that held, with its numbers. success : whether the result can be used, as after convergence or the last iteration.
    x : {block: tensor}. solution : what the problem makes of x, an image or a trained network. network : the same where it is a torch module; AttributeError elsewhere.
    objective, residual : the last recorded values, or None. history : {column: [values]}, a row a recorded step. provenance : the solver, its arguments, versions and the machine.
    """

    status: Status
    x: dict
    state: dict
    history: dict
    iterations: int
    seconds: float
    data_passes: float = 0.0
    solution: Any = None
    provenance: dict = field(default_factory=dict)
    reason: str = ""                # the stopping rule that held, with its numbers
    finish: Any = field(default=None, repr=False)          # x -> solution, while the solver runs
    layout: str = ""                # which workers had what, and what other meshes were predicted to cost
    gather: Any = field(default=None, repr=False)          # (x, state) -> both with whole blocks, or None on workers that do not lead; while the solver runs

    @property
    def success(self) -> bool:
        return self.status in (Status.CONVERGED, Status.MAX_ITERATIONS, Status.CALLBACK) and self.iterations > 0

    @property
    def network(self) -> torch.nn.Module:
        solution = self.finish(self.x) if self.solution is None and self.finish is not None else self.solution
        if not isinstance(solution, torch.nn.Module):
            raise AttributeError("this result holds no network; its blocks are result.x. A result read from a file has one once its problem is given: Result.load(path, problem).")
        return solution

    @property
    def objective(self) -> float | None:
        return self.history["objective"][-1] if self.history.get("objective") else None

    @property
    def residual(self) -> float | None:
        return self.history["residual"][-1] if self.history.get("residual") else None

    def table(self) -> str:
        """The history as text, a row an iteration (at most 20 rows, evenly spaced)."""
        names = list(self.history)
        n = len(next(iter(self.history.values()), ()))
        rows = sorted({round(i * (n - 1) / max(1, min(n, 20) - 1)) for i in range(min(n, 20))})
        lines = ["  ".join(f"{name:>16}" for name in names)]
        lines += ["  ".join(f"{self.history[name][i]:>16.6g}" for name in names) for i in rows]
        return "\n".join(lines)

    @checked
    def csv(self, path: FilePath) -> None:
        """Write the whole history to `path`, atomically."""
        with replacing(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.history)
            writer.writerows(zip(*self.history.values()))

    def plot(self, path: str | os.PathLike | None = None) -> Figure:
        """Draw the history; returns the figure, and saves it where a path is given."""
        from ..plotting import plot_history

        return plot_history(self, path)

    def show(self, reference: torch.Tensor | None = None, path: str | os.PathLike | None = None, level: float | None = None) -> Figure:
        """Draw the image that was found, with the reference, the error, PSNR, SSIM, a profile and the convergence; returns the figure, and saves it where a path is given. Complex
        images are shown by their magnitude, 3-D ones by their middle slices, of several the first. `level`: what is white (by default the largest value of the reference)."""
        from ..plotting import plot_reconstruction

        if not torch.is_tensor(self.solution):
            raise AttributeError("this result holds no image; show() draws what Reconstruction and Composite give. plot() draws the history of every result.")
        return plot_reconstruction(self, reference, path, level)

    @checked
    def save(self, path: FilePath) -> None:
        """Write state and history atomically, with a checksum; `Result.load` reads them back. In a callback all workers call it together, and worker 0 writes."""
        whole = (self.x, self.state) if self.gather is None else self.gather((self.x, self.state))
        if whole is None:
            return
        save_checked(path, {"status": self.status.name, "x": whole[0], "state": whole[1], "history": self.history, "iterations": self.iterations,
                            "seconds": self.seconds, "data_passes": self.data_passes, "provenance": self.provenance, "reason": self.reason, "layout": self.layout})

    @classmethod
    def load(cls, path: str | os.PathLike, problem: Problem | None = None) -> Result:
        """Read a saved result; with the problem, `network` (or the solution) is rebuilt too. Tensors come to the CPU; a run goes on on its problem's device."""
        d = load_checked(path)
        if not isinstance(d, dict) or not {"status", "x", "state", "history", "iterations", "seconds", "data_passes", "provenance"} <= set(d) or "point" not in d["state"]:
            raise ValueError(f"{path} holds no result; pass a file written by result.save(...) or by checkpoint=....")
        x = d["x"]
        if problem is not None and d["state"].get("buffers"):
            problem.set_buffers(d["state"]["buffers"])  # type: ignore[attr-defined]
        return cls(Status[d["status"]], x, d["state"], d["history"], d["iterations"], d["seconds"], d["data_passes"],
                   None if problem is None else problem.finish(x), d["provenance"], d.get("reason", ""), layout=d.get("layout", ""))

    def __repr__(self):
        last = "".join(f"\n  {k:<17}{v[-1]:.6g}" for k, v in self.history.items() if v and k not in ("iteration", "seconds", "data_passes"))
        why = f" ({self.reason})" if self.reason else ""
        return (f"{self.provenance.get('solver', 'Result')}\n  {'status':<17}{self.status.name}: {self.status.value}{why}\n  {'iterations':<17}{self.iterations}"
                f"\n  {'data passes':<17}{self.data_passes:g}\n  {'seconds':<17}{self.seconds:.2f}{last}"
                + ("\n  layout\n" + "\n".join("    " + line for line in self.layout.splitlines()) if self.layout else ""))


def save_checked(path: str | os.PathLike, content: Any) -> None:
    """torch.save with a SHA-256 header, written to a temporary file, synced, then renamed."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    with replacing(path) as temporary:
        temporary.write_bytes(_MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        if hashlib.sha256(_content(temporary)[1]).hexdigest() != hashlib.sha256(data).hexdigest():
            raise OSError(f"{path} could not be written: what was read back is not what was written; the file before it is kept.")


def _content(path):
    """(digest, data) of a file of ours."""
    raw = Path(path).read_bytes()
    if not raw.startswith(_MAGIC):
        raise ValueError(f"{path} is no PARALIFT file; pass a file written by result.save(...) or by checkpoint=....")
    digest, _, data = raw[len(_MAGIC):].partition(b"\n")
    return digest, data


def check_writable(path):
    """Refuse a path where no file can be written, before work starts."""
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: its folder cannot be made ({error.strerror}); give a path in a folder of your own.") from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written: its folder is not yours to write to; give a path in a folder of your own.")


class Writer:
    """Writes results in the background, one at a time; what went wrong is a warning, as the run itself is sound."""

    def __init__(self):
        self.thread, self.error = None, None

    def write(self, problem, result, path):
        """Collects the state from all workers, and leaves the writing to a thread: a step never changes the tensors of a state."""
        self.wait()
        x, state = (result.x, result.state) if result.gather is None else problem.collect((result.x, result.state))
        if problem.leads:
            whole = replace(result, x=x, state=state, history={k: list(v) for k, v in result.history.items()}, gather=None)
            self.thread = threading.Thread(target=self._save, args=(whole, path))
            self.thread.start()

    def _save(self, result, path):
        try:
            result.save(path)
        except Exception as error:                               # of whatever kind: a thread has nobody to raise it to
            self.error = error

    def wait(self):
        if self.thread is not None:
            self.thread.join()
        self.thread, error, self.error = None, self.error, None
        if error is not None:
            warn(f"a checkpoint could not be written: {error}. The file before it is kept, and the run goes on.")


def load_checked(path: str | os.PathLike) -> Any:
    """Read what `save_checked` wrote, onto the CPU; tensors and plain values only, no pickled code is run."""
    digest, data = _content(path)
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise ValueError(f"{path} is damaged: its checksum does not match its content; use an earlier checkpoint.")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

"""When a solver stops: small rules, joined by | (either) and & (both)."""

from dataclasses import replace
from math import inf

from ..arguments import Count, checked
from .result import Result

__all__ = ["EarlyStopping", "Tolerance"]

_UNITS = {"residual": "", "change": "", "objective": "", "gap": "", "seconds": " s", "passes": " passes"}
BUDGETS = {"seconds": "MAX_SECONDS", "passes": "MAX_PASSES"}


@checked
class Tolerance:
    """Stop once any of the given quantities reaches its level: `Tolerance(residual=1e-8) | Tolerance(gap=1e-6) & Tolerance(passes=50)`.

    Parameters
    ----------
    residual : at most this; the column "residual" of the history (what it measures is in the docstring of the method).
    change : |E_k - E_{k-1}| at most this times max(1, |E_k|), E the objective of one recorded iteration and the one before.
    objective : at most this.
    gap : primal-dual gap at most this times max(1, |E|); the problem needs a computable one.
    seconds, passes : at least so much time, so many passes over the data.
    """

    def __init__(self, residual: float | None = None, change: float | None = None, objective: float | None = None, gap: float | None = None, seconds: float | None = None,
                 passes: float | None = None):
        levels = {"residual": residual, "change": change, "objective": objective, "gap": gap, "seconds": seconds, "passes": passes}
        self.levels = {k: v for k, v in levels.items() if v is not None}
        if not self.levels:
            raise ValueError("Tolerance got no level; pass one of residual=, change=, objective=, gap=, seconds=, passes=.")
        for name, value in self.levels.items():
            if not isinstance(value, (int, float)) or not (value >= 0 or name == "objective"):
                raise ValueError(f"Tolerance got {name}={value!r}; it needs a number >= 0.")

    def needs(self) -> set[str]:
        return set(self.levels)

    def met(self, run: dict[str, float]) -> tuple[str, str] | None:
        """None, or (status name, sentence); `run` maps a column to its present value."""
        for name, level in self.levels.items():
            value = run.get(name, inf if name not in BUDGETS else 0.0)
            if (value >= level) if name in BUDGETS else (value <= level):
                sign = ">=" if name in BUDGETS else "<="
                return BUDGETS.get(name, "CONVERGED"), f"{name} {value:.3g} {sign} {level:g}{_UNITS[name]}"
        return None

    def __or__(self, other: "Tolerance") -> "Tolerance":
        return _Joined(self, other, any)

    def __and__(self, other: "Tolerance") -> "Tolerance":
        return _Joined(self, other, all)

    def __repr__(self):
        return f"Tolerance({', '.join(f'{k}={v:g}' for k, v in self.levels.items())})"


@checked
class EarlyStopping:
    """A callback that stops once a column of the history has not improved for some recorded steps, and keeps the best result: `ISGM(100).solve(p, callback=early); early.best`.

    column : "accuracy" and "validation_loss" are there where the problem has validation data; "objective" and "residual" always.
    patience : how many recorded steps without an improvement are allowed.
    largest : whether larger is better; by default for "accuracy" only.

    Raises ValueError, at the first step, where the history has no such column.
    """

    def __init__(self, column: str = "accuracy", patience: Count = 5, largest: bool | None = None):
        self.column, self.patience, self.waited = column, patience, 0
        self.best: Result | None = None
        self.sign = 1.0 if (column == "accuracy" if largest is None else largest) else -1.0

    @checked
    def __call__(self, result: Result) -> None:
        if self.column not in result.history:
            raise ValueError(f"EarlyStopping watches {self.column!r}; the history has {', '.join(result.history)}: pass validation=... to the problem, or name another column.")
        values = result.history[self.column]
        if len(values) == 1:                                              # a new run
            self.best, self.waited = None, 0
        if self.best is None or self.sign * values[-1] > self.sign * self.best.history[self.column][-1]:
            self.waited = 0
            x, state = result.x, result.state
            whole = None if result.gather is None else result.gather((x, state))
            x, state = whole or (x, state)
            self.best = replace(result, x=x, state=state, gather=None, history={k: list(v) for k, v in result.history.items()},
                                solution=result.solution if result.finish is None else result.finish(result.x), finish=None)
        else:
            self.waited += 1
        if self.waited >= self.patience:
            raise StopIteration

    def __repr__(self):
        return f"EarlyStopping({self.column!r}, patience={self.patience})"


class _Joined(Tolerance):
    def __init__(self, a, b, how):
        for rule in (a, b):
            if not isinstance(rule, Tolerance):
                raise TypeError(f"a stopping rule was joined with {type(rule).__name__}; join Tolerance(...) objects by | and &.")
        self.a, self.b, self.how = a, b, how

    def needs(self):
        return self.a.needs() | self.b.needs()

    def met(self, run):
        found = [self.a.met(run), self.b.met(run)]
        if not self.how(f is not None for f in found):
            return None
        found = [f for f in found if f is not None]
        status = found[0][0] if self.how is any else next((s for s, _ in found if s != "CONVERGED"), "CONVERGED")
        return status, found[0][1] if self.how is any else " and ".join(text for _, text in found)

    def __repr__(self):
        return f"({self.a!r} {'|' if self.how is any else '&'} {self.b!r})"

"""What the stages of a lifted problem cost, and which mesh (data x layers) of workers is predicted to be the fastest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from ..arguments import Count, Extended, Kind, checked, is_finite, shown
from ..problems.lifted_training import LiftedTraining
from ..problems.partition import best_groups, time_stages

__all__ = ["Layout", "Link", "StageCosts", "counted_costs", "layout_for", "layout_table", "layouts", "measured_costs", "microbatch_counts"]

Table = Annotated[tuple, Kind("a tuple with an entry a stage", lambda v: isinstance(v, (tuple, list)))]
COPIES = {"jacobi": 3, "stream": 2, "flush": 2}      # numbers kept for each number of x: x, z and a gradient; pipelines keep x and z until the backward visit


@checked
@dataclass(frozen=True)
class Link:
    """What communication costs between two workers: latency in s a message, bandwidth in bytes/s, the share of it that `layouts` takes to be hidden by computing, in [0, 1], and
    the cores that it keeps busy while it lasts: a message at both ends together, an all-reduce at each worker; 0 where the network needs none."""

    latency: float = 2e-4
    bandwidth: Extended = 1e9
    overlap: float = 0.3
    cores: Extended = 0.0

    def __post_init__(self):
        if not self.latency >= 0 or not self.bandwidth > 0 or not 0 <= self.overlap <= 1 or not 0 <= self.cores < math.inf:
            raise ValueError(f"{self} was given; it needs latency >= 0 (s), bandwidth > 0 (bytes/s, math.inf for none), overlap from 0 to 1 and cores >= 0.")

    @checked
    def transfer(self, size: float) -> float:
        """Seconds of one message of `size` bytes: latency + size / bandwidth."""
        return self.latency + size / self.bandwidth

    @checked
    def all_reduce(self, size: float, workers: float) -> float:
        """Seconds of a ring all-reduce of `size` bytes over d workers: 2 (d - 1) latency + 2 (d - 1)/d size / bandwidth."""
        return 2 * (workers - 1) * (self.latency + size / workers / self.bandwidth)


@checked
@dataclass(frozen=True)
class StageCosts:
    """Costs of the stages 1 .. L of a network; an affine cost is (seconds a call, seconds a row).

    forward, backward : L affine costs. parameter_bytes : trained parameters, tied ones with their first stage. output_bytes : a row of x_l (of z_L for the last).
    parents : for each stage those of its inputs, 0 the data; a chain if not given. update : L affine costs of changing the stage's blocks, once an iteration, on its rows;
    none if not given. Raises ValueError where lengths or numbers do not fit.
    """

    forward: Table
    backward: Table
    parameter_bytes: Table
    output_bytes: Table
    parents: Table = ()
    update: Table = ()

    def __post_init__(self):
        L = len(self.forward)
        object.__setattr__(self, "parents", tuple(map(tuple, self.parents)) or tuple((l,) for l in range(L)))
        object.__setattr__(self, "update", tuple(self.update) or ((0.0, 0.0),) * L)
        lengths = [len(v) for v in (self.forward, self.backward, self.parameter_bytes, self.output_bytes, self.parents, self.update)]
        if not L or set(lengths) != {L}:
            raise ValueError(f"StageCosts got forward, backward, parameter_bytes, output_bytes, parents and update of lengths {lengths}; each needs one entry a stage.")
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in (*self.forward, *self.backward, *self.update)):
            raise ValueError(f"StageCosts got forward={shown(self.forward)}, backward={shown(self.backward)} and update={shown(self.update)}; they need pairs (seconds a call, "
                             "seconds a row).")
        for l, stage in enumerate(zip(self.forward, self.backward, self.update, self.parameter_bytes, self.output_bytes), 1):
            if not all(v >= 0 for v in (*stage[0], *stage[1], *stage[2], *stage[3:])) or not all(0 <= p < l for p in self.parents[l - 1]):
                raise ValueError(f"StageCosts got {stage} with parents {self.parents[l - 1]} for stage {l}; costs are numbers >= 0, parents earlier stages or 0.")

    @classmethod
    @checked
    def uniform(cls, stages: Count, forward: float, backward: float, parameter_bytes: float = 0, boundary_bytes: float = 0, fixed: float = 0.0) -> "StageCosts":
        """A chain of equal stages: forward and backward in seconds a row, `fixed` seconds a call of each, bytes of a stage's parameters and of a row of its output."""
        return cls(((fixed, forward),) * stages, ((fixed, backward),) * stages, (parameter_bytes,) * stages, (boundary_bytes,) * stages)

    @property
    def stages(self) -> int:
        return len(self.forward)

    @checked
    def forward_seconds(self, rows: float) -> list[float]:
        return [fixed + row * rows for fixed, row in self.forward]

    @checked
    def backward_seconds(self, rows: float) -> list[float]:
        return [fixed + row * rows for fixed, row in self.backward]

    @checked
    def seconds(self, rows: float) -> list[float]:
        """[seconds, ..] of each stage's forward and backward on so many rows."""
        return [f + b for f, b in zip(self.forward_seconds(rows), self.backward_seconds(rows))]

    @checked
    def update_seconds(self, rows: float) -> list[float]:
        return [fixed + row * rows for fixed, row in self.update]

    @checked
    def serial_seconds(self, rows: float) -> float:
        """An iteration of one worker: every stage, then the update."""
        return sum(self.seconds(rows)) + sum(self.update_seconds(rows))

    def completed(self, iterations: dict[int, float]) -> "StageCosts":
        """The same costs, but one worker takes iterations[rows] seconds for an iteration of so many rows, for one number of rows or two.

        One: `update` is what the stages leave; where they alone would take longer they are scaled down. Two: what grows with the rows is shared out over the stages in the
        proportions of their seconds, what does not is the update's. It is shared out by the bytes of parameters. ValueError where these are no numbers > 0.
        """
        if not isinstance(iterations, dict) or not 1 <= len(iterations) <= 2 or not all(is_finite(n) and n > 0 for pair in iterations.items() for n in pair):
            raise ValueError(f"StageCosts.completed got iterations={shown(iterations)}; it needs {{rows: seconds}} of one or two numbers of rows, all > 0.")
        (few, less), (many, seconds) = min(iterations.items()), max(iterations.items())
        own = sum(self.seconds(many)) or 1e-30
        if few == many:
            rest, change = max(0.0, seconds - own), lambda a, b: (a * min(1.0, seconds / own), b * min(1.0, seconds / own))
        else:
            rest, row = _affine(few, less, many, seconds)
            change = lambda a, b: (0.0, row * (a + b * many) / own)
        whole = sum(self.parameter_bytes)
        update = tuple((rest * (size / whole if whole else 1 / self.stages), 0.0) for size in self.parameter_bytes)
        return replace(self, forward=tuple(change(*pair) for pair in self.forward), backward=tuple(change(*pair) for pair in self.backward), update=update)

    def cut_bytes(self) -> list[float]:
        """[bytes, ..]: what a row sends over the cut after stage l = 1 .. L - 1 in one direction, the x_p with p <= l and a child > l."""
        last = {}                                               # {p: its last child}
        for l, parents in enumerate(self.parents, 1):
            last.update(dict.fromkeys(parents, l))
        return [sum(self.output_bytes[p - 1] for p, child in last.items() if 0 < p <= l < child) for l in range(1, self.stages)]

    @checked
    def messages(self, groups: Sequence[range]) -> dict[tuple[int, int], float]:
        """{(a, b): bytes a row} of the x that group a sends to group b straight, and whose pulls come back, for groups of stage positions (from 0)."""
        owner = {l: k for k, group in enumerate(groups) for l in group}
        needed = {(p - 1, owner[l]) for l, parents in enumerate(self.parents) for p in parents if p and owner[p - 1] != owner[l]}
        sizes = {}
        for p, b in sorted(needed):
            sizes[owner[p], b] = sizes.get((owner[p], b), 0) + self.output_bytes[p]
        return sizes


@checked
def measured_costs(problem: LiftedTraining, rows: Count, repeats: Count = 3, gradients: bool = True) -> StageCosts:
    """StageCosts of a LiftedTraining problem, timed here on `rows` of its samples and on a quarter of them (the least of `repeats` tries).

    gradients : with those of linear layers in their parameters, which ISGM's streams make once a minibatch: `completed` has them in the update otherwise.
    Raises ValueError where rows or repeats is no integer >= 1.
    """
    many = min(rows, problem.samples)
    few = min(many, max(1, many // 4, problem.least_samples))
    pairs = [tuple(_affine(few, s, many, t) for s, t in zip(*times)) for times in zip(*(time_stages(problem, n, repeats, gradients) for n in (few, many)))]
    part, counted, parameter_bytes = problem.restrict(slice(0, few)), set(problem.frozen), []
    theta, last = problem.start_theta(), problem.stages[-1]
    for stage in problem.stages:
        own = set(stage.theta) - counted
        counted |= own
        parameter_bytes.append(sum(theta[name].nbytes for name in own))
    point = part.forward(theta)
    outputs = [point[f"x{s.index}"] for s in problem.stages[:-1]] + [part._z(last, point)]
    return StageCosts(*zip(*pairs), tuple(parameter_bytes), tuple(x.nbytes / len(part.inputs) for x in outputs), tuple(s.parents for s in problem.stages))  # type: ignore[call-arg]


def counted_costs(problem: LiftedTraining, rows: int, flops: float = 5e10, bandwidth: float = 8e9) -> StageCosts:
    """`measured_costs` without a clock, from the products' operations at `flops` a second and ten passes over z at `bandwidth` bytes/s: the same each time."""
    rows = min(rows, problem.samples)
    part, pairs = problem.restrict(slice(0, rows)), []
    point, counted, sizes, outputs = part.forward(problem.start_theta()), set(problem.frozen), [], []
    for stage in problem.stages:
        with FlopCounterMode(display=False) as counter:
            z = stage.forward(part._input(stage, point), point, seed=0)
        products, passes = counter.get_total_flops() / flops / rows, 5 * z.nbytes / bandwidth / rows
        back = any(p > 0 for p in stage.parents) + (not counted.issuperset(stage.theta))          # products with the residual, for inputs and for parameters
        own = set(stage.theta) - counted
        counted |= own
        pairs.append(((0.0, products + passes), (0.0, back * products + passes)))
        sizes.append(sum(point[name].nbytes for name in own))
        outputs.append(z.nbytes / rows)
    return StageCosts(*zip(*pairs), tuple(sizes), tuple(outputs), tuple(s.parents for s in problem.stages))  # type: ignore[call-arg]


def _affine(few, s, many, t):
    """(fixed, a row), both >= 0, through t seconds at `many` rows and as near as may be to s at `few`."""
    row = min(max((t - s) / (many - few), 0.0), t / many) if many > few else t / many
    return max(t - row * many, 0.0), row


@dataclass(frozen=True)
class Layout:
    """A mesh of data x layers workers, its groups of stage positions (from 0), and what the model predicts for it; bytes are those of the worker with most."""

    data: int
    layers: int
    groups: tuple
    microbatches: int
    seconds: float              # an iteration (a minibatch)
    efficiency: float           # seconds of one worker / (workers * seconds)
    memory: float               # bytes: parameters and their gradients, x and what goes with it
    sent: float                 # bytes an iteration

    @property
    def cuts(self) -> tuple[int, ...]:
        """The stages (from 1) after which the next worker begins."""
        return tuple(group.stop for group in self.groups[:-1])


def microbatch_counts(kind: str, layers: int, rows: int, microbatches: int | None = None) -> list[int]:
    """Numbers of microbatches to try for one column of `rows` rows: 1 for "jacobi"; for pipelines what is given, else 1, 2, 4, .. 64 for "flush" (the best one counts)
    and the number of layers for "stream" (a gradient is then less than an update late)."""
    if kind == "jacobi":
        return [1]
    if microbatches is None and kind == "flush":
        return [2 ** e for e in range(7) if 2 ** e <= rows]
    return [min(layers if microbatches is None else microbatches, rows)]


@checked
def layouts(costs: StageCosts, workers: Count, rows: Count, kind: Literal["jacobi", "stream", "flush"] = "jacobi", link: Link = Link(), memory: Extended | None = None,
            microbatches: Count | None = None) -> list[Layout]:
    """[Layout, ..], the fastest first: all meshes of data * layers = workers with layers <= stages and data <= rows, each with the cuts that are best under the model.

    kind : "jacobi", all blocks at once on all rows, a worker takes computing + (1 - overlap) (boundary x there and pulls back + one all-reduce of its gradients);
        "stream", one forward and one backward in turn without flush: microbatches * the slowest worker; "flush": (microbatches + layers - 1) * the slowest worker.
    rows : of an iteration (a minibatch). memory : bytes a worker has; meshes that need more are left out, None keeps all.
    Raises ValueError where the numbers do not fit, no mesh has so many workers, or none fits into the memory.
    """
    meshes = [(workers // layers, layers) for layers in range(1, min(workers, costs.stages) + 1) if workers % layers == 0 and workers // layers <= rows]
    if not meshes:
        raise ValueError(f"{workers} workers were asked for, and no data * layers = {workers} has layers <= {costs.stages} (stages) and data <= {rows} (rows); "
                         "use fewer workers or a number with smaller factors.")
    found = [layout_for(costs, data, layers, rows, kind, link, memory, microbatches) for data, layers in meshes]
    if not any(found):
        need = min(best_groups(_memory(costs, data, layers, rows, kind, m), layers)[1]
                   for data, layers in meshes for m in microbatch_counts(kind, layers, math.ceil(rows / data), microbatches))
        raise ValueError(f"memory={memory:g} bytes a worker was given, and {workers} workers need at least {need:g} each; use more workers, fewer rows, or more memory.")
    return sorted((layout for layout in found if layout), key=lambda layout: layout.seconds)


def layout_for(costs: StageCosts, data: int, layers: int, rows: int, kind: str = "jacobi", link: Link = Link(), memory: float | None = None,
               microbatches: int | None = None) -> "Layout | None":
    """The best Layout of one mesh under the model of `layouts`; None where no cuts fit into the memory."""
    counts = microbatch_counts(kind, layers, math.ceil(rows / data), microbatches)
    found = [_layout(costs, data, layers, rows, kind, link, memory, m) for m in counts]
    return min((layout for layout in found if layout), key=lambda layout: layout.seconds, default=None)


def _layout(costs, data, layers, rows, kind, link, memory, microbatches):
    own, visible = math.ceil(rows / data), 1 - link.overlap
    piece = own / microbatches
    reduce = _between(costs.parameter_bytes) * (2 * (data - 1) / data)           # bytes that a group's all-reduce sends
    crossing = np.array([0.0, *costs.cut_bytes(), 0.0]) * piece
    inner = np.arange(costs.stages + 1) % costs.stages > 0                       # where a cut may be
    exchange = np.where(inner, 2 * (link.latency + crossing / link.bandwidth), 0.0)
    cost = _between(costs.seconds(piece)) + visible * (exchange[:, None] + exchange)
    steps = microbatches + layers - 1 if kind == "flush" else microbatches
    cost = steps * cost + _between(costs.update_seconds(own)) + visible * (2 * (data - 1) * link.latency + reduce / link.bandwidth)
    held = _memory(costs, data, layers, rows, kind, microbatches)
    if memory is not None:
        cost = np.where(held <= memory, cost, math.inf)
    groups, seconds = best_groups(cost, layers)
    if not math.isfinite(seconds):
        return None
    sent = reduce + microbatches * (crossing[:, None] + crossing)                # x to the next, pulls to the one before
    most = lambda table: max(float(table[g.start, g.stop]) for g in groups)
    efficiency = costs.serial_seconds(rows) / (data * layers * seconds) if seconds else 1.0
    return Layout(data, layers, tuple(groups), microbatches, seconds, efficiency, most(held), most(sent))


def _between(values):
    """Table of the sums of the values i .. j - 1."""
    before = np.cumsum([0.0, *values])
    return before - before[:, None]


def _memory(costs, data, layers, rows, kind, microbatches):
    """Table of the bytes that the stages i .. j - 1 keep; a stream has a microbatch a layer worker in flight."""
    in_flight = math.ceil(rows / data) * (layers / microbatches if kind == "stream" else 1)
    return 2 * _between(costs.parameter_bytes) + COPIES[kind] * in_flight * _between(costs.output_bytes)


@checked
def layout_table(found: Sequence[Layout]) -> str:
    """Layouts as text, a line each."""
    lines = [f"{'data x layers':>13}  {'ms':>10}  {'efficiency':>10}  {'MiB a worker':>12}  {'MiB sent':>9}  {'microbatches':>12}  cuts after stage"]
    for a in found:
        mesh, cuts = f"{a.data} x {a.layers}", ", ".join(map(str, a.cuts)) or "-"
        lines.append(f"{mesh:>13}  {1e3 * a.seconds:>10.4g}  {a.efficiency:>10.1%}  {a.memory / 2**20:>12.2f}  {a.sent / 2**20:>9.2f}  {a.microbatches:>12}  {cuts}")
    return "\n".join(lines)

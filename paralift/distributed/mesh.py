"""Who talks to whom: workers on a mesh with the axes `data` and `layers`, and the few exchanges that everything else is made of."""

from dataclasses import dataclass, fields
from datetime import timedelta

import torch
import torch.distributed as dist

from ..arguments import Count, checked
from ..problems.problem import AgreedInterrupt
from .room import Room

__all__ = ["Workers", "Simulated", "Mesh", "as_real"]

LANES = ("x", "pull", "copy", "gradient of a copy")


@checked
@dataclass(frozen=True, repr=False)
class Workers:
    """How many workers share a problem, and how.

    data, layers : lengths of the mesh's axes: samples are split over `data`, stages over `layers`; None: chosen, from the measured costs, for `total` workers.
    total : number of workers where an axis is to be chosen.
    deterministic : sums over fixed shards of the samples, in a fixed order, so that every mesh gives the same bits; None: for float64.
    shard_parameters : whether ISGM's metric (Adam's means) is split over `data`: each of these workers keeps it for a part of the parameters, updates that and sends it on.
    schedule : of minibatches over layers: a Schedule; None: the default, `Streamed()`.
    timeout : seconds after which a worker that does not answer is named, and all stop.

    Raises ValueError where the numbers do not fit together.
    """

    total: Count | None = None
    data: Count | None = None
    layers: Count | None = None
    deterministic: bool | None = None
    shard_parameters: bool = False
    schedule: object = None
    timeout: float = 600.0

    def __post_init__(self):
        if not isinstance(self.timeout, (int, float)) or not 0 < self.timeout < 1e7:
            raise ValueError(f"Workers got timeout={self.timeout!r}; it needs a number of seconds > 0, below 1e7.")
        if self.schedule is not None and not (hasattr(self.schedule, "parts") and not isinstance(self.schedule, type)):
            raise ValueError(f"Workers got schedule={self.schedule!r}; it needs a schedule such as Streamed() or Flushed(8).")
        known = [n for n in (self.data, self.layers) if n is not None]
        total = self.total if self.total is not None else known[0] * known[-1] if len(known) == 2 else max(known, default=None)
        if total is None:
            raise ValueError("Workers got no number; say how many, for instance Workers(4) or Workers(data=2, layers=2).")
        product = 1
        for n in known:
            product *= n
        if total % product or len(known) == 2 and product != total:
            shown = " x ".join(f"{name}={getattr(self, name)}" for name in ("data", "layers") if getattr(self, name) is not None)
            raise ValueError(f"Workers got total={total} and {shown}, which does not divide it; use Workers({total}), or axes whose product is {total}.")
        object.__setattr__(self, "total", total)

    def __repr__(self):
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) not in (None, False, (), 600.0))
        return f"{type(self).__name__}({shown})"

    @classmethod
    def of(cls, given: "int | Workers") -> "Workers":
        """From what `solve(workers=...)` takes: a number or Workers."""
        if isinstance(given, cls):
            return given
        if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
            return cls(given)
        raise ValueError(f"workers={given!r} was given; it needs an integer >= 1 or Workers(data=..., layers=...).")

    def shapes(self) -> list[tuple[int, int]]:
        """[(data, layers)] that fit the numbers."""
        pairs = [(d, self.total // d) for d in range(1, self.total + 1) if self.total % d == 0]  # type: ignore[operator]
        return [(d, l) for d, l in pairs if self.data in (None, d) and self.layers in (None, l)]


@checked
@dataclass(frozen=True, repr=False)
class Simulated(Workers):
    """Workers of which all run in this process, one after the other, in an order that is the same every time: what schedules and delays do to a method, without their speed.

    speeds : of an asynchronous method's workers that take gradients: samples in a unit of time, repeated for more workers; (): all 1.
    """

    speeds: tuple[float, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.speeds, (tuple, list)) or not all(isinstance(s, (int, float)) and s > 0 for s in self.speeds):
            raise ValueError(f"Simulated got speeds={self.speeds!r}; it needs numbers > 0, one a worker.")


class Mesh:
    """data x layers workers; worker (d, l) has rank d * layers + l. A mesh of one needs no process group.

    lanes : whether each kind of message along the layers has a process group of its own. NCCL takes the messages of a pair of workers one after the other, both directions
    together, and a stream's two ends ask for those of different kinds in different orders; gloo tells them apart by tags.
    """

    def __init__(self, data=1, layers=1, timeout=600.0, lanes=False):
        self.data, self.layers, self.size = data, layers, data * layers
        self.rank = dist.get_rank() if self.size > 1 else 0
        self.data_rank, self.layer_rank = divmod(self.rank, layers)
        self.column, self._pending = None, []
        if self.size > 1:
            wait = timedelta(seconds=timeout)
            columns = [dist.new_group([d * layers + l for d in range(data)], timeout=wait) for l in range(layers)]       # every worker makes every group
            self.column = columns[self.layer_rank]
        self.lanes = {kind: dist.new_group(timeout=wait) for kind in LANES} if lanes and layers > 1 else {}
        self.room = Room.current.enter(self, timeout) if Room.current is not None and self.size > 1 else None

    # ---- sums
    def total(self, t):
        """The sum of t over all workers; exact where at most one worker holds a number that is not zero."""
        if self.size > 1:
            dist.all_reduce(t)
        return t

    def largest(self, t):
        if self.size > 1:
            dist.all_reduce(t, dist.ReduceOp.MAX)
        return t

    def agree(self, flags, interrupted):
        """Each flag as it is on any worker; raises AgreedInterrupt on all once one was interrupted."""
        found = self.largest(torch.tensor([float(f) for f in (*flags, interrupted)]))
        if found[-1]:
            raise AgreedInterrupt
        return tuple(bool(f) for f in found[:-1])

    def sum_data(self, parts):
        """Begin to sum flat tensors, joined, over the workers that own the same stages; `wait` of what is returned gives the sum. Needs data > 1."""
        slots = self.room.take((sum(p.numel() for p in parts),), parts[0].dtype) if self.room and parts[0].device.type == "cpu" else None
        if slots is None:
            flat = torch.cat(parts)
            return _Sum(flat, dist.all_reduce(flat, group=self.column, async_op=True))
        torch.cat(parts, out=slots.own)
        return _Sum(None, slots.post())

    def ordered(self, parts, counts):
        """The sum over all shards of samples, in their order: parts (own shards, numbers) of this worker, counts[d] shards at data rank d. The same bits on every mesh."""
        if self.data > 1:
            most = max(counts)
            padded = parts if len(parts) == most else torch.cat([parts, parts.new_zeros(most - len(parts), *parts.shape[1:])])
            parts = [r for block, count in zip(self._gather(padded), counts) for r in block[:count]]
        total = parts[0].clone()
        for p in parts[1:]:
            total += p
        return total

    def gather_data(self, t):
        """(workers, *t.shape): t of every worker with these stages."""
        return torch.stack(list(self._gather(t)))

    def _gather(self, t):
        """t of every worker with these stages, good until the next message but one."""
        slots = self.room.take(t.shape, t.dtype) if self.room and t.device.type == "cpu" else None
        if slots is not None:
            slots.own.copy_(t)
            return slots.post().wait()
        rows = [torch.empty_like(t) for _ in range(self.data)]
        dist.all_gather(rows, t.contiguous(), group=self.column)
        return rows

    # ---- messages along the layers
    def send(self, t, layer, tag, lane=None):
        """Post t to the worker of these layers in this row; t must not change until `settle`."""
        t, to = as_real(t).contiguous(), self.data_rank * self.layers + layer
        if not (self.room and t.device.type == "cpu" and self.room.mail.send(t, to, tag)):
            self._pending.append((dist.isend(t, to, group=self.lanes.get(lane), tag=tag), t))         # both must live until the message has gone

    def receive(self, buffer, layer, tag, lane=None):
        """Begin to receive into the buffer; `wait` of what is returned ends it."""
        buffer, sender = as_real(buffer), self.data_rank * self.layers + layer
        if self.room and buffer.device.type == "cpu":
            return _Letter(self.room.mail, buffer, sender, tag)
        return dist.irecv(buffer, sender, group=self.lanes.get(lane), tag=tag)

    def settle(self, most=0):
        """Wait until at most so many posted messages have not gone."""
        while len(self._pending) > most:
            self._pending.pop(0)[0].wait()

    def share_out(self, flats):
        """flats[d] from data rank d to all workers with these stages, in place."""
        works = [dist.broadcast(flat, d * self.layers + self.layer_rank, group=self.column, async_op=True) for d, flat in enumerate(flats) if flat.numel()]
        for work in works:
            work.wait()

    # ---- small things, now and then
    def objects(self, value):
        """[value of every worker]."""
        if self.size == 1:
            return [value]
        found = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def broadcast(self, t, rank):
        if self.size > 1:
            dist.broadcast(t, rank)
        return t

    def deliver(self, t, rank):
        dist.send(as_real(t).contiguous(), rank)

    def fetch(self, buffer, rank):
        dist.recv(as_real(buffer), rank)
        return buffer


def as_real(t):
    """A complex tensor as pairs of real numbers, in the same memory: NCCL knows no complex ones."""
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


class _Sum:
    """A sum over workers under way: of `flat`, in place, or of slots in shared memory."""

    def __init__(self, flat, work):
        self.flat, self.work = flat, work

    def wait(self):
        rows = self.work.wait()
        return rows.sum(0) if self.flat is None else self.flat


class _Letter:
    """A message under way between forked workers."""

    def __init__(self, mail, *what):
        self.mail, self.what = mail, what

    def wait(self):
        buffer, sender, tag = self.what
        if not self.mail.receive(*self.what):
            dist.recv(buffer, sender, tag=tag)

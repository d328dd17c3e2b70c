"""Coincidence events: one by one, and sorted into sinograms."""

import dataclasses

import torch

from ..arguments import checked, shown
from .geometry import Geometry
from .scanner import CylindricalScanner

__all__ = ["Events", "histogram"]


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """Coincidences of a scanner, all tensors int64 (n,): the view and the bin of the line, its plane (None: a scanner of one ring), its time-of-flight bin (None: not measured),
    and the time in ms (None: not known); kept on the CPU, as geometries are. `events[index]` are some of them. Raises TypeError / ValueError where dtypes or lengths differ."""

    view: torch.Tensor
    bin: torch.Tensor
    plane: torch.Tensor | None = None
    tof: torch.Tensor | None = None
    time: torch.Tensor | None = None

    def __post_init__(self):
        if any(value.dtype != torch.int64 for value in vars(self).values() if value is not None):
            raise TypeError(f"Events got tensors of dtypes {[str(v.dtype) for v in vars(self).values() if v is not None]}; all need to be int64: pass them as .long().")
        shapes = {name: tuple(value.shape) for name, value in vars(self).items() if value is not None}
        if len(set(shapes.values())) != 1 or len(shapes["view"]) != 1:
            raise ValueError(f"Events got tensors of shapes {shapes}; all need one axis of the same length.")
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, value if value is None else value.cpu())

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: torch.Tensor | slice) -> "Events":
        try:
            index = index if isinstance(index, slice) else torch.as_tensor(index).cpu()
            return Events(*(None if value is None else value[index] for value in vars(self).values()))  # type: ignore[arg-type]
        except (IndexError, RuntimeError, TypeError, ValueError):
            raise IndexError(f"events[{shown(index)}] was asked of {len(self)} events; it needs a slice, or a tensor of numbers below it.") from None

    @checked
    def index(self, geometry: Geometry) -> tuple[torch.Tensor, ...]:
        """The events' indices into sinograms of `geometry`, one tensor an axis; planes are left out for a scanner of one ring. Raises ValueError where one lies outside."""
        index = (self.view, self.bin) if len(geometry.shape) == 2 else (self.view, self.plane, self.bin)
        for name, value, n in zip(("view", "bin") if len(index) == 2 else ("view", "plane", "bin"), index, geometry.shape):
            if value is None or len(value) and not 0 <= int(value.min()) <= int(value.max()) < n:
                raise ValueError(f"events whose {name} is {'not given' if value is None else f'between {int(value.min())} and {int(value.max())}'} were put on {geometry!r}; "
                                 f"its sinograms need 0 to {n - 1}.")
        return index  # type: ignore[return-value]

    def __repr__(self):
        return f"Events({len(self)})"


@checked
def histogram(events: Events, scanner: CylindricalScanner, axial: str = "all", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The counts of `events` on the lines of `scanner`, a tensor of `dtype`.

    axial : "all": every plane for itself, (views, planes, bins), or (views, bins) of a scanner with one ring; "ssrb": single-slice rebinning, a plane counts half-way between its
        two rings, (2 rings - 1, views, bins), a batch for an operator in the plane (`scanner.transaxial()`); "sum": all planes in one, (views, bins).

    Raises ValueError where an event lies outside the scanner's sinograms.
    """
    if axial not in ("all", "ssrb", "sum"):
        raise ValueError(f"histogram got axial={axial!r}; choose 'all', 'ssrb' or 'sum'.")
    shape, index = scanner.shape, events.index(scanner)
    if len(shape) == 3 and axial == "ssrb":
        shape, index = (2 * scanner.rings - 1, shape[0], shape[2]), (scanner.slices()[index[1]], index[0], index[2])
    elif len(shape) == 3 and axial == "sum":
        shape, index = (shape[0], shape[2]), (index[0], index[2])
    elif axial == "ssrb":
        shape, index = (1, *shape), (torch.zeros_like(index[0]), *index)
    flat = torch.zeros_like(index[0])
    for value, n in zip(index, shape):
        flat = flat * n + value
    return torch.zeros(torch.Size(shape).numel(), dtype=dtype).index_add_(0, flat, torch.ones(len(flat), dtype=dtype)).view(shape)

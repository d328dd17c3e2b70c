"""`TimeOfFlight`: bins of arrival-time difference, and how a point of a line spreads over them."""

import dataclasses
import math

import torch

from ..arguments import Extended, checked

__all__ = ["TimeOfFlight"]

MM_PER_PS = 0.299792458 / 2          # a difference of 1 ps moves the annihilation by half the way light takes


@checked
@dataclasses.dataclass(frozen=True)
class TimeOfFlight:
    """`bins` time bins of `width` ps about the middle of a line, later ones towards its end; the timing resolution is a Gaussian of `fwhm` ps.

    The Gaussian ends at `truncation` standard deviations and integrates to 1, so where the bins reach the ends of the object, they add up to the projection without time.
    Raises ValueError unless all numbers are above 0.
    """

    bins: int
    width: float
    fwhm: float
    truncation: Extended = 3.0

    def __post_init__(self):
        if not (isinstance(self.bins, int) and self.bins >= 1 and self.width > 0 and self.fwhm > 0 and self.truncation > 0):
            raise ValueError(f"{self!r} was asked for; its bins, width, fwhm (ps) and truncation need to be above 0.")

    @property
    def bin_mm(self) -> float:
        return self.width * MM_PER_PS

    @property
    def sigma_mm(self) -> float:
        return self.fwhm * MM_PER_PS / (2 * math.sqrt(2 * math.log(2)))

    @property
    def reach(self) -> int:
        """How many bins a point can touch."""
        return math.ceil(2 * self.truncation * self.sigma_mm / self.bin_mm) + 1

    def lowest(self, place: torch.Tensor) -> torch.Tensor:
        """The first bin that a point at `place` mm from the middle of its line can touch (it may be below 0)."""
        return ((place - self.truncation * self.sigma_mm) / self.bin_mm + self.bins / 2).floor().long()

    def weight(self, place: torch.Tensor, bin: torch.Tensor) -> torch.Tensor:
        """The part of what happens at `place` (mm from the middle of the line) that falls into `bin`; the two broadcast."""
        edge = (bin.to(place.dtype) - self.bins / 2) * self.bin_mm - place
        return self._cumulative(edge + self.bin_mm) - self._cumulative(edge)

    def _cumulative(self, distance):
        tail = math.erf(self.truncation / math.sqrt(2))
        return (0.5 + torch.erf(distance / (math.sqrt(2) * self.sigma_mm)) / (2 * tail)).clamp(0, 1)

"""`CylindricalScanner`: rings of detectors, and the sinograms in which Siemens and STIR keep their coincidences."""

import dataclasses
import functools
import math

import torch

from ..arguments import Positive, checked
from .geometry import Geometry

__all__ = ["CylindricalScanner"]


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class CylindricalScanner(Geometry):
    """Detector rings about the axis z; the lines join two crystals.

    Parameters
    ----------
    crystals : positions on a ring, an even number, gaps included.
    radius : mm, from the axis to where photons are detected (the inner radius and the depth of interaction).
    bins : how many lines a view; None: crystals // 2.
    rings, ring_spacing : how many, and their distance in mm. One ring is a scanner in the plane: images (y, x), sinograms (views, bins); more see images (z, y, x)
        and have sinograms (views, planes, bins), ring r at z = (r - (rings - 1) / 2) ring_spacing.
    max_ring_difference : pairs of rings further apart are not measured; None: all are.
    span : odd; so many ring differences add up in one segment (axial compression). 1 keeps each pair of rings as a plane of its own.
    block : every block-th position (0, block, 2 block, ...) is a gap between blocks, without a crystal; its lines count nothing. None: no gaps.
    rotation : rad, of crystal 0.

    Crystal d lies at (y, x) = radius (-cos a, sin a), a = 2 pi d / crystals + rotation: crystal 0 at the top of the image. View v (crystals // 2 of them) and bin b
    join the crystals v + floor(t / 2) and v - ceil(t / 2) + crystals / 2, t = b - bins // 2: the interleaved order, neighbouring bins half a crystal apart in angle. The line
    is x cos(a) + y sin(a) = s with a about pi v / views, s = radius sin(pi t / crystals). Planes run through the segments 0, -1, +1, -2, ... (second ring minus first), in each
    along z. Raises ValueError where numbers do not fit.
    """

    crystals: int
    radius: float
    bins: int | None = None
    rings: int = 1
    ring_spacing: Positive | None = None
    max_ring_difference: int | None = None
    span: int = 1
    block: int | None = None
    rotation: float = 0.0

    def __post_init__(self):
        put = functools.partial(object.__setattr__, self)
        put("bins", self.crystals // 2 if self.bins is None else self.bins)
        put("max_ring_difference", self.rings - 1 if self.max_ring_difference is None else self.max_ring_difference)
        if not (self.crystals >= 4 and self.crystals % 2 == 0 and 1 <= self.bins < self.crystals and self.radius > 0):
            raise ValueError(f"CylindricalScanner got {self.crystals} crystals, {self.bins} bins, a radius of {self.radius} mm; it needs an even number of at least 4 crystals, "
                             "fewer bins than crystals, a radius above 0.")
        if not (self.rings >= 1 and 0 <= self.max_ring_difference < self.rings and self.span >= 1 and self.span % 2) or (self.rings > 1 and not (self.ring_spacing or 0) > 0):
            raise ValueError(f"CylindricalScanner got {self.rings} rings, ring_spacing={self.ring_spacing}, max_ring_difference={self.max_ring_difference}, span={self.span}; "
                             "it needs a spacing in mm where there are several rings, a difference below their number, and an odd span.")
        if self.block is not None and (self.block < 2 or self.crystals % self.block):
            raise ValueError(f"CylindricalScanner got block={self.block} with {self.crystals} crystals; it needs a divisor of them, at least 2.")
        views = self.crystals // 2
        put("ndim", 2 if self.rings == 1 else 3)
        put("planes", 1)
        live = None
        if self.block is not None:
            first, second = self.pair(torch.arange(views)[:, None], torch.arange(self.bins))
            live = (first % self.block != 0) & (second % self.block != 0)
        if self.rings > 1:
            plane, pairs, ring_one, ring_two = self._planes()
            put("planes", len(pairs))
            put("michelogram", plane)
            put("plane_rings", (ring_one, ring_two))
            put("multiplicity", pairs[:, None] if self.span > 1 else None)
            live = live if live is None else live.unsqueeze(1)
        put("live", live)
        put("shape", (views, self.bins) if self.rings == 1 else (views, self.planes, self.bins))

    @classmethod
    @checked
    def mmr(cls, rings: int = 64, span: int = 1) -> "CylindricalScanner":
        """The Siemens Biograph mMR: 56 blocks of 8 crystals and a gap, 504 positions a ring, 64 rings 4.0625 mm apart, 252 views of 344 bins, ring differences to 60 (4084 planes
        with span 1, 837 with span 11). rings=1: its transaxial plane.

        Inner radius 328 mm (its list-mode header) and depth of interaction 6.7 mm, with which neighbouring bins are 2.086 mm apart, the bin size that STIR lists for it.
        """
        return cls(504, 328.0 + 6.7, 344, rings, 4.0625, min(60, rings - 1), span, block=9)

    def transaxial(self) -> "CylindricalScanner":
        """The scanner's first ring alone, in the plane."""
        return dataclasses.replace(self, rings=1, max_ring_difference=None, span=1)

    def pair(self, view: torch.Tensor, bin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two crystals of a line in the plane, int64."""
        t = bin - self.bins // 2  # type: ignore[operator]
        return (view + t.div(2, rounding_mode="floor")) % self.crystals, (view - (t + 1).div(2, rounding_mode="floor") + self.crystals // 2) % self.crystals

    def _planes(self):
        """The plane of each pair of rings (-1: not measured), and per plane how many pairs it adds up and its mean rings."""
        r = torch.arange(self.rings)
        one, two = (v.flatten() for v in torch.meshgrid(r, r, indexing="ij"))
        difference = two - one
        segment = (difference.abs() + self.span // 2).div(self.span, rounding_mode="floor")
        order = 2 * segment - (difference < 0).long() * (segment > 0)               # 0, -1, +1, -2, ... as 0, 1, 2, 3, ...
        measured = difference.abs() <= self.max_ring_difference
        keys, plane, pairs = torch.unique((order * 2 * self.rings + one + two)[measured], return_inverse=True, return_counts=True)
        table = torch.full((self.rings**2,), -1)
        table[measured] = plane
        mean = lambda ring: torch.zeros(len(keys), dtype=torch.float64).index_add_(0, plane, ring[measured].double()) / pairs
        return table.view(self.rings, self.rings), pairs, mean(one), mean(two)

    def ends(self, view, *index):
        plane, bin = (None, *index) if self.rings == 1 else index
        first, second = self.pair(view, bin)
        if self.block is not None:                                                   # a dead line is a point
            second = torch.where((first % self.block == 0) | (second % self.block == 0), first, second)
        points = []
        for end, crystal in enumerate((first, second)):
            angle = crystal.double() * (2 * math.pi / self.crystals) + self.rotation
            place = [-self.radius * angle.cos(), self.radius * angle.sin()]
            if plane is not None:
                z = torch.where(first == second, self.plane_rings[0][plane], self.plane_rings[end][plane])
                place.insert(0, (z - (self.rings - 1) / 2) * self.ring_spacing)
            points.append(torch.stack(torch.broadcast_tensors(*place), -1))
        return tuple(points)

    def slices(self) -> torch.Tensor:
        """The slice of single-slice rebinning for every plane: the sum of its two rings, 0 to 2 (rings - 1)."""
        if self.rings == 1:
            raise ValueError("slices() was asked of a scanner of one ring; it needs a scanner of several, whose planes lie between two rings.")
        return (self.plane_rings[0] + self.plane_rings[1]).round().long()  # type: ignore[attr-defined]

    def __repr__(self):
        return f"CylindricalScanner({self.crystals} crystals, {self.rings} rings, radius {self.radius:g} mm, sinograms {self.shape})"

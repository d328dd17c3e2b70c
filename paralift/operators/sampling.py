"""Where k-space is sampled: seeded masks on the grid, and trajectories in rad/pixel."""

import math
from typing import Literal

import numpy as np
import torch

from ..arguments import Count, Integers, Seed, checked

__all__ = ["variable_density_mask", "poisson_disc_mask", "line_mask", "radial_trajectory", "spiral_trajectory"]


def _shape(shape, who) -> tuple[int, ...]:
    shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"{who} got the shape {shape}; it needs at least one axis, of at least one point.")
    return shape


def _budget(shape, acceleration, calibration, who) -> tuple[int, np.ndarray]:
    """(how many samples, the calibration block as an array of bool)."""
    if not (isinstance(acceleration, (int, float)) and 1 <= acceleration < math.inf):
        raise ValueError(f"{who} got acceleration={acceleration}; it needs a number of at least 1: the points of the grid over the samples.")
    block = (calibration,) * len(shape) if isinstance(calibration, int) else tuple(calibration)
    if len(block) != len(shape) or any(not isinstance(c, int) or not 0 <= c <= n for c, n in zip(block, shape)):
        raise ValueError(f"{who} got calibration={calibration}; the grid {shape} needs a whole number from 0 to {min(shape)}, or one for each axis.")
    samples, centre = round(math.prod(shape) / acceleration), np.zeros(shape, bool)
    centre[tuple(slice(n // 2 - c // 2, n // 2 - c // 2 + c) for n, c in zip(shape, block))] = True
    if samples < max(centre.sum(), 1):
        raise ValueError(f"{who} got acceleration={acceleration:g} of {shape}, {samples} samples; the calibration block alone has {centre.sum()}: lower one of the two.")
    return samples, centre


def _radius(shape):
    """Distance to the centre of k-space (the point n // 2), 1 at the middle of the edges."""
    axes = [(np.arange(n) - n // 2) / max(n / 2, 1) for n in shape]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))


def _draw(shape, samples, centre, power, seed):
    """The block and further points without replacement, with chances (1 - radius/corner)^power: the smallest of the exponential clocks of these rates."""
    rate = np.maximum(1 - _radius(shape) / math.sqrt(len(shape)), 1e-3) ** power
    clock = np.random.default_rng(seed).exponential(size=shape) / rate
    clock[centre] = -1
    mask = np.zeros(clock.size, bool)
    mask[np.argpartition(clock, samples - 1, axis=None)[:samples]] = True
    return torch.from_numpy(mask.reshape(shape))


@checked
def variable_density_mask(shape: Integers, acceleration: float, calibration: Integers = 24, power: float = 3.0, seed: Seed = 0) -> torch.Tensor:
    """A random mask (bool, `shape`) of exactly round(points / acceleration) samples, the calibration block among them.

    Outside the block (`calibration` points along every axis, or a tuple; centred on shape // 2) the points are drawn without replacement, with chances proportional to
    (1 - |k|/|k of the corner|)^power; power = 0 is uniform. Raises ValueError where the block alone has more samples than the acceleration leaves.
    Source: Lustig, Donoho & Pauly, Magn. Reson. Med. 58, 2007.
    """
    shape = _shape(shape, "variable_density_mask")
    if not 0 <= power < math.inf:
        raise ValueError(f"variable_density_mask got power={power}; it needs a number of at least 0.")
    return _draw(shape, *_budget(shape, acceleration, calibration, "variable_density_mask"), power, seed)


@checked
def line_mask(shape: Integers, acceleration: float, calibration: Integers = 24, axis: int = -1, power: float = 0.0, equispaced: bool = False,
              seed: Seed = 0) -> torch.Tensor:
    """A mask of whole lines (bool; `shape` with length 1 on the axes that lie along the lines, so it broadcasts): exactly round(n / acceleration) of the n positions on `axis`.

    The `calibration` lines in the middle are among them. The others are drawn as in `variable_density_mask` (power = 0: uniformly), or equally spaced with `equispaced`.
    Raises ValueError where the calibration lines alone are too many.
    """
    shape = _shape(shape, "line_mask")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"line_mask got axis={axis}; the shape {shape} has {len(shape)} axes.")
    if not 0 <= power < math.inf or equispaced and power:
        raise ValueError(f"line_mask got power={power}, equispaced={equispaced}; it needs a power of at least 0, and of 0 for equispaced lines.")
    n = (shape[axis],)
    samples, centre = _budget(n, acceleration, calibration, "line_mask")
    if equispaced:
        free, more = np.flatnonzero(~centre), samples - int(centre.sum())
        centre[free[((np.arange(more) + 0.5) * (len(free) / max(more, 1))).astype(int)]] = True
        lines = torch.from_numpy(centre)
    else:
        lines = _draw(n, samples, centre, power, seed)
    return lines.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


@checked
def poisson_disc_mask(shape: Integers, acceleration: float, calibration: Integers = 24, variation: float = 3.0, seed: Seed = 0) -> torch.Tensor:
    """A Poisson-disc mask (bool, `shape`, two axes or more): round(points / acceleration) samples (to 1 %), the calibration block among them.

    Two samples p, q outside the block are at least max(r(p), r(q)) points apart, r(k) = r_0 (1 + variation |k|), |k| = 1 at the middle of the edges; variation = 0
    is uniform. Candidates come in random order; r_0 is the largest that leaves enough samples. Raises
    ValueError where the block alone has more samples than the acceleration leaves.
    Source: Cook, ACM Trans. Graph. 5(1), 1986; in MRI: Vasanawala et al., ISBI 2011.
    """
    shape = _shape(shape, "poisson_disc_mask")
    if len(shape) < 2 or not 0 <= variation < math.inf:
        raise ValueError(f"poisson_disc_mask got the shape {shape}, variation={variation}; it needs two axes or more (line_mask for lines) and a variation of at least 0.")
    samples, centre = _budget(shape, acceleration, calibration, "poisson_disc_mask")
    variation = float(variation)
    growth, generator = 1 + variation * _radius(shape), np.random.default_rng(seed)
    order = generator.permutation(np.flatnonzero(~centre))
    wanted = samples - int(centre.sum())
    low, r, high, best = 0.0, (0.8 * acceleration) ** (1 / len(shape)) / growth.mean(), math.inf, order[:wanted]
    for _ in range(20 if wanted < len(order) else 0):
        chosen = _discs(shape, order, r * growth, 1.5 * wanted)
        if len(chosen) >= wanted:
            low, best = r, chosen[:wanted]
        else:
            high = r
        if high - low < 1e-3 * r or wanted <= len(chosen) <= 1.005 * wanted:
            break
        r *= (max(len(chosen), 1) / (1.0025 * wanted)) ** (1 / len(shape))               # as the density goes with the radius
        if not low < r < high:
            r = 0.5 * (low + high) if high < math.inf else 2 * low
    mask = centre.copy()
    mask.flat[best] = True
    return torch.from_numpy(mask)


def _discs(shape, order, radius, limit):
    """The candidates (flat indices, in this order) that are at least their own and the others' radius from all chosen before; stops past `limit`."""
    square = np.ceil(radius**2 - 1e-9).astype(int)                       # points of the grid with |offset|^2 < square are too near
    most = math.isqrt(int(square.max()))
    padded = [n + 2 * most for n in shape]
    offsets = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * len(shape), indexing="ij")).reshape(len(shape), -1)
    distance, strides = (offsets**2).sum(0), np.cumprod([1, *padded[:0:-1]])[::-1]
    near = {k: strides @ offsets[:, distance < k] for k in np.unique(square).tolist()}
    taken, blocked, chosen = np.zeros(math.prod(padded), bool), bytearray(math.prod(padded)), []
    shut = np.frombuffer(blocked, np.uint8)
    place = strides @ (np.stack(np.unravel_index(order, shape)) + most)
    for flat, p, k in zip(order.tolist(), place.tolist(), square.flat[order].tolist()):
        if blocked[p]:
            continue
        disc = near[k] + p
        if k <= 1 or not taken[disc].any():
            taken[p], shut[disc] = True, 1
            chosen.append(flat)
            if len(chosen) > limit:
                break
    return chosen


@checked
def radial_trajectory(spokes: Count, readout: Count, angle: Literal["golden", "uniform"] = "golden", dimension: Count = 2) -> torch.Tensor:
    """Diameters through the centre, (spokes, readout, dimension) in rad/pixel, float64: radii 2 pi (j - readout // 2)/readout in [-pi, pi).

    angle: "golden" (every stretch of consecutive spokes covers all directions) or "uniform" (equally spaced; in 3-D a spiral from the equator to
    the pole). The direction of angle 0 is the image's last axis. Sources: Winkelmann et al., IEEE Trans. Med. Imaging 26, 2007; 3-D: Chan et al., Magn. Reson. Med. 61, 2009.
    """
    if dimension not in (2, 3):
        raise ValueError(f"radial_trajectory got dimension={dimension}; it needs 2 or 3.")
    i = torch.arange(spokes, dtype=torch.float64)
    if dimension == 2:
        turn = math.pi * (i * (math.sqrt(5) - 1) / 2 % 1 if angle == "golden" else i / spokes)
        directions = torch.stack([turn.sin(), turn.cos()], -1)
    else:
        z, turn = (i * 0.46557123 % 1, i * 0.68232780) if angle == "golden" else ((i + 0.5) / spokes, i * (math.sqrt(5) - 1) / 2)
        flat, turn = (1 - z * z).sqrt(), 2 * math.pi * (turn % 1)
        directions = torch.stack([z, flat * turn.sin(), flat * turn.cos()], -1)
    radius = (torch.arange(readout, dtype=torch.float64) - readout // 2) * (2 * math.pi / readout)
    return directions[:, None] * radius[:, None]


@checked
def spiral_trajectory(interleaves: Count, readout: Count, turns: float, power: float = 1.0) -> torch.Tensor:
    """Spirals from the centre outwards, (interleaves, readout, 2) in rad/pixel, float64: k(s) = pi s^power (sin, cos)(2 pi (turns s + l/interleaves)), 0 <= s < 1, l the interleaf.

    The samples are equally spaced along the curve (constant gradient). power = 1 is Archimedean: the turns lie pi/(turns interleaves) apart, so n pixels need
    turns * interleaves >= n/2; power > 1 is denser in the centre.
    """
    if not (0 < turns < math.inf and 0 < power < math.inf):
        raise ValueError(f"spiral_trajectory got turns={turns}, power={power}; it needs positive numbers.")
    turns, power = float(turns), float(power)
    if turns > 1e4:
        raise ValueError(f"spiral_trajectory got turns={turns:g}; it needs at most 10,000 of them.")
    s = np.linspace(0, 1, 64 * max(readout, math.ceil(turns)) + 1)
    curve = s**power * np.exp(2j * np.pi * turns * s)
    length = np.concatenate([[0], np.cumsum(np.abs(np.diff(curve)))])
    even = torch.from_numpy(np.interp(length[-1] * np.arange(readout) / readout, length, s))
    turn = 2 * math.pi * (turns * even + torch.arange(interleaves, dtype=torch.float64)[:, None] / interleaves)
    return torch.stack([turn.sin(), turn.cos()], -1) * (math.pi * even**power)[:, None]

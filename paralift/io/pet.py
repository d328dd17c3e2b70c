"""Readers for PET: Siemens list mode, and Interfile sinograms and images."""

import re
import typing
from pathlib import Path

import numpy as np
import torch

from ..arguments import FilePath, checked
from ..operators.geometry import Geometry, ParallelBeam
from ..operators.list_mode import Events
from ..operators.scanner import CylindricalScanner

__all__ = ["read_listmode", "read_interfile", "ListMode", "Interfile"]


class ListMode(typing.NamedTuple):
    """A list-mode file: `prompts` and `delayeds` (Events; the delayed window estimates the randoms), `duration` in ms (the time tags it holds)."""

    prompts: Events
    delayeds: Events
    duration: int


class Interfile(typing.NamedTuple):
    """An Interfile: `data`, the `header` (a dict, keys in lower case), the `geometry` of a sinogram (or None), the `voxel_size` of an image in mm (z, y, x) (or None)."""

    data: torch.Tensor
    header: dict
    geometry: Geometry | None
    voxel_size: tuple[float, ...] | None


@checked
def read_listmode(path: FilePath, scanner: CylindricalScanner | None = None) -> ListMode:
    """Siemens 32-bit list mode (Biograph mMR) -> ListMode. `path` is the file of words, or its text header; `scanner` a CylindricalScanner of several rings, by default the mMR's.

    A word with bit 31 clear is a coincidence: bit 30 tells prompts (1) from delayeds (0), bits 0-29 are (plane * views + view) * bins + bin. With bit 31 set it is a tag;
    those that start with 100 give the time in ms, in the lower 29 bits. An event has the time of the last tag before it. Little endian.

    Raises ValueError where the file ends within a word, has no time tags, has an event outside the scanner's sinograms, or where the header tells of another scanner.
    """
    scanner, path = CylindricalScanner.mmr() if scanner is None else scanner, Path(path)
    if len(scanner.shape) != 3:
        raise ValueError(f"read_listmode got {scanner!r}; list-mode words number the planes of a scanner of several rings.")
    views, planes, bins = scanner.shape
    if _is_header(path):
        header = _header(path)
        told = tuple(header.get(key) for key in ("number of rings", "number of views", "number of projections"))
        if any(a is not None and int(a) != b for a, b in zip(told, (scanner.rings, views, bins))) or "name of data file" not in header:
            raise ValueError(f"{path} tells of {told[0]} rings, {told[1]} views and {told[2]} bins, and the data file {header.get('name of data file')}; "
                             f"it needs a data file, and the {scanner.rings} rings, {views} views and {bins} bins of {scanner!r}.")
        path = path.parent / header["name of data file"]
    raw = path.read_bytes()  # type: ignore[union-attr]
    if len(raw) % 4:
        raise ValueError(f"{path} has {len(raw)} bytes, which are no whole number of 32-bit words; it is cut short, or no list-mode file.")
    words = np.frombuffer(raw, "<u4")
    clock = words >> 29 == 4
    if not clock.any():
        raise ValueError(f"{path} holds {len(words)} words and no time tag; it is no Siemens 32-bit list-mode file (or has another byte order).")
    times = (words[clock] & 0x1FFFFFFF).astype(np.int64)
    event = words >> 31 == 0
    time, word = times[np.maximum(np.cumsum(clock)[event] - 1, 0)], words[event]
    address = (word & 0x3FFFFFFF).astype(np.int64)
    if len(address) and address.max() >= planes * views * bins:
        raise ValueError(f"{path} has an event at address {address.max()}; the sinograms of {scanner!r} end at {planes * views * bins}: "
                         "pass the scanner of the file, unless it is of a foreign kind.")
    plane, view, bin = np.unravel_index(address, (planes, views, bins))
    events = Events(*(torch.from_numpy(np.ascontiguousarray(v)) for v in (view, bin, plane)), time=torch.from_numpy(time))  # type: ignore[misc]
    prompt = torch.from_numpy((word >> 30) == 1)
    return ListMode(events[prompt], events[~prompt], int(times[-1] - times[0]))


@checked
def read_interfile(path: FilePath) -> Interfile:
    """An Interfile header and its data -> Interfile: sinograms (.hs) as (views, planes, bins), images (.hv) as (z, y, x), float32 times the header's scaling factor.

    A sinogram's planes run through its segments in the order of the file; `geometry` is a ParallelBeam for arc-corrected data (its planes are slices:
    `data.movedim(1, 0)` is a batch for it), the transaxial CylindricalScanner for others with all their views, or None. Images carry `voxel_size` in mm.

    Raises ValueError where the header lacks a key, names an unknown number format, or the data file has another size than it says.
    """
    path = Path(path)
    if not _is_header(path):
        raise ValueError(f"{path} is no Interfile header; it needs to begin with !INTERFILE.")
    header = _header(path)

    def need(key):
        if key not in header:
            raise ValueError(f"{path} lacks the key '{key}', which a reader needs.")
        return header[key]

    kind, width, order = need("number format").lower(), int(need("number of bytes per pixel")), header.get("imagedata byte order", "bigendian").lower()
    letter = "f" if "float" in kind else "u" if "unsigned" in kind else "i" if "signed" in kind else None
    if letter is None or order not in ("littleendian", "bigendian"):
        raise ValueError(f"{path} has numbers of format '{kind}' and byte order '{order}'; known are float, signed integer and unsigned integer, LITTLEENDIAN and BIGENDIAN.")
    dtype = np.dtype(f"{'<' if order == 'littleendian' else '>'}{letter}{width}")
    axes = {_text(header.get(f"matrix axis label [{i}]", "")): _numbers(need(f"matrix size [{i}]")) for i in range(1, int(need("number of dimensions")) + 1)}
    sinogram = "view" in axes
    if sinogram:
        views, bins, axial = int(axes["view"][0]), int(axes["tangential coordinate"][0]), [int(n) for n in axes["axial coordinate"]]
        total = views * bins * sum(axial)
    else:
        shape = tuple(int(_numbers(need(f"matrix size [{i}]"))[0]) for i in (3, 2, 1))
        total = int(np.prod(shape))
    file, offset = path.parent / need("name of data file"), int(float(header.get("data offset in bytes [1]", header.get("data offset in bytes", 0))))
    raw = file.read_bytes()
    if len(raw) != offset + total * dtype.itemsize:
        raise ValueError(f"{file} has {len(raw)} bytes; its header {path.name} needs {offset} + {total} numbers of {dtype.itemsize}: it is cut short, or another file.")
    scale = float(header.get("image scaling factor [1]", header.get("quantification units", 1)))
    numbers = torch.from_numpy(np.frombuffer(raw, dtype, offset=offset).astype(np.float32)) * scale
    if not sinogram:
        return Interfile(numbers.view(shape), header, None, tuple(float(need(f"scaling factor (mm/pixel) [{i}]")) for i in (3, 2, 1)))
    by_view = list(axes).index("view") > list(axes).index("axial coordinate")              # labels count from the fastest axis
    parts = [p.view(views, n, bins) if by_view else p.view(n, views, bins).movedim(1, 0) for p, n in zip(numbers.split([views * bins * n for n in axial]), axial)]
    return Interfile(torch.cat(parts, 1), header, _geometry(header, views, bins), None)


def _geometry(header, views, bins):
    turn = np.deg2rad(float(header.get("view offset (degrees)", 0)))
    if "arc" in header.get("applied corrections", "").lower():
        width = 10 * float(header.get("effective central bin size (cm)", header.get("default bin size (cm)", 0)))
        return ParallelBeam(torch.arange(views, dtype=torch.float64) * (np.pi / views) + turn, bins, width, -width / 2 * (bins % 2 == 0)) if width else None
    crystals = int(header.get("number of detectors per ring", 0))
    radius = 5 * float(header.get("inner ring diameter (cm)", 0)) + 10 * float(header.get("average depth of interaction (cm)", 0))
    return CylindricalScanner(crystals, radius, bins, rotation=turn) if crystals == 2 * views and radius else None


def _is_header(path):
    with open(path, "rb") as file:
        return file.read(64).lstrip().lower().startswith(b"!interfile")


def _header(path):
    """key := value, keys in lower case without ! and %, indices as 'key [1]'."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if ":=" in line and not line.lstrip().startswith(";"):
            key, value = line.split(":=", 1)
            found[_text(re.sub(r"\s*\[", " [", key.strip().lstrip("!%")))] = value.strip()
    return found


def _text(value):
    return " ".join(value.lower().split())


def _numbers(value):
    return [float(v) for v in value.strip("{} ").split(",")]

"""BART's pair of files: NAME.hdr holds the lengths of the axes, NAME.cfl complex64 values, the first axis running fastest."""

import math
from pathlib import Path

import numpy as np
import torch

from ..arguments import FilePath, checked
from ..files import replacing

__all__ = ["read_cfl", "write_cfl"]


@checked
def read_cfl(path: FilePath) -> torch.Tensor:
    """The array of NAME.cfl and NAME.hdr as a complex64 tensor, BART's axes in reverse: (..., maps, coils, z, y, x).

    BART's own Python reader gives (x, y, z, coils, maps, ...); the reverse is our order and the order in memory, so nothing is moved. BART's trailing axes of length 1
    carry nothing and are left out. path : NAME, NAME.cfl or NAME.hdr. Values are as stored, in no stated unit.
    Raises ValueError for a header without dimensions and for a .cfl of another size.
    """
    data, header = _pair(path)
    lines = header.read_text(errors="replace").splitlines()
    try:
        sizes = [int(n) for n in lines[lines.index("# Dimensions") + 1].split()]
    except (ValueError, IndexError):
        sizes = []
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{header} is no header of BART; it needs the line '# Dimensions' and a line of positive lengths below it.")
    if data.stat().st_size != 8 * math.prod(sizes):
        raise ValueError(f"{data} holds {data.stat().st_size} bytes; {header.name} says {' x '.join(map(str, sizes))} complex64 values, which are {8 * math.prod(sizes)}: "
                         "one of the two is cut short or belongs to another file.")
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return torch.from_numpy(np.fromfile(data, "<c8").astype(np.complex64, copy=False)).view(*reversed(sizes))


@checked
def write_cfl(path: FilePath, x: torch.Tensor) -> None:
    """Write the complex64 tensor `x` (..., maps, coils, z, y, x) as NAME.cfl and NAME.hdr, for BART (x, y, z, coils, maps, ...); `read_cfl` gives it back.

    K-space of one slice (coils, ny, nx) is kspace[:, None]: BART counts coils on its fourth axis. Each file is written atomically, the values first. Raises TypeError for another
    dtype, as the format knows no other, and ValueError for more than BART's 16 axes.
    """
    if not torch.is_tensor(x) or x.dtype != torch.complex64:
        raise TypeError(f"write_cfl got {x.dtype if torch.is_tensor(x) else type(x).__name__}; a .cfl holds complex64: pass x.to(torch.complex64).")
    if not 1 <= x.dim() <= 16:
        raise ValueError(f"write_cfl got a tensor of {x.dim()} axes; BART has 1 to 16.")
    data, header = _pair(path)
    with replacing(header) as head:
        with replacing(data) as values:
            np.ascontiguousarray(x.detach().cpu().resolve_conj().numpy()).astype("<c8", copy=False).tofile(values)
        head.write_text(f"# Dimensions\n{' '.join(map(str, reversed(x.shape)))}\n")


def _pair(path):
    path = str(path)
    name = path[:-4] if path.endswith((".cfl", ".hdr")) else path
    return Path(f"{name}.cfl"), Path(f"{name}.hdr")

"""The HDF5 files of the fastMRI data set."""

from dataclasses import dataclass
from typing import Annotated

import torch

from ..arguments import FilePath, Kind, checked, is_integer
from ..files import hdf5
from .ismrmrd import parse_header

__all__ = ["FastMRI", "read_fastmri"]


@dataclass
class FastMRI:
    """One volume.

    kspace : complex64 (slices, coils, ky, kx), or (slices, ky, kx) of a single coil, centred.   reference : (slices, y, x), the data set's magnitude images, or None (test files).
    mask : bool (kx,), or None where all is sampled.   field_of_view : mm, (z, y, x), of the encoded grid, or None.   header : the ISMRMRD XML, or None.
    attributes : those of the file, such as acquisition and patient_id.
    """

    kspace: torch.Tensor
    reference: torch.Tensor | None
    mask: torch.Tensor | None
    field_of_view: tuple | None
    header: str | None
    attributes: dict


@checked
def read_fastmri(path: FilePath, slices: Annotated[int | slice, Kind("an integer or a slice", lambda v: is_integer(v) or isinstance(v, slice))] | None = None) -> FastMRI:
    """Read `path` into a `FastMRI`; `slices`, a number or a slice, reads these alone, so that training streams from disk (a number drops the axis).

    Values are as stored, in the scanner's unit. Raises ValueError for a file that is no HDF5, is cut short or holds no k-space, IndexError for slices it lacks.
    """
    with hdf5(path, "read_fastmri") as file:
        if "kspace" not in file or file["kspace"].ndim not in (3, 4) or file["kspace"].dtype.kind != "c":
            raise ValueError(f"{path} holds {sorted(file)}; a file of fastMRI has complex 'kspace' of axes (slices, [coils,] ky, kx).")
        which, n = (slice(None) if slices is None else slices), len(file["kspace"])
        if isinstance(which, int) and not -n <= which < n:
            raise IndexError(f"{path} holds {n} slices; slices={slices} asks for another.")
        read = lambda name: torch.from_numpy(file[name][which]) if name in file else None
        reference = read("reconstruction_rss")
        reference = read("reconstruction_esc") if reference is None else reference
        mask = torch.from_numpy(file["mask"][()]).bool() if "mask" in file else None
        header = file["ismrmrd_header"][()].decode() if "ismrmrd_header" in file else None
        field_of_view = None if header is None else parse_header(header, path)["field_of_view"]
        return FastMRI(read("kspace"), reference, mask, field_of_view, header, dict(file.attrs))  # type: ignore[arg-type]

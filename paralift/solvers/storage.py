"""Where the auxiliary variables of all samples are kept."""

import os
import tempfile
from pathlib import Path

import torch

from ..arguments import FilePath, Shape, checked

__all__ = ["Storage"]


@checked
class Storage:
    """Auxiliary variables in another precision, in a memory-mapped file, or both: `BCD(batch_size=500, storage=Storage(torch.bfloat16, "/scratch"))`.

    dtype : torch.bfloat16 halves the memory of float32; x is then rounded by 2^-9, relative, which ends the descent of E where its changes are as small. None: as computed.
    folder : of files that the system pages in and out as it needs, so that x may be larger than the memory of the CPU or of a GPU; they vanish with the tensors. None: in memory.
    Raises ValueError where the folder does not exist, TypeError where dtype is no floating-point type.
    """

    def __init__(self, dtype: torch.dtype | None = None, folder: FilePath | None = None):
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"Storage got dtype={dtype!r}; it needs a floating-point type, for instance torch.bfloat16.")
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"Storage got folder={str(folder)!r}, which is no folder; make it first, on a disk with room for all auxiliary variables.")
        self.dtype, self.folder = dtype, folder

    @checked
    def empty(self, shape: Shape, like: torch.Tensor) -> torch.Tensor:
        """Room for a tensor of this shape; its dtype is the storage's, or that of `like`."""
        dtype = self.dtype or like.dtype
        if self.folder is None:
            return torch.empty(shape, dtype=dtype, device=like.device)
        size = torch.Size(shape).numel()
        handle, path = tempfile.mkstemp(dir=self.folder, prefix="paralift", suffix=".x")
        os.ftruncate(handle, size * torch.empty((), dtype=dtype).element_size())
        os.close(handle)
        try:
            return torch.from_file(path, shared=True, size=size, dtype=dtype).view(shape)
        finally:
            os.unlink(path)                                      # the mapping keeps the file until the tensor goes

    @checked
    def copy(self, v: torch.Tensor) -> torch.Tensor:
        return self.empty(v.shape, v).copy_(v)

    def __repr__(self):
        shown = [f"{k}={v!r}" for k, v in (("dtype", self.dtype), ("folder", None if self.folder is None else str(self.folder))) if v is not None]
        return f"Storage({', '.join(shown)})"

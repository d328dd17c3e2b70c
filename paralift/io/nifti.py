"""NIfTI volumes through nibabel."""


from typing import Annotated

import numpy as np
import torch

from ..arguments import FilePath, Kind, Numbers, checked, is_array
from ..files import package, replacing

Affine = Annotated[torch.Tensor | np.ndarray, Kind("finite numbers (4, 4)", lambda v: is_array(v) and np.shape(v) == (4, 4))]
__all__ = ["read_nifti", "write_nifti"]


@checked
def read_nifti(path: FilePath) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, affine): the volume of a .nii or .nii.gz, axes (z, y, x) or (t, z, y, x), the reverse of the file's, which is their order in memory.

    affine : float64 (4, 4), maps the indices (x, y, z, 1), in the file's order, to mm, +x to the right, +y to the front, +z to the head of the patient; its columns are as long as
    the voxel's sides. Values are those the file means (its slope and intercept applied), in its dtype; wide unsigned integers, which torch
    lacks in part, become wider signed ones.
    Raises ValueError for a foreign, damaged or truncated file.
    """
    nibabel = package("nibabel", "read_nifti")
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise ValueError(f"it is a {type(image).__name__}")
        values = np.asanyarray(image.dataobj)
    except FileNotFoundError:
        raise
    except Exception as error:                                       # nibabel, zlib and numpy have no common kind of error for a damaged file
        raise ValueError(f"{path} is no NIfTI volume, or is damaged or cut short ({error}); a .nii or .nii.gz is needed.") from None
    values = values.T
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        values = values.astype(np.int32 if values.dtype.itemsize == 2 else np.int64)
    return torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C")), torch.from_numpy(np.asarray(image.affine, np.float64))


@checked
def write_nifti(path: FilePath, x: torch.Tensor, affine: Affine | None = None, voxel_size: Numbers | None = None) -> None:
    """Write the tensor `x` (y, x), (z, y, x) or (t, z, y, x) as .nii or .nii.gz, dtype kept; atomic.

    affine : (4, 4) as `read_nifti`'s; or voxel_size : mm, a number or one per spatial axis of `x` in its order: the middle of the volume is then at 0. Exactly one of them.
    Raises ValueError for another ending, number of axes or of lengths, TypeError for a dtype that NIfTI lacks (bool, half precision).
    """
    nibabel = package("nibabel", "write_nifti")
    if not str(path).endswith((".nii", ".nii.gz")):
        raise ValueError(f"write_nifti got {str(path)!r}; the name needs to end in .nii or .nii.gz.")
    if not 2 <= x.dim() <= 4:
        raise ValueError(f"write_nifti got a tensor of shape {tuple(x.shape)}; it needs two to four axes, (t, z, y, x).")
    if x.dtype in (torch.bool, torch.bfloat16, torch.float16):
        raise TypeError(f"write_nifti got {x.dtype}, which NIfTI lacks; pass it as .float() or .to(torch.uint8).")
    if (affine is None) == (voxel_size is None):
        raise ValueError("write_nifti needs either affine=... (4, 4) or voxel_size=... in mm.")
    if voxel_size is not None:
        shape = [*x.shape[-3:]]
        sides = np.asarray(voxel_size, float).ravel().tolist() * (len(shape) if np.ndim(voxel_size) == 0 else 1)
        if len(sides) != len(shape) or min(sides) <= 0:
            raise ValueError(f"write_nifti got voxel_size={voxel_size}; it needs one positive length in mm for each of the axes {tuple(shape)}.")
        matrix = np.eye(4)
        for i, (side, n) in enumerate(zip(reversed(sides), reversed(shape))):
            matrix[i, i], matrix[i, 3] = side, -side * (n - 1) / 2
    else:
        matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"write_nifti got an affine of shape {matrix.shape}; it needs finite numbers (4, 4).")
    values = x.detach().cpu().resolve_conj().numpy().T
    image = nibabel.Nifti1Image(values, matrix, dtype=values.dtype)
    image.header.set_xyzt_units("mm", "sec")
    with replacing(path) as temporary:
        nibabel.save(image, temporary)

"""Data sets of imaging, and phantoms that take their place where they are absent."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from .arguments import Count, InexactDtype, Seed, checked
from .files import hdf5, located
from .io.bart import read_cfl

__all__ = ["brain", "mri_slices", "fdg_slices", "phantom", "emission_phantom"]

# intensity; semi-axes, centre (parts of half the field of view; x, y, z); rotation in the x-y plane, degrees. The modified head phantom of Shepp and Logan (Toft's contrast).
_HEAD = (
    (1.0, (0.69, 0.92, 0.81), (0.0, 0.0, 0.0), 0.0), (-0.8, (0.6624, 0.874, 0.78), (0.0, -0.0184, 0.0), 0.0), (-0.2, (0.11, 0.31, 0.22), (0.22, 0.0, 0.0), -18.0),
    (-0.2, (0.16, 0.41, 0.28), (-0.22, 0.0, 0.0), 18.0), (0.1, (0.21, 0.25, 0.41), (0.0, 0.35, -0.15), 0.0), (0.1, (0.046, 0.046, 0.05), (0.0, 0.1, 0.25), 0.0),
    (0.1, (0.046, 0.046, 0.05), (0.0, -0.1, 0.25), 0.0), (0.1, (0.046, 0.023, 0.05), (-0.08, -0.605, 0.0), 0.0), (0.1, (0.023, 0.023, 0.02), (0.0, -0.606, 0.0), 0.0),
    (0.1, (0.023, 0.046, 0.02), (0.06, -0.605, 0.0), 0.0))
# activity over that of white matter: grey matter around white, cavities without any, one hot spot
_UPTAKE = ((4.0, (0.6, 0.78, 0.7), (0.0, 0.0, 0.0), 0.0), (-3.0, (0.48, 0.66, 0.58), (0.0, 0.0, 0.0), 0.0), (-1.0, (0.09, 0.25, 0.2), (0.16, 0.0, 0.0), -18.0),
           (-1.0, (0.09, 0.25, 0.2), (-0.16, 0.0, 0.0), 18.0), (3.0, (0.08, 0.08, 0.1), (0.2, 0.4, 0.0), 0.0))


def brain() -> torch.Tensor:
    """K-space of a real head, fully sampled: complex64 (8 coils, 230, 180), centred, arbitrary unit. From the examples of ESPIRiT (Uecker et al., 2014).

    FileNotFoundError where absent.
    """
    return read_cfl(located("mri_kspace", "full.cfl", "pl.data.phantom"))[..., 0].transpose(-1, -2).contiguous()


class mri_slices:
    """Real magnitude MR slices, read from disk one a call: `slices[i]` float32 (256, 256) in [0, 1], `len(slices)`; a data set for torch's DataLoader, in bounded memory.

    part : "chest", "brain", or None for both in this order. From Deep ADMM-Net (Yang et al., 2017). FileNotFoundError where absent; needs h5py.
    """

    def __init__(self, part: str | None = None):
        if part not in ("chest", "brain", None):
            raise ValueError(f"mri_slices got part={part!r}; choose 'chest', 'brain' or None.")
        folders = [located("mri_images", f"DeepADMM_{name}", "pl.data.phantom") for name in ("chest", "brain") if part in (name, None)]
        self.files = [file for folder in folders for file in sorted(folder.glob("*.mat"))]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        with hdf5(self.files[i], "mri_slices") as file:
            if "im_ori" not in file or file["im_ori"].shape != (256, 256):
                raise ValueError(f"{self.files[i]} holds {sorted(file)}; it needs 'im_ori' of 256 x 256 values.")
            return torch.from_numpy(file["im_ori"][()].T.astype(np.float32))


def fdg_slices() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(activity, mu, t1) of eight axial slices of the ICBM 152 brain, float32.

    activity : (8, 128, 128), 4 in grey and 1 in white matter, pixels of 2 mm.   mu : (8, 128, 128), the attenuation at 511 keV in 1/mm, pixels of 2 mm.
    t1 : (8, 256, 256) in [0, 1], the MR image, pixels of 1 mm. FileNotFoundError where absent.
    """
    with np.load(located("phantoms", "fdg_mni152_2d.npz", "pl.data.emission_phantom")) as file:
        activity, mu, t1 = (torch.from_numpy(file[name]) for name in ("activity_128", "mu_per_mm_128", "t1_256"))
        return activity, mu, t1


@checked
def phantom(shape: Sequence[int] = (256, 256), coils: Count = 8, noise: float = 0.0, seed: Seed = 0,
            dtype: InexactDtype = torch.complex64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(image, maps, kspace): the head of Shepp and Logan with a smooth phase, in two or three dimensions, seen by coils around it.

    image : complex `shape`, magnitude in [0, 1].   maps : (coils, *shape), the fields B_x - i B_y of small loops on a cylinder around the head, sum |S|^2 = 1 at every pixel.
    kspace : (coils, *shape), the orthonormal centred Fourier transform of maps * image, and complex noise of E |n|^2 = noise^2: noise is in the image's unit. Seeded.
    """
    _check(shape, "phantom")
    if not dtype.is_complex or coils < 1 or noise < 0:
        raise ValueError(f"phantom got dtype={dtype}, coils={coils} and noise={noise}; it needs a complex dtype, a coil at least and no negative noise.")
    x, y, z = _grid(shape)
    image = _ellipsoids(_HEAD, x, y, z).clamp(min=0) * torch.exp(1j * (0.8 * x + 0.5 * y ** 2 - 0.4 * x * y + 0.3 * z))
    fields, rings = [], 1 if len(shape) == 2 or coils < 8 else 2
    for c in range(coils):
        angle, height = 2 * math.pi * (c // rings + 0.5 * (c % rings)) / math.ceil(coils / rings), 0.7 * (c % rings - 0.5 * (rings - 1)) * 2
        inward = -math.cos(angle), -math.sin(angle)
        r = x + 1.3 * inward[0], y + 1.3 * inward[1], z - height
        square = r[0] ** 2 + r[1] ** 2 + r[2] ** 2
        along = 3 * (r[0] * inward[0] + r[1] * inward[1]) / square
        fields.append(torch.complex(along * r[0] - inward[0], -along * r[1] + inward[1]) / square ** 1.5)
    maps = torch.stack(fields)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    axes = tuple(range(-len(shape), 0))
    kspace = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(maps * image, axes), dim=axes, norm="ortho"), axes)
    if noise:
        kspace = kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(seed))
    return image.to(dtype), maps.to(dtype), kspace.to(dtype)


@checked
def emission_phantom(shape: Sequence[int] = (128, 128), dtype: InexactDtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """(activity, mu): a head for PET in two or three dimensions.

    activity : 4 in grey and 1 in white matter, 0 in the cavities, 4 in a hot spot.   mu : the attenuation at 511 keV, 0.0096 per mm inside of the head.
    """
    _check(shape, "emission_phantom")
    x, y, z = _grid(shape)
    activity, head = _ellipsoids(_UPTAKE, x, y, z).clamp(min=0), _ellipsoids(_HEAD[:1], x, y, z)
    return activity.to(dtype), (0.0096 * head).to(dtype)


def _check(shape, who):
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"{who} got shape={tuple(shape)}; it needs two or three positive lengths, (y, x) or (z, y, x).")


def _grid(shape):
    """x, y, z of the pixels, in [-1, 1) along every axis and broadcastable, y up: z is 0 in two dimensions."""
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) * (2 / n) for n in shape]
    x, y = axes[-1], -axes[-2][:, None]
    return x, y, axes[0][:, None, None] if len(shape) == 3 else torch.zeros(1, 1, dtype=torch.float64)


def _ellipsoids(parts, x, y, z):
    image = torch.zeros(torch.broadcast_shapes(x.shape, y.shape, z.shape), dtype=torch.float64)
    for value, (a, b, c), (x0, y0, z0), degrees in parts:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        u, v = (x - x0) * cos + (y - y0) * sin, (y - y0) * cos - (x - x0) * sin
        image += value * ((u / a) ** 2 + (v / b) ** 2 + ((z - z0) / c) ** 2 <= 1)
    return image

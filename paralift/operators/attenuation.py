"""Attenuation at 511 keV from CT numbers."""

import torch

from ..arguments import Array, checked

__all__ = ["hounsfield_to_attenuation"]

# kVp: (slope 1e-5 / cm, intercept 1e-2 / cm, break in HU + 1000) of the line above the break
_CARNEY = {80: (3.64, 6.26, 1050), 100: (4.43, 5.44, 1052), 110: (4.92, 4.88, 1043), 120: (5.10, 4.71, 1047), 130: (5.51, 4.24, 1037), 140: (5.64, 4.08, 1030)}


@checked
def hounsfield_to_attenuation(ct: Array, kvp: int = 120) -> torch.Tensor:
    """The linear attenuation of 511 keV photons in 1/mm, from CT numbers in HU at a tube voltage of `kvp`.

    Two lines: 9.6e-6 (HU + 1000) per mm below a break near soft tissue (mixtures of air and water), and a flatter one above it (of water and bone); never below 0.
    Source: Carney, Townsend, Rappoport & Bendriem, Method for transforming CT images for attenuation correction in PET/CT imaging, Med. Phys. 33, 2006, its table for
    80 to 140 kVp. Raises ValueError for another voltage, and for NaN or numbers below -2000, which are no CT numbers.
    """
    if kvp not in _CARNEY:
        raise ValueError(f"hounsfield_to_attenuation got kvp={kvp}; constants are known for {', '.join(map(str, _CARNEY))} kVp.")
    ct = torch.as_tensor(ct)
    ct = ct if ct.is_floating_point() else ct.float()
    if not torch.isfinite(ct).all() or ct.numel() and float(ct.min()) < -2000:
        raise ValueError("hounsfield_to_attenuation got NaN, inf or numbers below -2000; it needs CT numbers in HU, where air is -1000 and water 0.")
    slope, intercept, at = _CARNEY[kvp]
    shifted = ct + 1000
    return 0.1 * torch.where(shifted < at, 9.6e-5 * shifted, 1e-5 * slope * shifted + 1e-2 * intercept).clamp(min=0)

"""Readers and writers of imaging files: BART, ISMRMRD, fastMRI and NIfTI. Axes are in PARALIFT's order, (..., coils, z, y, x); every writer is atomic."""

from .bart import read_cfl, write_cfl
from .fastmri import FastMRI, read_fastmri
from .ismrmrd import Measurement, read_ismrmrd, write_ismrmrd
from .nifti import read_nifti, write_nifti

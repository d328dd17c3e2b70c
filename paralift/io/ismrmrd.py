"""ISMRMRD raw data (HDF5): readouts in any order, put on the grid of k-space."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..arguments import FilePath, checked
from ..files import hdf5, package, replacing

__all__ = ["Measurement", "read_ismrmrd", "write_ismrmrd"]

_LEADING = ("repetition", "set", "phase", "contrast", "slice")
_NOISE, _CALIBRATION, _CALIBRATION_AND_IMAGING, _REVERSE = (1 << bit - 1 for bit in (19, 20, 21, 22))
_OTHER = sum(1 << bit - 1 for bit in (23, 24, 26, 27, 28, 29, 30, 31))           # navigators, phase correction, feedback, dummies: no samples of the image


@dataclass
class Measurement:
    """What `read_ismrmrd` found.

    kspace : complex64 (*axes, coils, ky, kx) or (*axes, coils, kz, ky, kx), centred, 0 where nothing was sampled; with a trajectory (coils, readouts, samples).
    axes : names of the leading axes of `kspace` ("slice", "repetition", ...), those with more than one entry.
    noise : (coils, samples) of the noise scans, or None.   calibration : as `kspace`, the readouts that only calibrate, or None.
    trajectory : (readouts, samples, d) as stored, columns (x, y[, z]), in the unit of the writer (the format fixes none), or None.
    field_of_view : of the encoded grid in mm, (z, y, x).   image_shape, image_field_of_view : of the image to be made, (z, y, x), mm: smaller where the readout is oversampled.
    sample_time : s between samples.   resonance_frequency : Hz.   header : the XML.
    """

    kspace: torch.Tensor
    axes: tuple
    noise: torch.Tensor | None
    calibration: torch.Tensor | None
    trajectory: torch.Tensor | None
    field_of_view: tuple
    image_shape: tuple
    image_field_of_view: tuple
    sample_time: float
    resonance_frequency: float
    header: str


def parse_header(header, path, encoding=0):
    """Numbers of the XML header: grid and field of view (mm) of the encoded and of the image space, (z, y, x), the centre lines, trajectory, frequency (Hz)."""
    try:
        root = ElementTree.fromstring(header)
        part = root.findall("{*}encoding")[encoding]
        triple = lambda name, kind: tuple(kind(float(part.find("/".join(f"{{*}}{n}" for n in (*name.split("/"), axis))).text)) for axis in "zyx")
        centre = lambda step: part.findtext(f"{{*}}encodingLimits/{{*}}kspace_encoding_step_{step}/{{*}}center")
        shape = triple("encodedSpace/matrixSize", int)
        return {"shape": shape, "field_of_view": triple("encodedSpace/fieldOfView_mm", float), "image_shape": triple("reconSpace/matrixSize", int),
                "image_field_of_view": triple("reconSpace/fieldOfView_mm", float), "trajectory": (part.findtext("{*}trajectory") or "cartesian").strip().lower(),
                "centre": tuple(shape[2 - step] // 2 if centre(step) is None else int(centre(step)) for step in (2, 1)),
                "frequency": float(root.findtext("{*}experimentalConditions/{*}H1resonanceFrequency_Hz") or 0)}
    except (ElementTree.ParseError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} has no ISMRMRD header with an encoding number {encoding} ({type(error).__name__}: {error}); it needs the matrix sizes and fields of view "
                         "of the encoded and of the image space.") from None


@checked
def read_ismrmrd(path: FilePath, dataset: str = "dataset", encoding: int = 0) -> Measurement:
    """Read the readouts of one encoding into a `Measurement`.

    A Cartesian readout goes to the row idx - centre + n // 2 of its two phase encodings and its centre sample to n // 2, so that partial Fourier data stay in place; samples to be
    discarded are left out, repeated readouts (averages) are averaged, navigators and dummies skipped. Values are in the scanner's unit. Needs h5py.
    Raises ValueError for a file that is no ISMRMRD data set or is cut short, for readouts outside of the grid, and for reversed ones (EPI), which need a phase correction first.
    """
    with hdf5(path, "read_ismrmrd") as file:
        group = file.get(dataset)
        if group is None or "xml" not in group or "data" not in group:
            raise ValueError(f"{path} holds {sorted(file)}; an ISMRMRD file has a group {dataset!r} with 'xml' and 'data': name its group as dataset=...")
        xml = group["xml"][0]
        header = xml.decode() if isinstance(xml, bytes) else str(xml)
        numbers, heads = parse_header(header, path, encoding), group["data"].fields("head")[()]
        flags = heads["flags"]
        noise = np.flatnonzero(flags & _NOISE)
        ours = np.flatnonzero((flags & (_NOISE | _OTHER) == 0) & (heads["encoding_space_ref"] == encoding))
        if not len(ours):
            raise ValueError(f"{path} has {len(heads)} readouts, none of them of the image with encoding {encoding}; choose another encoding=...")
        if (flags[ours] & _REVERSE).any():
            raise ValueError(f"{path} has reversed readouts (EPI); they need a phase correction and are not put on a grid here.")
        coils = np.unique(heads["active_channels"][np.concatenate([noise, ours])])
        if len(coils) > 1:
            raise ValueError(f"{path} has readouts of {' and '.join(map(str, coils))} coils; all need the same number.")
        lines = _lines(group["data"], heads, path)
        silence = torch.from_numpy(np.concatenate([line for _, line in lines(noise)], 1)) if len(noise) else None
        only = (flags[ours] & _CALIBRATION != 0) & (flags[ours] & _CALIBRATION_AND_IMAGING == 0)
        trajectory, calibration = None, None
        axes: tuple[str, ...] = ()
        if numbers["trajectory"] != "cartesian" and heads["trajectory_dimensions"][ours].min() > 0:
            kspace, trajectory = _samples(group["data"], heads, ours, lines, path)
        else:
            axes = tuple(name for name in _LEADING if heads["idx"][name][ours].max() > 0)
            leading = tuple(int(heads["idx"][name][ours].max()) + 1 for name in axes)
            grid = lambda chosen: _grid(lines, heads, chosen, numbers, axes, leading, int(coils[0]), path)
            kspace, calibration = grid(ours[~only]), grid(ours[only]) if only.any() else None
        return Measurement(kspace, axes, silence, calibration, trajectory, numbers["field_of_view"], numbers["image_shape"], numbers["image_field_of_view"],
                           float(heads["sample_time_us"][ours[0]]) * 1e-6, numbers["frequency"], header)


def _lines(data, heads, path):
    """indices -> (index, samples (coils, samples) without those to be discarded), a few hundred readouts in memory at a time."""

    def lines(indices, at_once=512):
        for first in range(0, len(indices), at_once):
            part = indices[first:first + at_once]
            values = data.fields("data")[part[0]:part[-1] + 1]
            for i in part:
                head, raw = heads[i], np.asarray(values[i - part[0]], np.float32)
                coils, samples = int(head["active_channels"]), int(head["number_of_samples"])
                if raw.size != 2 * coils * samples:
                    raise ValueError(f"{path}: readout {i} holds {raw.size} numbers; its header says {coils} coils of {samples} complex samples.")
                yield i, raw.view(np.complex64).reshape(coils, samples)[:, int(head["discard_pre"]):samples - int(head["discard_post"])]

    return lines


def _grid(lines, heads, chosen, numbers, axes, leading, coils, path):
    nz, ny, nx = numbers["shape"]
    kspace, count = np.zeros((*leading, coils, nz, ny, nx), np.complex64), np.zeros((*leading, nz, ny), np.int64)
    index = heads["idx"]
    rows = index["kspace_encode_step_1"].astype(int) - numbers["centre"][1] + ny // 2
    planes = index["kspace_encode_step_2"].astype(int) - numbers["centre"][0] + nz // 2
    starts = nx // 2 - heads["center_sample"].astype(int) + heads["discard_pre"]
    for i, line in lines(chosen):
        z, y, x, n = planes[i], rows[i], int(starts[i]), line.shape[1]
        if not (0 <= z < nz and 0 <= y < ny and 0 <= x <= nx - n):
            raise ValueError(f"{path}: readout {i} has kz {z}, ky {y} and kx {x} to {x + n - 1}; its header states a grid of {nz} x {ny} x {nx} (z, y, x).")
        place = tuple(int(index[name][i]) for name in axes)
        kspace[(*place, slice(None), z, y, slice(x, x + n))] += line
        count[(*place, z, y)] += 1
    np.divide(kspace, np.maximum(count, 1)[..., None, :, :, None], out=kspace)
    return torch.from_numpy(kspace[..., 0, :, :] if nz == 1 else kspace)


def _samples(data, heads, chosen, lines, path):
    kept = heads["number_of_samples"].astype(int) - heads["discard_pre"] - heads["discard_post"]
    if len(np.unique(kept[chosen])) > 1 or len(np.unique(heads["trajectory_dimensions"][chosen])) > 1:
        raise ValueError(f"{path} has readouts of {np.unique(kept[chosen]).tolist()} samples off the grid; all need the same number, and one number of trajectory axes.")
    kspace = np.stack([line for _, line in lines(chosen)], 1)
    stored = data.fields("traj")[()]
    trajectory = np.stack([np.asarray(stored[i], np.float32).reshape(int(heads["number_of_samples"][i]), -1)[int(heads["discard_pre"][i]):][:kept[i]] for i in chosen])
    return torch.from_numpy(kspace), torch.from_numpy(trajectory)


@checked
def write_ismrmrd(path: FilePath, kspace: torch.Tensor, field_of_view: Sequence[float], noise: torch.Tensor | None = None, axis: int = 0,
                  resonance_frequency: float = 0) -> None:
    """Write Cartesian k-space as ISMRMRD, one acquisition a row (ky, kz) that is not all 0; `read_ismrmrd` gives it back. Atomic.

    kspace : complex64 (coils, [kz,] ky, kx), centred; one axis before the coils (`axis=1`) is slices. field_of_view : mm, one an axis of space, (z, y, x) or (y, x): in two
    dimensions the slice is given 1 mm. noise : complex64 (coils, samples), or None. resonance_frequency : Hz, which the format demands; 0 says unknown. Needs ismrmrd and h5py.
    Raises TypeError for another dtype, ValueError for shapes that do not fit.
    """
    h5py, layout = package("h5py", "write_ismrmrd"), package("ismrmrd.hdf5", "write_ismrmrd")
    d = kspace.dim() - axis - 1
    if kspace.dtype != torch.complex64 or noise is not None and noise.dtype != torch.complex64:
        raise TypeError(f"write_ismrmrd got {kspace.dtype}; the format holds complex64: pass kspace.to(torch.complex64), and the noise alike.")
    if axis not in (0, 1) or d not in (2, 3) or len(field_of_view) != d or not kspace.numel():
        raise ValueError(f"write_ismrmrd got k-space of shape {tuple(kspace.shape)} with axis={axis} and field_of_view={field_of_view}; it needs "
                         "([slices,] coils, [kz,] ky, kx) and a length in mm for each axis after the coils.")
    y = kspace.detach().cpu().resolve_conj().numpy()
    y = (y if axis else y[None]).reshape(-1, y.shape[axis], *((1,) if d == 2 else ()), *y.shape[axis + 1:])
    if noise is not None and (noise.dim() != 2 or noise.shape[0] != y.shape[1] or not 0 < noise.shape[1] < 1 << 16):
        raise ValueError(f"write_ismrmrd got noise of shape {tuple(noise.shape)}; it needs ({y.shape[1]} coils, samples) with at most 65,535 samples.")
    shape, extent = y.shape[2:], [*([1.0] if d == 2 else []), *map(float, field_of_view)]
    places = np.argwhere((y != 0).any((1, 4)))
    readouts = np.zeros(len(places) + (noise is not None), layout.acquisition_dtype)
    head = readouts["head"]
    head["version"], head["active_channels"], head["available_channels"] = 1, y.shape[1], y.shape[1]
    head["number_of_samples"], head["center_sample"], head["scan_counter"] = shape[2], shape[2] // 2, np.arange(len(readouts))
    for name, axis_ in (("slice", 0), ("kspace_encode_step_2", 1), ("kspace_encode_step_1", 2)):
        head["idx"][name][:len(places)] = places[:, axis_]
    rows = [y[s, :, kz, ky] for s, kz, ky in places]
    if noise is not None:
        rows.append(noise.detach().cpu().resolve_conj().numpy())
        head["flags"][-1], head["number_of_samples"][-1], head["center_sample"][-1] = _NOISE, noise.shape[1], 0
    for i, row in enumerate(rows):
        readouts["data"][i] = np.ascontiguousarray(row).view(np.float32).ravel()
        readouts["traj"][i] = np.zeros(0, np.float32)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", data=[_xml(shape, extent, y.shape[:2], resonance_frequency)], dtype=h5py.special_dtype(vlen=bytes))
        group.create_dataset("data", data=readouts, maxshape=(None,), chunks=True)


def _xml(shape, extent, slices_and_coils, frequency):
    triple = lambda name, values: f"<{name}>" + "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", reversed(values))) + f"</{name}>"
    space = triple("matrixSize", shape) + triple("fieldOfView_mm", extent)
    limits = "".join(f"<{name}><minimum>0</minimum><maximum>{n - 1}</maximum><center>{c}</center></{name}>" for name, n, c in (
        ("kspace_encoding_step_1", shape[1], shape[1] // 2), ("kspace_encoding_step_2", shape[0], shape[0] // 2), ("slice", slices_and_coils[0], slices_and_coils[0] // 2)))
    return (f'<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><acquisitionSystemInformation><receiverChannels>{slices_and_coils[1]}</receiverChannels>'
            f"</acquisitionSystemInformation><experimentalConditions><H1resonanceFrequency_Hz>{round(frequency)}</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
            f"<encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace><encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>")

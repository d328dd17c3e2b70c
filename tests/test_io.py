import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import paralift.io as io

G = torch.Generator().manual_seed(0)
KSPACE = torch.randn(4, 12, 10, dtype=torch.complex64, generator=G)
NOISE = torch.randn(4, 64, dtype=torch.complex64, generator=G)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_cfl_is_what_bart_writes(tmp_path):
    """The first of BART's axes runs fastest; both files by hand, values by their index."""
    (tmp_path / "a.b.hdr").write_text("# Dimensions\n3 2 1 4 1 1\n# Command\nones\n")
    np.arange(24, dtype="<c8").tofile(tmp_path / "a.b.cfl")
    for name in ("a.b", "a.b.cfl", "a.b.hdr"):
        x = io.read_cfl(tmp_path / name)
        assert x.shape == (4, 1, 2, 3) and x.dtype == torch.complex64 and x[2, 0, 1, 1] == 1 + 3 * 1 + 6 * 2
    io.write_cfl(tmp_path / "again.cfl", x.transpose(2, 3).conj())
    assert torch.equal(io.read_cfl(tmp_path / "again"), x.transpose(2, 3)) and sorted(p.name for p in tmp_path.iterdir()) == ["a.b.cfl", "a.b.hdr", "again.cfl", "again.hdr"]


def test_bad_cfl(tmp_path):
    io.write_cfl(tmp_path / "x", KSPACE)
    with open(tmp_path / "x.cfl", "ab") as file:
        file.write(b"12345678")
    with pytest.raises(ValueError, match="3848 bytes; x.hdr says 10 x 12 x 4 complex64 values, which are 3840"):
        io.read_cfl(tmp_path / "x")
    (tmp_path / "x.hdr").write_text("# Dimensions\nmany\n")
    with pytest.raises(ValueError, match="no header of BART"):
        io.read_cfl(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        io.read_cfl(tmp_path / "y")
    with pytest.raises(TypeError, match="complex64"):
        io.write_cfl(tmp_path / "y", KSPACE.to(torch.complex128))
    assert not list(tmp_path.glob("*y*"))


def test_a_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    io.write_cfl(tmp_path / "x", KSPACE)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        io.write_cfl(tmp_path / "x", KSPACE + 1)
    assert torch.equal(io.read_cfl(tmp_path / "x"), KSPACE) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("shape,axis,extent", [((4, 12, 10), 0, (240.0, 200.0)), ((3, 4, 12, 9), 1, (240.0, 200.0)), ((4, 5, 12, 10), 0, (50.0, 240.0, 200.0))])
def test_ismrmrd_round_trip(tmp_path, shape, axis, extent):
    kspace = torch.randn(shape, dtype=torch.complex64, generator=G)
    kspace[..., 2:5, :] = 0
    io.write_ismrmrd(tmp_path / "x.h5", kspace, extent, NOISE, axis=axis, resonance_frequency=127.7e6)
    m = io.read_ismrmrd(tmp_path / "x.h5")
    assert torch.equal(m.kspace, kspace) and torch.equal(m.noise, NOISE) and m.axes == ("slice",) * axis and m.calibration is None and m.trajectory is None
    assert m.field_of_view == m.image_field_of_view == (1.0,) * (3 - len(extent)) + extent and m.resonance_frequency == 127.7e6
    assert m.image_shape == (1,) * (3 - len(extent)) + shape[axis + 1:]


def test_the_package_ismrmrd_reads_what_we_write(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    io.write_ismrmrd(tmp_path / "x.h5", KSPACE, (240.0, 200.0), NOISE)
    with ismrmrd.Dataset(str(tmp_path / "x.h5"), mode="r") as file:
        header = ismrmrd.xsd.CreateFromDocument(file.read_xml_header())
        assert header.encoding[0].encodedSpace.matrixSize.y == 12 and header.encoding[0].encodedSpace.fieldOfView_mm.x == 200
        assert file.number_of_acquisitions() == 13
        line, noise = file.read_acquisition(7), file.read_acquisition(12)
    assert line.idx.kspace_encode_step_1 == 7 and np.array_equal(line.data, KSPACE[:, 7].numpy())
    assert noise.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT) and np.array_equal(noise.data, NOISE.numpy())


HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions><H1resonanceFrequency_Hz>63800000</H1resonanceFrequency_Hz>
</experimentalConditions><encoding><encodedSpace><matrixSize><x>16</x><y>12</y><z>1</z></matrixSize><fieldOfView_mm><x>320</x><y>240</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>8</x><y>12</y><z>1</z></matrixSize><fieldOfView_mm><x>160</x><y>240</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>8</maximum><center>3</center></kspace_encoding_step_1></encodingLimits>
<trajectory>{}</trajectory></encoding></ismrmrdHeader>"""


def scanner_file(path, edit=lambda lines: lines, trajectory="cartesian"):
    """A file as the package writes it: partial Fourier in both directions, samples to be discarded, an average, two repetitions, a navigator, a calibration line."""
    ismrmrd = pytest.importorskip("ismrmrd")
    lines = []
    for repetition in range(2):
        for line in range(9):
            for average in range(2 if line == 4 else 1):
                values = (np.arange(13) + 100 * line + 1000 * repetition + 10 * average + 1j * np.arange(3)[:, None]).astype(np.complex64)
                a = ismrmrd.Acquisition.from_array(values, center_sample=6, discard_pre=1, discard_post=2, sample_time_us=5.0)
                a.idx.kspace_encode_step_1, a.idx.repetition, a.idx.average = line, repetition, average
                lines.append(a)
    for bit, row in ((ismrmrd.ACQ_IS_NAVIGATION_DATA, 0), (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, 1)):
        a = ismrmrd.Acquisition.from_array(np.full((3, 13), 7j, np.complex64), center_sample=6, discard_pre=1, discard_post=2)
        a.set_flag(bit)
        a.idx.kspace_encode_step_1 = row
        lines.append(a)
    with ismrmrd.Dataset(str(path), mode="w") as file:
        file.write_xml_header(HEADER.format(trajectory).encode())
        for a in edit(lines):
            file.append_acquisition(a)
    return path


def test_ismrmrd_of_a_scanner(tmp_path):
    m = io.read_ismrmrd(scanner_file(tmp_path / "scan.h5"))
    assert m.kspace.shape == (2, 3, 12, 16) and m.axes == ("repetition",) and m.noise is None and m.sample_time == pytest.approx(5e-6)
    assert m.field_of_view == (5.0, 240.0, 320.0) and m.image_shape == (1, 12, 8) and m.image_field_of_view == (5.0, 240.0, 160.0)
    sampled = (m.kspace != 0).any(0).any(0)
    expected = torch.zeros(12, 16, dtype=torch.bool)
    expected[3:12, 8 - 5:8 - 5 + 10] = True              # the centre line 3 at row 6, the centre sample 6 at column 8, sample 0 and the last two dropped
    assert torch.equal(sampled, expected)
    assert m.kspace[1, 2, 6, 8] == 6 + 300 + 1000 + 2j and m.kspace[0, 0, 7, 8] == 6 + 400 + 5       # the average of 400 and 410
    assert m.calibration.abs().sum() == 7 * 3 * 10 * 1 and m.calibration[0, 0, 4, 8] == 7j


def test_ismrmrd_with_a_trajectory(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    spokes = np.random.default_rng(0).normal(size=(5, 13, 2)).astype(np.float32)

    def radial(lines):
        return [ismrmrd.Acquisition.from_array(np.full((3, 13), i + 1, np.complex64), spoke, discard_pre=1) for i, spoke in enumerate(spokes)]

    m = io.read_ismrmrd(scanner_file(tmp_path / "scan.h5", radial, "radial"))
    assert m.kspace.shape == (3, 5, 12) and m.kspace[1, 4, 3] == 5 and np.array_equal(m.trajectory, spokes[:, 1:])


def reversed_(lines):
    lines[3].set_flag(22)
    return lines


def outside(lines):
    lines[3].idx.kspace_encode_step_1 = 40
    return lines


def other_coils(lines):
    import ismrmrd
    return lines[:3] + [ismrmrd.Acquisition.from_array(np.ones((2, 13), np.complex64))]


@pytest.mark.parametrize("edit,text", [(reversed_, "reversed readouts"), (outside, "readout 3 has kz 0, ky 43"), (other_coils, "2 and 3 coils")])
def test_ismrmrd_that_does_not_fit(tmp_path, edit, text):
    with pytest.raises(ValueError, match=text):
        io.read_ismrmrd(scanner_file(tmp_path / "scan.h5", edit))


def fastmri_file(path, **more):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["kspace"], file["reconstruction_rss"] = np.arange(3 * 4 * 12 * 10).reshape(3, 4, 12, 10).astype(np.complex64), np.ones((3, 8, 8), np.float32)
        file["ismrmrd_header"], file["mask"], file.attrs["acquisition"] = HEADER.format("cartesian"), np.arange(10) % 2, "AXT2"
        for name, value in more.items():
            del file[name]
            if value is not None:
                file[name] = value
    return path


def test_fastmri(tmp_path):
    volume = io.read_fastmri(fastmri_file(tmp_path / "v.h5"))
    assert volume.kspace.shape == (3, 4, 12, 10) and volume.kspace.dtype == torch.complex64 and volume.reference.shape == (3, 8, 8)
    assert volume.mask.tolist() == [False, True] * 5 and volume.field_of_view == (5.0, 240.0, 320.0) and volume.attributes == {"acquisition": "AXT2"}
    assert torch.equal(io.read_fastmri(tmp_path / "v.h5", slices=1).kspace, volume.kspace[1])
    assert io.read_fastmri(tmp_path / "v.h5", slices=slice(1, 3)).reference.shape == (2, 8, 8)
    with pytest.raises(IndexError, match="holds 3 slices"):
        io.read_fastmri(tmp_path / "v.h5", slices=3)
    assert io.read_fastmri(fastmri_file(tmp_path / "test.h5", reconstruction_rss=None)).reference is None


def test_bad_hdf5(tmp_path):
    with pytest.raises(ValueError, match="has complex 'kspace'"):
        io.read_fastmri(fastmri_file(tmp_path / "v.h5", kspace=np.ones((3, 4))))
    with pytest.raises(ValueError, match="no ISMRMRD header"):
        io.read_fastmri(fastmri_file(tmp_path / "v.h5", ismrmrd_header="<html/>"))
    with pytest.raises(ValueError, match="a group 'dataset' with 'xml' and 'data'"):
        io.read_ismrmrd(tmp_path / "v.h5")
    (tmp_path / "text.h5").write_text("no data")
    cut(fastmri_file(tmp_path / "v.h5"))
    for read in (io.read_ismrmrd, io.read_fastmri):
        for name in ("text.h5", "v.h5"):
            with pytest.raises(ValueError, match="no HDF5 file, or is damaged"):
                read(tmp_path / name)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "absent.h5")
    with pytest.raises(TypeError, match="complex64"):
        io.write_ismrmrd(tmp_path / "y.h5", KSPACE.real, (1.0, 1.0))
    with pytest.raises(ValueError, match="a length in mm"):
        io.write_ismrmrd(tmp_path / "y.h5", KSPACE, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="4 coils, samples"):
        io.write_ismrmrd(tmp_path / "y.h5", KSPACE, (1.0, 1.0), NOISE[:3])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_nifti_round_trip(tmp_path, dtype, name):
    x = (100 * torch.rand(3, 4, 5, 6, generator=G)).to(dtype)
    affine = torch.tensor([[0, 2, 0, -7.5], [1, 0, 0, 3], [0, 0, 3, 1], [0, 0, 0, 1]], dtype=torch.float64)
    io.write_nifti(tmp_path / name, x, affine)
    y, A = io.read_nifti(tmp_path / name)
    assert torch.equal(x, y) and x.dtype == y.dtype and torch.equal(A, affine)


def test_nifti_axes_and_sizes(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    io.write_nifti(tmp_path / "x.nii.gz", torch.arange(24.0).view(2, 3, 4), voxel_size=(5, 2, 1))
    image = nibabel.load(tmp_path / "x.nii.gz")
    assert image.shape == (4, 3, 2) and image.header.get_zooms() == (1, 2, 5) and image.header.get_xyzt_units()[0] == "mm"
    assert float(image.dataobj[3, 1, 0]) == 3 + 4 and np.allclose(image.affine @ [1.5, 1, 0.5, 1], [0, 0, 0, 1])
    scaled = nibabel.Nifti1Image(np.arange(6, dtype=np.int16).reshape(1, 2, 3), np.eye(4))
    scaled.header.set_slope_inter(0.5, 1)
    nibabel.save(scaled, tmp_path / "s.nii")
    assert np.allclose(io.read_nifti(tmp_path / "s.nii")[0].numpy().T, nibabel.load(tmp_path / "s.nii").get_fdata())
    nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), 60000, ">u2"), np.eye(4)), tmp_path / "u.nii")
    assert (io.read_nifti(tmp_path / "u.nii")[0] == 60000).all()


def test_bad_nifti(tmp_path):
    io.write_nifti(tmp_path / "x.nii", torch.rand(9, 9, 9), voxel_size=1)
    io.write_nifti(tmp_path / "x.nii.gz", torch.rand(9, 9, 9), voxel_size=1)
    (tmp_path / "text.nii").write_text("no data" * 100)
    for name in ("x.nii", "x.nii.gz", "text.nii"):
        cut(tmp_path / name)
        with pytest.raises(ValueError, match="no NIfTI volume, or is damaged"):
            io.read_nifti(tmp_path / name)
    x = torch.rand(4, 4, 4)
    for call, kind, text in ((lambda: io.write_nifti(tmp_path / "y.img", x, voxel_size=1), ValueError, "end in"),
                             (lambda: io.write_nifti(tmp_path / "y.nii", x), ValueError, "either"),
                             (lambda: io.write_nifti(tmp_path / "y.nii", x, voxel_size=(1, 2)), ValueError, "one positive length"),
                             (lambda: io.write_nifti(tmp_path / "y.nii", x.bfloat16(), voxel_size=1), TypeError, "lacks"),
                             (lambda: io.write_nifti(tmp_path / "y.nii", x[0, 0], voxel_size=1), ValueError, "two to four axes"),
                             (lambda: io.write_nifti(tmp_path / "y.nii", x, affine=np.eye(3)), ValueError, "finite numbers")):
        with pytest.raises(kind, match=text):
            call()
    assert not list(tmp_path.glob("*y.*"))
    with pytest.raises(FileNotFoundError):
        io.read_nifti(tmp_path / "absent.nii")


@pytest.mark.parametrize("call", ["read_fastmri('x.h5')", "read_ismrmrd('x.h5')", "read_nifti('x.nii')"])
def test_a_missing_package_is_named(call):
    code = f"import sys; sys.modules.update(h5py=None, nibabel=None)\nimport paralift.io as io\ntry:\n    io.{call}\nexcept ImportError as e:\n    print(e)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})
    assert "pip install 'paralift[imaging]'" in run.stdout, run.stderr

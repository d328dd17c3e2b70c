"""Siemens list-mode words and Interfile, the real files where they are at hand; events as rows of a PET operator."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import paralift as pl
from paralift.io import read_interfile, read_listmode

DATA = Path(os.environ.get("PARALIFT_DATA", "")) / "pet"
SCANNER = pl.CylindricalScanner(18, 9.0, 8, rings=3, ring_spacing=2.0, block=9)
VIEWS, PLANES, BINS = SCANNER.shape
real = pytest.mark.skipif(not DATA.is_dir(), reason="PARALIFT_DATA has no pet")


def words(n=200, seed=0):
    """n events and a time tag before every twentieth, as words; the plane, view, bin, prompt flag and time of each."""
    g = np.random.default_rng(seed)
    plane, view, bin, prompt = g.integers(PLANES, size=n), g.integers(VIEWS, size=n), g.integers(BINS, size=n), g.integers(2, size=n)
    event = ((prompt << 30) | ((plane * VIEWS + view) * BINS + bin)).astype("<u4")
    out, time = [], []
    for i in range(n):
        if i % 20 == 0:
            out.append(np.uint32((4 << 29) | (500 + i // 20)))
            out.append(np.uint32((5 << 29) | 77))                                     # a tag of another kind
        out.append(event[i])
        time.append(500 + i // 20)
    return np.array(out, "<u4"), plane, view, bin, prompt == 1, np.array(time)


def test_words_are_decoded(tmp_path):
    raw, plane, view, bin, prompt, time = words()
    raw.tofile(tmp_path / "a.l")
    got = read_listmode(tmp_path / "a.l", SCANNER)
    assert got.duration == 9
    for events, which in ((got.prompts, prompt), (got.delayeds, ~prompt)):
        assert len(events) == which.sum()
        for have, want in ((events.plane, plane), (events.view, view), (events.bin, bin), (events.time, time)):
            assert np.array_equal(have.numpy(), want[which])
    header = f"!INTERFILE:=\nname of data file := a.l\nnumber of rings := 3\n%number of projections := {BINS}\n%number of views := {VIEWS}\n"
    (tmp_path / "a.hdr").write_text(header)
    assert len(read_listmode(tmp_path / "a.hdr", SCANNER).prompts) == prompt.sum()


def test_histograms_add_up(tmp_path):
    raw, plane, view, bin, prompt, _ = words()
    raw.tofile(tmp_path / "a.l")
    events = read_listmode(tmp_path / "a.l", SCANNER).prompts
    full = pl.histogram(events, SCANNER)
    expected = np.zeros(SCANNER.shape)
    np.add.at(expected, (view[prompt], plane[prompt], bin[prompt]), 1)
    assert full.shape == SCANNER.shape and np.array_equal(full.numpy(), expected)
    slices = pl.histogram(events, SCANNER, axial="ssrb")
    for s in range(5):
        assert torch.equal(slices[s], full[:, SCANNER.slices() == s].sum(1))
    assert torch.equal(pl.histogram(events, SCANNER, axial="sum"), full.sum(1)) and torch.equal(pl.histogram(events, SCANNER.transaxial()), full.sum(1))


def test_events_are_integers():
    with pytest.raises(TypeError, match="int64"):
        pl.Events(torch.rand(3), torch.rand(3))


def test_bad_files(tmp_path):
    raw = words()[0]
    file = tmp_path / "a.l"
    file.write_bytes(raw.tobytes()[:-2])
    with pytest.raises(ValueError, match="cut short"):
        read_listmode(file, SCANNER)
    raw[raw >> 31 == 0].tofile(file)
    with pytest.raises(ValueError, match="no time tag"):
        read_listmode(file, SCANNER)
    np.append(raw, np.uint32(0x3FFFFFFF)).astype("<u4").tofile(file)
    with pytest.raises(ValueError, match="pass the scanner of the file"):
        read_listmode(file, SCANNER)
    with pytest.raises(ValueError, match="several rings"):
        read_listmode(file, SCANNER.transaxial())
    (tmp_path / "a.hdr").write_text("!INTERFILE:=\nname of data file := a.l\nnumber of rings := 64\n")
    with pytest.raises(ValueError, match="tells of 64 rings"):
        read_listmode(tmp_path / "a.hdr", SCANNER)
    with pytest.raises(ValueError, match="axial='both'"):
        pl.histogram(pl.Events(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)), SCANNER, axial="both")
    with pytest.raises(ValueError, match="need 0 to 7"):
        pl.histogram(pl.Events(torch.tensor([0]), torch.tensor([BINS])), SCANNER.transaxial())
    with pytest.raises(ValueError, match="plane is not given"):
        pl.histogram(pl.Events(torch.tensor([0]), torch.tensor([0])), SCANNER)
    with pytest.raises(ValueError, match="same length"):
        pl.Events(torch.tensor([0]), torch.tensor([0, 1]))


@real
def test_the_real_mmr_file():
    folder = DATA / "mMR_listmode"
    scan = read_listmode(folder / "PET_ACQ_small.l.hdr.STIR")
    assert (len(scan.prompts), len(scan.delayeds), scan.duration) == (218881, 35320, 612)
    assert len(read_listmode(folder / "small_listmode_file.l").prompts) == 218881
    known, mmr = np.load(DATA / "mMR_sino2d_ssrb.npz"), pl.CylindricalScanner.mmr()
    for name, events in (("prompts", scan.prompts), ("delayeds", scan.delayeds)):
        sinogram = pl.histogram(events, mmr, axial="sum")
        assert np.array_equal(sinogram.numpy(), known[name]) and not sinogram[~mmr.live[:, 0]].any()      # no event on a line of a gap


def write(tmp_path, header, data, name="x.hs"):
    data.tofile(tmp_path / "x.s")
    (tmp_path / name).write_text(header)
    return tmp_path / name


SINOGRAM = """!INTERFILE :=
name of data file := x.s
imagedata byte order := BIGENDIAN
!number format := signed integer
!number of bytes per pixel := 2
number of dimensions := 4
matrix axis label [4] := segment
!matrix size [4] := 3
matrix axis label [{view}] := view
!matrix size [{view}] := 4
matrix axis label [{axial}] := axial coordinate
!matrix size [{axial}] := {{ 1, 2,1 }}
matrix axis label [1] := tangential coordinate
!matrix size [1] := 5
Number of detectors per ring := 8
Inner ring diameter (cm) := 60
Average depth of interaction (cm) := 0.7
image scaling factor[1] := 0.5
"""


def test_interfile_sinograms_in_both_orders(tmp_path):
    truth = np.arange(4 * 4 * 5).reshape(4, 4, 5)                                      # views, planes, bins
    parts = np.split(truth, [1, 3], axis=1)
    by_view = np.concatenate([p.ravel() for p in parts]).astype(">i2")
    by_plane = np.concatenate([p.swapaxes(0, 1).ravel() for p in parts]).astype(">i2")
    for data, view, axial in ((by_view, 3, 2), (by_plane, 2, 3)):
        got = read_interfile(write(tmp_path, SINOGRAM.format(view=view, axial=axial), data))
        assert np.array_equal(got.data.numpy(), 0.5 * truth) and got.geometry.shape == (4, 5) and abs(got.geometry.radius - 307) < 1e-9
    with pytest.raises(ValueError, match="cut short"):
        read_interfile(write(tmp_path, SINOGRAM.format(view=3, axial=2), by_view[:-1]))
    with pytest.raises(ValueError, match="lacks the key 'number format'"):
        read_interfile(write(tmp_path, SINOGRAM.replace("number format", "format").format(view=3, axial=2), by_view))
    with pytest.raises(ValueError, match="known are float"):
        read_interfile(write(tmp_path, SINOGRAM.replace("signed integer", "ascii").format(view=3, axial=2), by_view))
    with pytest.raises(ValueError, match="no Interfile header"):
        read_interfile(tmp_path / "x.s")


def test_interfile_images(tmp_path):
    truth = np.random.default_rng(0).random((2, 3, 4)).astype("<f4")
    header = """!INTERFILE :=
name of data file := x.s
imagedata byte order := LITTLEENDIAN
!number format := float
!number of bytes per pixel := 4
number of dimensions := 3
!matrix size [1] := 4
!matrix size [2] := 3
!matrix size [3] := 2
scaling factor (mm/pixel) [1] := 1.5
scaling factor (mm/pixel) [2] := 2.5
scaling factor (mm/pixel) [3] := 3.5
"""
    got = read_interfile(write(tmp_path, header, truth, "x.hv"))
    assert np.array_equal(got.data.numpy(), truth) and got.voxel_size == (3.5, 2.5, 1.5) and got.geometry is None


@real
def test_the_real_interfile_and_its_reconstruction():
    """64 views x 27 planes x 75 bins of 3 mm; EM on its slices explains them: every view of a slice holds the same activity."""
    got = read_interfile(DATA / "stir_recon_demo" / "smalllong.hs")
    assert got.data.shape == (64, 27, 75) and got.geometry.bin_width == 3.0 and got.geometry.shape == (64, 75) and abs(got.geometry.angles[1] - np.pi / 64) < 1e-12
    slices = got.data.movedim(1, 0)[12:15].clamp(min=0)
    A = pl.PET(got.geometry, (75, 75), 3.0)
    x, one = torch.ones(3, 75, 75), A.adjoint(torch.ones(64, 75))
    for _ in range(15):
        x = x / one.clamp(min=1e-3) * A.adjoint(slices / A(x).clamp(min=1e-6))
    assert (A(x) - slices).norm() / slices.norm() < 0.1


def test_list_mode_mlem_is_that_of_the_sinogram(tmp_path):
    """One line per count: the iterates on events and on the histogram agree, with gaps, sensitivity, attenuation, resolution and background, in the plane and in 3-D."""
    g = torch.Generator().manual_seed(0)
    raw = words(400)[0]
    raw.tofile(tmp_path / "a.l")
    events = read_listmode(tmp_path / "a.l", SCANNER).prompts
    for scanner, shape in ((SCANNER.transaxial(), (6, 5)), (SCANNER, (5, 6, 5))):
        sensitivity, background = (0.5 + torch.rand(scanner.shape, dtype=torch.float64, generator=g) for _ in range(2))
        A = pl.PET(scanner, shape, 1.5, torch.full(shape, 0.01), sensitivity, background, resolution=2.0, dtype=torch.float64)
        B, counts, s = A.list_mode(events), pl.histogram(events, scanner, dtype=torch.float64), A.adjoint(torch.ones(scanner.shape, dtype=torch.float64))
        pl.testing.check_operator(B)
        x = y = torch.ones(shape, dtype=torch.float64)
        for _ in range(5):
            x = x / s * A.adjoint(counts / (A(x) + A.background))
            y = y / s * B.adjoint(1 / (B(y) + B.background))
        assert torch.allclose(x, y, rtol=1e-10) and x.std() > 0.1 * x.mean()
        assert torch.allclose(B.rows(slice(0, 7))(x), B(x)[:7]) and B.rows(slice(0, 7)).background.shape == (7,)


def test_list_mode_is_no_sinogram():
    """A Poisson Reconstruction on events would take the events' own back projection for the sensitivity."""
    scanner = pl.CylindricalScanner(16, 20.0)
    listed = pl.PET(scanner, (6, 6), 2.0).list_mode(pl.Events(torch.tensor([1, 2]), torch.tensor([3, 4])))
    with pytest.raises(ValueError, match="sensitivity image of the whole scan"):
        pl.Reconstruction(listed, torch.ones(2), "poisson")


def test_list_mode_with_time_of_flight():
    g = torch.Generator().manual_seed(1)
    scanner, tof = SCANNER.transaxial(), pl.TimeOfFlight(6, 20.0, 30.0)
    A = pl.PET(scanner, (6, 5), 1.5, background=torch.rand(*scanner.shape, 6, generator=g), tof=tof, dtype=torch.float64)
    view, bin = torch.nonzero(scanner.live, as_tuple=True)
    events = pl.Events(view, bin, tof=torch.randint(0, 6, (len(view),), generator=g))
    x = torch.rand(6, 5, dtype=torch.float64, generator=g)
    B = A.list_mode(events)
    assert torch.allclose(B(x), A(x)[view, bin, events.tof]) and torch.equal(B.background, A.background[view, bin, events.tof])
    with pytest.raises(ValueError, match="without time bins for an operator with them"):
        A.list_mode(pl.Events(view, bin))
    dead = torch.nonzero(~scanner.live)[:2]
    with pytest.raises(ValueError, match="2 events on lines of sensitivity 0"):
        pl.PET(scanner, (6, 5), 1.5).list_mode(pl.Events(dead[:, 0], dead[:, 1]))


def test_events_by_number_slice_and_tensor():
    events = pl.Events(torch.tensor([3, 1, 2]), torch.tensor([0, 5, 4]))
    assert torch.equal(events[1:].view, torch.tensor([1, 2])) and torch.equal(events[torch.tensor([2, 0])].bin, torch.tensor([4, 0]))
    for index in (0, 3, torch.tensor([3]), "a"):
        with pytest.raises(IndexError, match="of 3 events"):
            events[index]

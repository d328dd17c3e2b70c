import os

import numpy as np
import pytest
import torch

import paralift as pl


@pytest.mark.parametrize("shape", [(48, 41), (16, 20, 18)])
def test_phantom(shape):
    image, maps, kspace = pl.data.phantom(shape, coils=9, dtype=torch.complex128)
    axes = tuple(range(1, len(shape) + 1))
    assert image.shape == shape and maps.shape == kspace.shape == (9, *shape) and 0.99 < float(image.abs().max()) <= 1
    torch.testing.assert_close(pl.root_sum_of_squares(maps), torch.ones(shape, dtype=torch.float64))
    images = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(kspace, axes), dim=axes, norm="ortho"), axes)
    torch.testing.assert_close(images, maps * image)
    assert torch.linalg.matrix_rank(maps.flatten(1)) == 9                              # no coil is a mixture of the others
    noisy = pl.data.phantom(shape, coils=9, noise=0.3, seed=4, dtype=torch.complex128)[2] - kspace
    assert abs(float(noisy.abs().square().mean()) - 0.09) < 0.01 and torch.equal(kspace, pl.data.phantom(shape, coils=9, dtype=torch.complex128)[2])
    activity, mu = pl.data.emission_phantom(shape)
    assert activity.shape == mu.shape == shape and float(activity.min()) == 0 and float(activity.max()) == 4 and (mu[activity > 0] == torch.tensor(0.0096)).all()


def test_the_plane_of_the_head():
    """The middle of the modified head: skull 1, brain 0.2, ventricles 0, background 0."""
    image = pl.data.phantom((256, 256), coils=1)[0].abs()
    assert [round(float(image[y, x]), 6) for y, x in ((12, 128), (128, 128), (128, 156), (2, 2))] == [1.0, 0.2, 0.0, 0.0]


def test_bad_phantom():
    with pytest.raises(ValueError, match="two or three positive lengths"):
        pl.data.phantom((8,))
    with pytest.raises(ValueError, match="complex dtype"):
        pl.data.phantom((8, 8), dtype=torch.float32)
    with pytest.raises(ValueError, match="'chest', 'brain' or None"):
        pl.data.mri_slices("knee")


@pytest.mark.parametrize("call,instead", [(lambda: pl.data.brain(), "phantom"), (lambda: pl.data.mri_slices(), "phantom"), (lambda: pl.data.fdg_slices(), "emission_phantom")])
def test_absent_data_say_what_serves(call, instead, tmp_path, monkeypatch):
    monkeypatch.setenv("PARALIFT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"set PARALIFT_DATA .* pl.data.{instead}"):
        call()


def test_readers_of_the_data(tmp_path, monkeypatch):
    """Small files of the same layout, in a folder of their own."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.setenv("PARALIFT_DATA", str(tmp_path))
    (tmp_path / "mri_kspace").mkdir()
    (tmp_path / "mri_kspace" / "full.hdr").write_text("# Dimensions\n1 5 4 3 1\n")
    values = np.arange(60).astype(np.complex64).reshape(1, 5, 4, 3)
    values.ravel(order="F").tofile(tmp_path / "mri_kspace" / "full.cfl")
    assert np.array_equal(pl.data.brain().numpy(), values[0].transpose(2, 0, 1))
    for folder, names in (("DeepADMM_chest", ("im-01.mat", "im-02.mat")), ("DeepADMM_brain", ("Brain_data1.mat",))):
        (tmp_path / "mri_images" / folder).mkdir(parents=True)
        for name in names:
            with h5py.File(tmp_path / "mri_images" / folder / name, "w") as file:
                file["im_ori"] = np.arange(65536.0).reshape(256, 256) / 65536
    slices = pl.data.mri_slices()
    assert len(slices) == 3 and len(pl.data.mri_slices("brain")) == 1 and slices[2].shape == (256, 256) and slices[0].dtype == torch.float32
    assert float(slices[0][1, 0]) == 1 / 65536                                         # the file is transposed
    batch = next(iter(torch.utils.data.DataLoader(slices, batch_size=2)))
    assert batch.shape == (2, 256, 256)
    (tmp_path / "mri_images" / "DeepADMM_chest" / "im-02.mat").write_text("damaged")
    with pytest.raises(ValueError, match="no HDF5 file"):
        slices[1]


@pytest.mark.skipif("PARALIFT_DATA" not in os.environ, reason="PARALIFT_DATA is not set")
def test_real_data():
    kspace, slices = pl.data.brain(), pl.data.mri_slices()
    assert kspace.shape == (8, 230, 180) and kspace.dtype == torch.complex64
    row, column = divmod(int(pl.root_sum_of_squares(kspace).argmax()), 180)
    assert abs(row - 115) <= 1 and abs(column - 90) <= 1                               # the peak is at the zero frequency, or beside it
    assert len(slices) > 50 and slices[len(slices) - 1].shape == (256, 256)
    activity, mu, t1 = pl.data.fdg_slices()
    assert activity.shape == mu.shape == (8, 128, 128) and t1.shape == (8, 256, 256) and 0.0095 < float(mu.max()) < 0.0097

import math

import pytest
import torch

import paralift.metrics as metrics

G = torch.Generator().manual_seed(0)
X, Y = torch.rand(3, 2, 24, 31, dtype=torch.float64, generator=G), torch.rand(3, 2, 24, 31, dtype=torch.float64, generator=G)


def test_against_scikit_image():
    peers = pytest.importorskip("skimage.metrics")
    for x, y in zip(X.flatten(0, 1), Y.flatten(0, 1)):
        peak = float(y.abs().max())
        known = peers.structural_similarity(x.numpy(), y.numpy(), gaussian_weights=True, use_sample_covariance=False, sigma=1.5, data_range=peak)
        assert abs(float(metrics.ssim(x, y)) - known) < 1e-12
        assert abs(float(metrics.psnr(x, y)) - peers.peak_signal_noise_ratio(y.numpy(), x.numpy(), data_range=peak)) < 1e-10
        assert abs(float(metrics.nrmse(x, y)) - peers.normalized_root_mse(y.numpy(), x.numpy())) < 1e-12
    volume, other = torch.rand(2, 13, 12, 15, dtype=torch.float64, generator=G)
    known = peers.structural_similarity(volume.numpy(), other.numpy(), gaussian_weights=True, use_sample_covariance=False, data_range=2.0)
    assert abs(float(metrics.ssim(volume, other, peak=2.0, ndim=3)) - known) < 1e-12


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim, metrics.nrmse])
def test_batch_is_a_loop_and_gradients_hold(measure):
    batch = measure(X, Y)
    assert batch.shape == (3, 2)
    assert torch.allclose(batch, torch.stack([torch.stack([measure(x, y) for x, y in zip(a, b)]) for a, b in zip(X, Y)]), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: measure(x, Y[0, 0, :12, :13]), X[0, 0, :12, :13].clone().requires_grad_())


def test_known_values():
    y = torch.full((20, 20), 2.0)
    y[0, 0] = -4.0
    assert math.isclose(float(metrics.psnr(y + 0.4, y)), 20, abs_tol=1e-4) and math.isclose(float(metrics.psnr(y + 0.4, y, peak=0.4)), 0, abs_tol=1e-4)
    assert float(metrics.ssim(y, y)) == 1 and float(metrics.psnr(y, y)) == math.inf and float(metrics.nrmse(3 * y, y)) == 2
    z = torch.complex(y, y)
    assert math.isclose(float(metrics.nrmse(1j * z, z)), math.sqrt(2), rel_tol=1e-6)           # the phase counts


def test_bad_input():
    with pytest.raises(TypeError, match="knows no phase"):
        metrics.ssim(X + 0j, Y)
    with pytest.raises(ValueError, match="11 pixels"):
        metrics.ssim(X[..., :8], Y[..., :8])
    for measure in (metrics.psnr, metrics.ssim, metrics.nrmse):
        with pytest.raises(ValueError, match="one shape"):
            measure(X, Y[0])


def test_images_with_a_graph_are_drawn():
    from paralift.plotting import plot_images, plot_predictions

    images = X[:, 0].clone().requires_grad_()
    assert len(plot_images({"a": images}).axes) == 3 and len(plot_predictions(images, torch.arange(3), torch.arange(3)).axes) == 30

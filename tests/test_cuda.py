"""The library on a GPU gives the CPU's numbers: operators made of tensors there, every method, results that change machines."""

import pytest
import torch

import paralift as pl

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
D, GPU = torch.float64, "cuda"


def randn(*shape, dtype=D, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def operators(device):
    """{name: operator on this device}; what a user may well leave on the CPU stays there: masks, geometry."""
    mask = randn(8, 10, seed=1) > 0
    maps = randn(3, 8, 10, dtype=torch.complex128).to(device)
    made = {
        "MRI": pl.MRI(mask, maps), "MRI without coils": pl.MRI(mask.to(device), dtype=torch.complex128),
        "MRI, off resonance": pl.MRI(mask, maps, field_map=20 * randn(8, 10), readout_times=torch.linspace(0, 0.01, 10, dtype=D)),
        "FourierTransform": pl.FourierTransform(pl.Space((8, 10), torch.complex128, device), mask), "real": pl.FourierTransform(pl.Space((8, 10), D, device), mask),
        "Wavelet": pl.Wavelet(pl.Space((8, 16), D, device), "db2"), "HadamardTransform": pl.HadamardTransform(pl.Space((8, 16), D, device)),
        "Convolution": pl.Convolution(randn(3, 3), pl.Space((8, 10), D, device), "zero"), "GaussianBlur": pl.GaussianBlur(pl.Space((8, 10), D, device), 2.0),
        "DirectionalGradient": pl.DirectionalGradient(pl.Space((8, 10), D, device), randn(8, 10), eta=0.1),
        "PET": pl.PET(pl.CylindricalScanner(18, 9.0, 7, block=9), (5, 6), 1.5, attenuation=0.01 * torch.ones(5, 6), resolution=2.0, dtype=D, device=device),
        "PET, matrix-free": pl.PET(pl.CylindricalScanner(18, 9.0, 7), (5, 6), 1.5, tof=pl.TimeOfFlight(3, 20.0, 30.0), storage="matrix-free", dtype=D, device=device),
    }
    try:
        made["NUFFT"] = pl.NUFFT((3 * torch.rand(20, 2, dtype=D, generator=torch.Generator().manual_seed(2)) - 1.5).to(device), (8, 6), dtype=torch.complex128)
        made["MRI, radial"] = pl.MRI(coil_maps=maps, trajectory=pl.radial_trajectory(7, 16))
    except ImportError:
        pass
    return made


def test_operators():
    there = operators(GPU)
    for name, op in operators("cpu").items():
        other = there[name]
        x, y = op.domain.randn(2, generator=torch.Generator().manual_seed(3)), op.range.randn(2, generator=torch.Generator().manual_seed(4))
        for call in (lambda A, x, y: A(x), lambda A, x, y: A.adjoint(y), lambda A, x, y: A.normal(x)):
            out = call(other, x.to(GPU), y.to(GPU))
            assert out.device.type == "cuda" and torch.allclose(out.cpu(), call(op, x, y), atol=1e-9), name
        assert other.norm() == pytest.approx(op.norm(), rel=1e-6) and torch.equal(other.domain.randn(2, generator=torch.Generator().manual_seed(3)).cpu(), x), name
        rows = other.rows(slice(0, None, 2))
        assert torch.allclose(rows(x.to(GPU)).cpu(), op.rows(slice(0, None, 2))(x), atol=1e-9), name


def test_list_mode_and_coil_maps():
    scanner = pl.CylindricalScanner(18, 9.0, 7)
    view, bin = torch.tensor([0, 3, 8, 3]), torch.tensor([3, 2, 4, 2])
    events = pl.Events(view.to(GPU), bin.to(GPU))
    assert torch.equal(pl.histogram(events, scanner), pl.histogram(pl.Events(view, bin), scanner))
    whole = pl.PET(scanner, (5, 6), 1.5, dtype=D, device=GPU)
    x = randn(5, 6).abs().to(GPU)
    assert torch.allclose(whole.list_mode(events)(x), whole(x)[view, bin])
    kspace = randn(4, 16, 16, dtype=torch.complex128)
    assert torch.allclose(pl.espirit(kspace.to(GPU), 12, 4).cpu().abs(), pl.espirit(kspace, 12, 4).abs(), atol=1e-4)
    assert torch.allclose(pl.low_resolution_maps(kspace.to(GPU), 12).cpu(), pl.low_resolution_maps(kspace, 12))
    assert torch.allclose(pl.prewhiten(kspace.to(GPU), randn(4, 99, dtype=torch.complex128))[0].cpu(), pl.prewhiten(kspace, randn(4, 99, dtype=torch.complex128))[0])


def composites(device):
    A, b = randn(30, 12).abs().to(device), randn(30, seed=5).abs().to(device)
    data, G = 0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), 0.3 * pl.L1Norm()
    image, space = randn(8, 10).to(device), pl.Space((8, 10), D, device)
    counts = pl.Reconstruction(pl.MatrixOperator(A), (10 * b).round(), "poisson")
    denoise = pl.Reconstruction(pl.IdentityOperator(space), image, regulariser=0.2 * pl.TotalVariation())
    lasso = pl.Composite(data, G)
    positive = pl.Composite(pl.KullbackLeibler((10 * b).round() + 1) @ pl.MatrixOperator(A), pl.IndicatorNonnegative(), start=torch.ones(12, dtype=D, device=device))
    return [(pl.PGD(9), lasso), (pl.PGD(9, step="barzilai_borwein"), lasso), (pl.FISTA(9), lasso), (pl.BCD(9), lasso), (pl.PIAG(9), lasso), (pl.DouglasRachford(9), lasso),
            (pl.ADMM(9), lasso), (pl.LBFGS(2), pl.Composite(data, pl.IndicatorBox(0.0, 1.0))), (pl.LinearizedBregman(9), lasso), (pl.BregmanPGD(9), positive),
            (pl.ConjugateGradient(5), pl.Composite(data + 0.1 * pl.L2NormSquared())), (pl.MLEM(9), counts), (pl.OSEM(3, 5), counts),
            (pl.PDHG(9), denoise), (pl.ADMM(9), denoise), (pl.FISTA(3), denoise), (pl.SPDHG(9, subsets=5), counts), (pl.FISTA(9), pl.Composite(data, pl.JointProx(pl.Clip(
                torch.full((12,), -1.0, dtype=D, device=device), torch.full((12,), 1.0, dtype=D, device=device)), pl.WeightedL1Norm(torch.ones(12, dtype=D, device=device)))))]


def test_methods_on_composites():
    for (solver, problem), (_, there) in zip(composites("cpu"), composites(GPU)):
        a, b = solver.solve(problem, progress=False), solver.solve(there, progress=False)
        assert b.x["x"].device.type == "cuda" and b.objective == pytest.approx(a.objective, rel=1e-8), solver
        assert torch.allclose(a.x["x"], b.x["x"].cpu(), atol=1e-6), solver


def training(device):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3)).double().to(device)
    return pl.LiftedTraining(network, randn(90, 6).to(device), (torch.arange(90) % 3).to(device), weight_regulariser=1e-3 * pl.L1Norm())


@pytest.mark.parametrize("solver", [pl.ISGM(2, 16), pl.ISGM(2, 16, sweeps=3, metric="plain"), pl.SGD(2, 16, step=0.1), pl.SAGA(2, 16), pl.SVRG(2, 16),
                                    pl.Katyusha(2, 16, strong_convexity=0.1), pl.PGD(4), pl.BCD(4), pl.BCD(2, batch_size=20), pl.PIAG(2, 4, 1)], ids=lambda s: repr(s)[:20])
def test_methods_on_networks(solver):
    make = training if not isinstance(solver, (pl.SAGA, pl.SVRG, pl.Katyusha, pl.SGD)) else lambda device: pl.linear_model(
        randn(60, 5).to(device), (randn(60, seed=7) > 0).double().to(device), loss="logistic", regulariser=1e-3 * pl.L1Norm())
    a, b = solver.solve(make("cpu"), progress=False), solver.solve(make(GPU), progress=False)
    assert all(v.device.type == "cuda" for v in b.x.values()) and b.objective == pytest.approx(a.objective, rel=1e-6)


def test_x_in_files_serves_a_gpu(tmp_path):
    a, b = (pl.BCD(2, batch_size=20, storage=storage).solve(training(GPU), progress=False) for storage in (None, pl.Storage(folder=tmp_path)))
    assert b.x["x1"].device.type == "cpu" and b.objective == pytest.approx(a.objective, rel=1e-9)


def test_a_run_changes_machines(tmp_path):
    """Saved on one device, gone on with on the other."""
    for here, there in (("cpu", GPU), (GPU, "cpu")):
        pl.ISGM(1, 16).solve(training(here), progress=False).save(tmp_path / "r")
        whole, on = pl.ISGM(2, 16).solve(training(there), progress=False), pl.ISGM(2, 16).solve(training(there), progress=False, resume=tmp_path / "r")
        assert all(torch.allclose(v, on.x[name], atol=1e-6) and on.x[name].device == v.device for name, v in whole.x.items())

"""Everything on a GPU: the same numbers as on the CPU, on the elements' own device, and no wait for the device within the steps of training. Skipped where no GPU is."""

import contextlib
import copy
import importlib.util
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import paralift as pl

DEVICE = "cuda"
D = torch.float64
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@cache
def there(path):
    """A test module of its own, whose constants may be changed."""
    file = Path(__file__).parents[1] / path
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"gpu_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moved(value):
    if torch.is_tensor(value):
        return value.to(DEVICE)
    if isinstance(value, dict):
        return {k: moved(v) for k, v in value.items()}
    return type(value)(map(moved, value)) if isinstance(value, (tuple, list)) else value


def same(a, b, tolerance=1e-8):
    """a, on the GPU, is b, of the CPU."""
    assert a.device.type == DEVICE and a.shape == b.shape and a.dtype == b.dtype
    a, finite = a.detach().cpu(), torch.isfinite(b)
    assert torch.equal(finite, torch.isfinite(a))
    assert torch.allclose(a[finite], b[finite].detach(), rtol=tolerance, atol=tolerance * float(b[finite].abs().max()) if finite.any() else 0)


def runs(solver, cpu, gpu, tolerance=1e-8, **options):
    """The same objectives and the same end on both; the result of the GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        a, b = solver.solve(gpu, progress=False, **options), solver.solve(cpu, progress=False, **options)
    assert a.history["objective"] == pytest.approx(b.history["objective"], rel=tolerance, abs=tolerance)
    scale = max(float(v.abs().max()) for v in b.x.values() if v.numel())
    for name, v in b.x.items():
        assert a.x[name].device.type == DEVICE, name
        assert float((a.x[name].cpu() - v).abs().max() if v.numel() else 0) <= 1e3 * tolerance * scale, name
    return a


FUNCTIONALS, OPERATORS = there("operators/test_functionals.py"), there("operators/test_linear.py")
ON_GPU = cache(lambda: (FUNCTIONALS.cases(DEVICE), OPERATORS.cases(DEVICE)))


@pytest.mark.parametrize("name", FUNCTIONALS.FOUND)
def test_functional(name):
    f, points, _ = FUNCTIONALS.CASES[name]
    g, x = ON_GPU()[0][name][0], pl.testing._points(f, points, 0)
    tolerance = 1e-5 if "Variation" in name or name == "DualProx" else 1e-8
    same(g(moved(x)), f(x), tolerance)
    if f.has_prox:
        x = f.prox(x, 0.7) if f.differentiable else x
        for sigma in (0.7, torch.linspace(0.3, 1.0, len(x), dtype=D).reshape(-1, *[1] * (x.dim() - 1))):
            same(g.prox(moved(x), moved(sigma)), f.prox(x, sigma), tolerance)
    if f.differentiable:
        same(g.gradient(moved(x)), f.gradient(x), 1e-7)
    with contextlib.suppress(NotImplementedError):
        same(g.convex_conj(moved(x)), f.convex_conj(x), tolerance)


@pytest.mark.parametrize("name", OPERATORS.FOUND)
def test_operator(name):
    A, B = OPERATORS.CASES[name], ON_GPU()[1][name]
    x, y = A.domain.randn(3, generator=torch.Generator().manual_seed(0)), A.range.randn(3, generator=torch.Generator().manual_seed(1))
    same(B(moved(x)), A(x))
    same(B.adjoint(moved(y)), A.adjoint(y))
    same((B.adjoint @ B)(moved(x)), (A.adjoint @ A)(x))
    same(B.rows(slice(0, None, 2))(moved(x)), A.rows(slice(0, None, 2))(x))
    assert B.domain.device.type == B.range.device.type == DEVICE
    assert float(B.norm(iterations=300, tolerance=1e-10)) == pytest.approx(float(A.norm(iterations=300, tolerance=1e-10)), rel=1e-3)
    pl.testing.check_operator(B)


PENALTIES = {"bregman": pl.LiftedBregman, "mac": pl.MAC, "lifted": pl.Lifted, "fenchel": pl.Fenchel}


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("potential", [pl.ReLU(), pl.Tanh(), pl.SoftThreshold(0.3), pl.Softmax()], ids=lambda p: type(p).__name__)
def test_penalty(penalty, potential):
    B, g = penalty(potential), torch.Generator().manual_seed(0)
    z = torch.randn(5, 7, dtype=D, generator=g)
    x = B.activation(z + 0.3 * torch.randn(5, 7, dtype=D, generator=g))
    same(B(moved(x), moved(z)), B(x, z))
    same(B.gradient_z(moved(x), moved(z)), B.gradient_z(x, z))
    same(B.prox_x(moved(x), moved(z), 0.4), B.prox_x(x, z, 0.4), 1e-6)


LAYERS = there("problems/test_layers.py")
NETWORKS = there("test_networks.py")
SOLVERS = {"ISGM": pl.ISGM(2, 4, step=1e-2), "ISGM, implicit": pl.ISGM(1, 6, step=0.3, sweeps=2, metric="plain"), "PGD": pl.PGD(4, step=1e-2), "BCD": pl.BCD(3)}


def on_gpu(make):
    """(a problem of the CPU, the same with its network and data on the GPU)."""
    cpu = make()
    again = make()
    options = dict(loss=again.loss, penalty=again.penalty) if hasattr(again, "penalty") else dict(loss=again.loss)
    return cpu, pl.LiftedTraining(again.network.to(DEVICE), moved(again.inputs), moved(again.targets), rho=again.rho, **options)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", [n for n in LAYERS.layers() if n not in ("Dropout", "TransformerEncoderLayer")])             # these draw
def test_layers(name, solver):
    runs(SOLVERS[solver], *on_gpu(lambda: LAYERS.problem_of(name)))


@pytest.mark.parametrize("cls", NETWORKS.CLASSES, ids=lambda c: c.__name__)
def test_networks(cls):
    cpu, gpu = on_gpu(lambda: NETWORKS.build(cls)[1])
    runs(SOLVERS["ISGM"], cpu, gpu, 1e-7)
    result = runs(SOLVERS["PGD"], cpu, gpu, 1e-7)
    assert next(result.network.parameters()).device.type == DEVICE
    pl.testing.check_problem(gpu)


PROBLEMS = there("solvers/problems.py")
METHODS = there("solvers/methods.py")


@pytest.mark.parametrize("kind,variant,name", METHODS.CASES)
def test_method(kind, variant, name):
    make, forms = METHODS.METHODS[kind][variant]
    cpu = PROBLEMS.instance(name, forms[name])[0]
    PROBLEMS.DEVICE = DEVICE
    try:
        gpu = PROBLEMS.PROBLEMS[name].__wrapped__()[0][forms[name]]
    finally:
        PROBLEMS.DEVICE = "cpu"
    runs(make(25), cpu, gpu, 1e-6)


STOCHASTIC = {"SGD": pl.SGD(2, 20, step=0.01), "SVRG": pl.SVRG(2, 20), "SAGA": pl.SAGA(2, 20), "Katyusha": pl.Katyusha(2, 20, strong_convexity=0.1), "PIAG": pl.PIAG(4, shards=4)}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_finite_sum(name):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(100, 8, dtype=D, generator=g), (torch.rand(100, generator=g) < 0.5).to(D)
    make = lambda move: pl.linear_model(move(x), move(y), loss="logistic", regulariser=0.01 * pl.L1Norm())
    runs(STOCHASTIC[name], make(lambda t: t), make(moved))


def digits(move=lambda t: t, dtype=torch.float32, **options):
    torch.manual_seed(0)
    (x, y), (xt, yt) = pl.data.digits()
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)).to(dtype)
    return pl.LiftedTraining(move(network), move(x.to(dtype)), move(y), validation=(move(xt.to(dtype)), move(yt)), **options)


def test_training_resumes_on_the_other_device(tmp_path):
    """A checkpoint of the GPU goes on on the CPU, and back; accuracies and the trained network are the CPU's."""
    cpu, gpu = digits(dtype=D), digits(lambda t: t.to(DEVICE), D)
    whole = pl.ISGM(4, 50).solve(cpu, progress=False)
    first = pl.ISGM(2, 50).solve(gpu, progress=False)
    first.save(tmp_path / "first.pt")
    assert all(v.device.type == "cpu" for v in pl.Result.load(tmp_path / "first.pt").x.values())
    second = pl.ISGM(3, 50).solve(cpu, progress=False, resume=tmp_path / "first.pt")
    third = pl.ISGM(4, 50).solve(gpu, progress=False, resume=second)
    assert third.objective == pytest.approx(whole.objective, rel=1e-8) and third.history["accuracy"] == whole.history["accuracy"]
    assert next(third.network.parameters()).device.type == DEVICE and gpu.predict(third.x, gpu.inputs[:5]).device.type == DEVICE
    assert pl.Result.load(tmp_path / "first.pt", gpu).network(gpu.inputs[:3]).shape == (3, 10)


@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}], ids=["float32", "bfloat16"])
def test_training_learns(options):
    assert pl.ISGM(8, 50).solve(digits(lambda t: t.to(DEVICE), **options), progress=False).history["accuracy"][-1] > 0.9


@pytest.mark.parametrize("solver", [pl.ISGM(1, 100), pl.ISGM(1, 100, sweeps=2), pl.ISGM(1, 100, step=0.1, metric="plain", sweeps=2)], ids=["sweep", "two sweeps", "implicit"])
def test_steps_do_not_wait_for_the_device(solver):
    """A pass over 1200 samples in minibatches waits for the device as often as one in twice as many: for the row of its history only."""
    def waits(samples):
        problem = digits(lambda t: t.to(DEVICE))
        problem = pl.LiftedTraining(problem.network, problem.inputs[:samples], problem.targets[:samples])
        solver.solve(problem, progress=False)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                solver.solve(problem, progress=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [f"{w.filename.rsplit('/', 2)[-1]}:{w.lineno}" for w in found if "synchronizing" in str(w.message)]

    few, many = waits(600), waits(1200)
    assert len(many) <= len(few), sorted(set(many))


def test_x_in_files(tmp_path):
    """Auxiliary variables in files serve a problem on the GPU."""
    solve = lambda storage: pl.BCD(2, batch_size=200, inner_steps=2, storage=storage).solve(digits(lambda t: t.to(DEVICE), D), progress=False)
    kept, filed = solve(None), solve(pl.Storage(folder=tmp_path))
    assert filed.objective == pytest.approx(kept.objective, rel=1e-9)


IMAGING = [pl.FISTA(8), pl.PDHG(30), pl.ADMM(20), pl.PGD(8), pl.DouglasRachford(5), pl.SPDHG(10, subsets=4)]


def scan():
    """A mask, coil maps, data and the image: constants, noise drawn on the CPU."""
    image, maps, kspace = pl.data.phantom((24, 20), coils=4, noise=0.01, dtype=torch.complex128)
    mask = torch.rand(24, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[10:14, 8:12] = True
    return mask, maps, mask * kspace, image


@pytest.mark.parametrize("regulariser,solver", [("tv", s) for s in IMAGING] + [(r, s) for r in ("wavelet", "tgv") for s in IMAGING if isinstance(s, (pl.PDHG, pl.ADMM))],
                         ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_mri(solver, regulariser):
    mask, maps, kspace, _ = scan()
    R = {"tv": lambda s: 0.01 * pl.TotalVariation(tolerance=1e-10, max_iterations=500), "wavelet": lambda s: 0.01 * pl.L1Norm() @ pl.Wavelet(s, "db2", 2),
         "tgv": lambda s: 0.01 * pl.TotalGeneralisedVariation()}[regulariser]
    problems = []
    for move in (lambda t: t, moved):
        A = pl.MRI(move(mask), move(maps))
        problems.append(pl.Reconstruction(A, move(kspace), regulariser=R(A.domain)))
    result = runs(solver, *problems, 1e-5)
    assert result.solution.device.type == DEVICE


@pytest.mark.parametrize("solver", [pl.ConjugateGradient(10)], ids=str)
def test_radial_mri(solver, tmp_path):
    _, maps, _, image = scan()
    k = pl.radial_trajectory(12, 40)
    made = []
    for move in (lambda t: t, moved):
        A = pl.MRI(None, move(maps), trajectory=move(k))
        made.append(pl.Reconstruction(A, A(move(image)), regulariser=0.001 * pl.L2NormSquared()))
    result = runs(solver, *made, 1e-6)
    result.show(moved(image), tmp_path / "image.png")


@pytest.mark.parametrize("solver", [pl.MLEM(5), pl.OSEM(2, subsets=4), pl.PDHG(10), pl.SPDHG(3, subsets=4), pl.LBFGS(5), pl.BregmanPGD(5)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("storage", ["stored", "matrix-free"])
def test_pet(solver, storage):
    activity, mu = pl.data.emission_phantom((20, 20), dtype=D)
    counts, problems = None, []
    for move in (lambda t: t, moved):
        A = pl.PET(pl.CylindricalScanner(40, 20.0, 15), (20, 20), 1.0, attenuation=move(mu), resolution=1.5, background=move(torch.full((20, 15), 0.5, dtype=D)),
                   storage=storage, dtype=D, device=move(mu).device)
        counts = torch.poisson(A(activity) + 0.5, generator=torch.Generator().manual_seed(0)) if counts is None else counts
        regulariser = None if isinstance(solver, (pl.MLEM, pl.OSEM, pl.LBFGS, pl.BregmanPGD)) else 0.05 * pl.TotalVariation()
        problems.append(pl.Reconstruction(A, move(counts), "poisson", regulariser, constraint="nonnegative", start=move(torch.ones(20, 20, dtype=D))))
    runs(solver, *problems, 1e-6)


def test_list_mode_and_masks_of_the_cpu():
    """Events and masks may stay on the CPU."""
    scanner, view, bin = pl.CylindricalScanner(18, 9.0, 7), torch.tensor([0, 3, 8, 3]), torch.tensor([3, 2, 4, 2])
    x = torch.rand(5, 6, dtype=D, generator=torch.Generator().manual_seed(0))
    whole, here = (pl.PET(scanner, (5, 6), 1.5, dtype=D, device=device) for device in (DEVICE, "cpu"))
    same(whole.list_mode(pl.Events(moved(view), moved(bin)))(moved(x)), here(x)[view, bin])
    mask, maps, kspace, image = scan()
    same(pl.MRI(mask, moved(maps))(moved(image)), pl.MRI(mask, maps)(image))


def test_coil_maps_metrics_and_files(tmp_path):
    image, maps, kspace = pl.data.phantom((32, 28), coils=4, noise=0.01, dtype=torch.complex128)
    found = pl.espirit(kspace, 16, 4)
    assert float((pl.espirit(moved(kspace), 16, 4).abs().cpu() - found.abs()).abs().max()) < 1e-2
    same(pl.low_resolution_maps(moved(kspace)), pl.low_resolution_maps(kspace))
    same(pl.root_sum_of_squares(moved(maps)), pl.root_sum_of_squares(maps))
    mixed, matrix, _ = pl.compress_coils(moved(kspace), 2)
    assert mixed.device.type == matrix.device.type == DEVICE
    noise = torch.randn(4, 100, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    same(pl.prewhiten(moved(kspace), moved(noise))[0], pl.prewhiten(kspace, noise)[0])
    a, b = image.abs(), image.abs() + 0.01
    for metric in (pl.metrics.psnr, pl.metrics.nrmse, pl.metrics.ssim):
        same(metric(moved(b), moved(a)), metric(b, a))
    pl.io.write_nifti(tmp_path / "image.nii", moved(a), voxel_size=(1.0, 1.0))
    assert torch.equal(pl.io.read_nifti(tmp_path / "image.nii")[0], a)
    pl.plotting.plot_images({"a": moved(a)[None]}, tmp_path / "image.png")


INVERSION = there("problems/test_inversion.py")


@pytest.mark.parametrize("solver", [pl.PGD(5), pl.BCD(5), pl.BCD(5, inertia="nesterov"), pl.FISTA(5), pl.PDHG(5), pl.ADMM(5), pl.ImplicitGradient(8, step=0.05)], ids=repr)
def test_inversion(solver):
    torch.manual_seed(0)
    deep = not isinstance(solver, (pl.FISTA, pl.PDHG, pl.ADMM))
    net, u = INVERSION.perceptron(), INVERSION.images(2)
    if deep:
        net = nn.Sequential(*net, nn.Linear(30, 20), nn.Tanh()).double()
    y, gpu = net(u).detach(), copy.deepcopy(net).to(DEVICE)
    fidelity = "squared_error" if isinstance(solver, pl.ImplicitGradient) else "bregman"
    regulariser = pl.HuberTotalVariation(0.1) if isinstance(solver, pl.ImplicitGradient) else pl.TotalVariation(tolerance=1e-10)
    make = lambda n, y: pl.LiftedInversion(n, y, regulariser, weight=0.1, shape=(6, 6), fidelity=fidelity)
    runs(solver, make(net, y), make(gpu, moved(y)), 1e-6)


def test_source_condition_and_sampling():
    source = there("problems/test_source_condition.py")
    u = source.images(16, 16)
    make = lambda move: pl.SourceCondition(pl.FourierTransform(pl.Space((16, 16), D, move(u).device)), pl.TotalVariation(), move(u))
    result = runs(pl.FISTA(50), make(lambda t: t), make(moved), 1e-6)
    assert result.solution.element.device.type == DEVICE and float(result.solution.norm) > 0
    design = lambda move: pl.SamplingDesign(pl.FourierTransform(pl.Space((16, 16), D, move(u).device)), pl.TotalVariation(), move(u), weight=0.01)
    result = runs(pl.PGD(20), design(lambda t: t), design(moved), 1e-6)
    assert result.solution.samples > 0


def test_interop_moves_through_the_cpu():
    odl = pytest.importorskip("odl")
    space = odl.uniform_discr([0, 0], [1, 1], [6, 5])
    A, x = pl.from_odl(odl.Gradient(space)), torch.randn(6, 5, dtype=D)
    assert torch.allclose(A(moved(x)).cpu(), A(x)) and A(moved(x)).device.type == DEVICE
    f = pl.from_pyproximal(pytest.importorskip("pyproximal").L1(sigma=0.5), (6, 5))
    same(f.prox(moved(x), 0.3), f.prox(x, 0.3))

"""A good call of every public class and function: {name: [keyword arguments, ...]}, "*" for what is given by position. fuzz.py spoils them one argument at a time.

`found()` lists what is public, by introspection; what is neither here nor in UNTRIED fails the test. Tensors are small and seeded.
"""

import atexit
import inspect
import shutil
import tempfile
from pathlib import Path

import torch

import paralift as pl

MODULES = {"pl": pl, "operators": pl.operators, "problems": pl.problems, "solvers": pl.solvers, "networks": pl.networks, "io": pl.io, "metrics": pl.metrics, "data": pl.data,
           "distributed": pl.distributed, "plotting": pl.plotting, "testing": pl.testing}
UNTRIED = {
    "made by the library, not by users": "Certificate Convexity Linearisation Sampling Result Status Simulation ListMode Interfile FastMRI Measurement Layout CheckFailed "
                                         "StageGraph Stage",
    "abstract: subclasses define everything": "Functional Operator LinearOperator Problem Solver Loss Penalty LiftedProblem ContrastiveProblem",
    "read data sets that need not be there": "mnist fashion_mnist tinyshakespeare brain fdg_slices mri_slices",
    "other libraries' objects, seconds to load": "from_odl to_odl from_pyproximal to_pylops",
    "checks of their own, tested in test_functionals.py and test_linear.py": "check_operator check_functional check_penalty check_problem",
    "workers: tests/distributed": "share rank calibrate",
}
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def found():
    """{name: class or function} of all that the package and its folders export."""
    public = {}
    for module in MODULES.values():
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if name[0] != "_" and (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__.startswith("paralift"):
                public[name] = thing
    return public


def untried():
    return {name for names in UNTRIED.values() for name in names.split()}


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def calls():
    S, C, R = pl.Space((4, 6), torch.float64), pl.Space((4, 6), torch.complex128), pl.Space(5, torch.float64)
    M, V, P = randn(5, 4), randn(4), randn(5).abs() + 0.1
    A, op, image = pl.MatrixOperator(M), pl.MatrixOperator(randn(5, 5)), randn(4, 6)
    Z = randn(4, 6, dtype=torch.complex128)
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[2, 3] = True
    kspace = randn(3, 8, 8, dtype=torch.complex64)
    omega = randn(7, 2)
    beam, ring, rings = pl.ParallelBeam(torch.arange(4) * 0.7, 7), pl.CylindricalScanner(18, 9.0, 7), pl.CylindricalScanner(12, 6.0, 5, rings=3, ring_spacing=2.0)
    tof = pl.operators.TimeOfFlight(5, 200.0, 400.0)
    events = pl.Events(torch.arange(6) % 6, torch.arange(6) % 5, torch.arange(6) % 3)
    flat = pl.Events(torch.arange(6) % 9, torch.arange(6) % 7)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    x, y, r = torch.rand(12, 4), torch.arange(12) % 3, torch.rand(12, 3)
    D = pl.Gradient(S)
    counts = (A(V.abs()).abs() * 5).round()
    scan = pl.Reconstruction(pl.FourierTransform(C, mask), mask * Z, regulariser=0.01 * pl.TotalVariation())
    sharp = pl.Reconstruction(pl.Convolution(torch.ones(3, 3, dtype=torch.float64) / 9, S), image, regulariser=0.1 * pl.TotalVariation())
    lasso = pl.Composite(pl.LeastSquares(M, P), 0.1 * pl.L1Norm())
    smooth = [dict(), dict(space=(3,))]
    variation = [dict(), dict(space=S), dict(channel_axis=0), dict(axes=(-1,), spacing=2.0, tolerance=1e-4, max_iterations=50)]
    costs = dict(costs=pl.distributed.StageCosts.uniform(4, 1e-3, 2e-3, 1000, 64))
    few = dict(max_iterations=3)
    pl.io.write_cfl(FOLDER / "a", kspace), pl.io.write_nifti(FOLDER / "a.nii", image, voxel_size=2.0)
    pl.io.write_ismrmrd(FOLDER / "a.h5", kspace, (200.0, 200.0))
    return {
        # operators
        "Space": [dict(shape=(3, 4)), dict(shape=5, dtype=torch.float64)], "ProductSpace": [{"*": (S, R)}],
        "IdentityOperator": [dict(space=S)], "MatrixOperator": [dict(matrix=M), dict(matrix=M.float()), dict(matrix=M + 1j)],
        "DiagonalOperator": [dict(weights=image), dict(weights=Z)],
        "Convolution": [dict(kernel=M[:3, :3], space=S), dict(kernel=M[:2, :2] + 1j, space=C, padding="zero")],
        "Gradient": [dict(space=S), dict(space=(4, 6)), dict(space=(3, 4, 6), axes=(1, 2), spacing=(1.0, 2.0))], "SymmetrisedGradient": [dict(space=S, spacing=2.0)],
        "DirectionalGradient": [dict(space=S, reference=image, eta=0.5)], "Casorati": [dict(space=S)], "FourierTransform": [dict(space=C), dict(space=S, mask=mask)],
        "HadamardTransform": [dict(space=pl.Space((4, 8), torch.float64), axes=(0,)), dict(space=(4, 8))],
        "Wavelet": [dict(space=pl.Space((8, 4), torch.float64), wavelet="db2", levels=2)],
        "FilterBank": [dict(filters=randn(3, 2, 2), space=S)], "GaussianBlur": [dict(space=S, fwhm=(2.0, 3.0), voxel_size=1.5)],
        "VerticalStack": [{"*": (D, pl.IdentityOperator(S))}], "HorizontalStack": [{"*": (D.adjoint, pl.IdentityOperator(S))}], "DiagonalStack": [{"*": (D, A)}],
        "Selection": [dict(product=pl.ProductSpace(S, R), index=1), dict(product=pl.ProductSpace(S, R), index=(1, 0))],
        "Rays": [dict(start=4 * M[:, :2], end=4 * M[:, 2:])], "ParallelBeam": [dict(angles=torch.arange(4) * 0.7, bins=7, bin_width=1.5)],
        "CylindricalScanner": [dict(crystals=18, radius=9.0, bins=7, block=9), dict(crystals=12, radius=6.0, bins=5, rings=3, ring_spacing=2.0, span=3)],
        "TimeOfFlight": [dict(bins=5, width=200.0, fwhm=400.0)],
        "JosephProjector": [dict(geometry=beam, shape=(4, 6), dtype=torch.float64), dict(geometry=ring, shape=(4, 6), voxel_size=1.5, tof=tof, storage="matrix-free")],
        "RayTransform": [dict(shape=(4, 6), angles=torch.arange(3) * 0.7)],
        "PET": [dict(geometry=ring, shape=(4, 6), voxel_size=1.5, attenuation=0.01 * torch.ones(4, 6), resolution=2.0),
                dict(geometry=beam, shape=(4, 6), background=torch.ones(4, 7))],
        "MRI": [dict(mask=mask), dict(mask=mask, coil_maps=kspace[:, :4, :6]), dict(coil_maps=kspace[:, :4, :6], trajectory=omega)],
        "NUFFT": [dict(trajectory=omega, shape=(4, 6), dtype=torch.complex128)], "ToeplitzOperator": [dict(nufft=pl.NUFFT(omega, (4, 6)))],
        "density_compensation": [dict(trajectory=omega, shape=(4, 6), iterations=3)], "ModuleOperator": [dict(module=net, input_shape=4)],
        "from_module": [dict(module=net, input_shape=(4,))],
        "Events": [dict(view=events.view, bin=events.bin, plane=events.plane)], "histogram": [dict(events=events, scanner=rings), dict(events=flat, scanner=ring, axial="ssrb")],
        "hounsfield_to_attenuation": [dict(ct=torch.tensor([-1000.0, 0.0, 300.0])), dict(ct=[0, 40], kvp=100)], "subsets": [dict(term=pl.KullbackLeibler(P) @ op, parts=2)],
        "variable_density_mask": [dict(shape=(8, 8), acceleration=2, calibration=2)], "line_mask": [dict(shape=(8, 8), acceleration=2, calibration=2, equispaced=True)],
        "poisson_disc_mask": [dict(shape=(8, 8), acceleration=3, calibration=2)],
        "radial_trajectory": [dict(spokes=3, readout=8), dict(spokes=3, readout=8, angle="uniform", dimension=3)],
        "spiral_trajectory": [dict(interleaves=2, readout=8, turns=2.0)],
        "espirit": [dict(kspace=kspace, calibration=6, kernel=3)], "low_resolution_maps": [dict(kspace=kspace, calibration=4)],
        "prewhiten": [dict(kspace=kspace, noise=randn(3, 20, dtype=torch.complex64))], "compress_coils": [dict(kspace=kspace, coils=2)],
        "mix_coils": [dict(x=kspace, matrix=randn(2, 3, dtype=torch.complex64))], "root_sum_of_squares": [dict(images=kspace)],
        # functionals
        **dict.fromkeys("ZeroFunctional L1Norm L2Norm L2NormSquared SupNorm NuclearNorm NegativeEntropy IndicatorNonnegative Identity ReLU HardTanh ReLU6 HardSigmoid Tanh Sigmoid "
                        "LogSigmoid Sparsemax SELUEnergy EuclideanKernel EntropyKernel BurgKernel".split(), smooth),
        "NuclearNorm": [dict(), dict(space=(3, 4))], "WeightedL1Norm": [dict(weights=P)], "GroupL1Norm": [dict(), dict(axis=(0, 1), space=(2, 3, 4))],
        "GroupHuber": [dict(delta=0.5)], "Huber": [dict(delta=0.5)], "QuadraticForm": [dict(matrix=M.T @ M, vector=V)],
        "IndicatorBox": [dict(lower=-0.5, upper=2.0), dict(lower=-P, upper=P)],
        "IndicatorSimplex": [dict(radius=2.0)], "IndicatorL1Ball": [dict(radius=1.5)], "IndicatorL2Ball": [dict(radius=1.5)], "IndicatorLinfBall": [dict(radius=0.7)],
        "IndicatorAffine": [dict(matrix=M[:2], rhs=P[:2])], "IndicatorReal": [dict(), dict(nonnegative=True)], "KullbackLeibler": [dict(data=P), dict(data=P, background=0.3)],
        "LogisticLoss": [dict(labels=P.sign())], "LeastSquares": [dict(op=M, data=P), dict(op=D, data=D(image), weight=2.0)],
        "DualProx": [dict(f=pl.TotalVariation(), g=pl.IndicatorNonnegative(), space=S, max_iterations=50)], "JointProx": [dict(f=pl.ReLU(), g=0.5 * pl.L1Norm())],
        "BregmanDistance": [dict(functional=pl.L2NormSquared(), point=V)], "MoreauEnvelope": [dict(f=pl.L1Norm(), t=0.5)],
        "PenaltyTerm": [dict(penalty=pl.LiftedBregman(pl.ReLU()), target=P, shift=0.2)], "PlugAndPlay": [dict(denoiser=lambda z: z, convex=True)],
        "TotalVariation": variation, "HuberTotalVariation": [dict(delta=0.5, **v) for v in variation], "TotalGeneralisedVariation": [dict(max_iterations=500)],
        "DirectionalTotalVariation": [dict(reference=image, eta=0.5)], "SeparableSum": [{"*": (pl.L1Norm(), pl.L2Norm())}],
        "LeakyReLU": [dict(slope=0.2)], "Clip": [dict(lower=-0.5, upper=1.0)], "SoftThreshold": [dict(threshold=0.4)], "Softplus": [dict(beta=1.5)],
        "Softmax": [dict(), dict(axis=0, space=(3, 2))],
        "ELU": [dict(alpha=0.7)], "CELU": [dict(alpha=2.5)], "activation": [dict(potential=pl.ReLU(), z=V)], "activation_": [dict(potential=pl.Tanh(), z=V.clone())],
        "LiftedBregman": [dict(potential=pl.ReLU())], "MAC": [dict(potential=pl.Tanh()), dict(activation=torch.nn.GELU())], "Lifted": [dict(potential=pl.ReLU())],
        "Fenchel": [dict(potential=pl.ReLU()), dict(potential=pl.SELUEnergy(), activation=torch.nn.SELU(), slope=pl.SELUEnergy.slope)],
        # problems
        "Composite": [dict(smooth=pl.LeastSquares(M, P), nonsmooth=0.1 * pl.L1Norm()), dict(nonsmooth=pl.L1Norm(), linear=pl.L1Norm() @ A, start=V)],
        "Reconstruction": [dict(operator=op, data=P, regulariser=0.1 * pl.L1Norm()), dict(operator=pl.MatrixOperator(M.abs()), data=counts, fidelity="poisson"),
                           dict(operator=op, data=P, constraint="nonnegative", standard_deviation=0.5)],
        "LiftedTraining": [dict(network=net, inputs=x, targets=y),
                           dict(network=net, inputs=x, targets=r, loss="squared_error", penalty="mac", weight_regulariser=0.1 * pl.L1Norm())],
        "ContrastiveTraining": [dict(network=net, inputs=x, targets=y, inner_sweeps=1)],
        "linear_model": [dict(inputs=x, targets=r), dict(inputs=x, targets=y, loss="cross_entropy")],
        "LiftedInversion": [dict(network=net, output=r, regulariser=0.1 * pl.L1Norm())], "lift": [dict(module=net, example_inputs=x[:2])],
        "LearnedRegulariser": [dict(images=randn(2, 6, 6), filters=3, size=2)],
        "SamplingDesign": [dict(transform=pl.FourierTransform(S), regulariser=pl.TotalVariation(), images=image, budget=8)],
        "SourceCondition": [dict(operator=pl.FourierTransform(S, mask), functional=pl.TotalVariation(), image=image),
                            dict(operator=pl.IdentityOperator(R), functional=pl.L1Norm(), image=P)],
        "line_groups": [dict(shape=(4, 6))], "spoke_groups": [dict(shape=(4, 6), spokes=3)],
        **dict.fromkeys(("nearest_subgradient", "certain_subgradient"), [dict(f=pl.L1Norm(), z=V, q=2 * V)]),
        "SampleGroups": [dict(transform=pl.FourierTransform(S)), dict(transform=pl.FourierTransform(C), groups=pl.line_groups((4, 6)))],
        "refine_mask": [dict(mask=pl.SampleGroups(pl.FourierTransform(C)).draw(torch.ones(24), 12), transform=pl.FourierTransform(C), images=randn(3, 4, 6, dtype=torch.complex128),
                             reconstruct=lambda mask, images: 0.5 * images, rounds=2, batch_size=2)],
        "inversion_error_bound": [dict(potential=pl.ReLU(), output=P, source=V.new_ones(5), weight=0.1, noise=0.2)], "inversion_weight": [dict(source=V, noise=0.2)],
        "partition": [dict(costs=[1.0, 2.0, 3.0], parts=2)], "stage_costs": [dict(problem=pl.LiftedTraining(net, x, y), batch_size=4, repeats=1)],
        "CrossEntropy": [dict(), dict(label_smoothing=0.1)], "SquaredError": [dict()], "Logistic": [dict()], "KullbackLeiblerLoss": [dict()],
        "FunctionalLoss": [dict(functional=pl.Huber())], "PenaltyLoss": [dict(penalty=pl.LiftedBregman(pl.ReLU()))],
        # solvers
        **dict.fromkeys("PGD FISTA BregmanPGD LBFGS ConjugateGradient LinearizedBregman DouglasRachford ADMM PDHG SPDHG BCD PIAG MLEM ImplicitGradient".split(), [few]),
        "OSEM": [dict(max_iterations=2, subsets=2)], **dict.fromkeys("ISGM SGD SAGA SVRG".split(), [dict(epochs=1, batch_size=4)]),
        "Katyusha": [dict(epochs=1, batch_size=4, strong_convexity=0.1)],
        "Tolerance": [dict(residual=1e-3), dict(passes=2, change=1e-3)], "EarlyStopping": [dict(column="objective", patience=2)], "Storage": [dict(), dict(dtype=torch.bfloat16)],
        "StepRule": [dict()], "Constant": [dict(value=0.01)], "Lipschitz": [dict(factor=0.9)], "Backtracking": [dict(shrink=0.5, grow=1.2)], "BarzilaiBorwein": [dict(memory=5)],
        "discrepancy_weight": [dict(problem=sharp, noise_level=0.5, solver=pl.FISTA(5), max_solves=3, tolerance=10.0)],
        "quasi_optimality_weight": [dict(problem=sharp, weights=[0.1, 0.2, 0.4], solver=pl.FISTA(5))],
        # networks
        "MLP": [{"*": (4, 5, 3)}], "CNN": [dict(channels=1, side=8, classes=3, widths=(2, 3))], "ResNet": [dict(channels=1, classes=3, blocks=(1, 1), width=2)],
        "UNet": [dict(width=2, depth=1, residual=True)], "VisionTransformer": [dict(channels=1, side=4, classes=3, patch=2, width=8, blocks=1, heads=2)],
        "CausalTransformer": [dict(vocabulary=7, width=8, blocks=1, heads=2, context=5)], "ProximalNetwork": [dict(filters=3, steps=2)],
        "UnrolledNetwork": [dict(operator=pl.IdentityOperator(S), steps=2, filters=2, kernel=3)],
        "Staged": [dict(stages=[(torch.nn.Linear(4, 3), pl.ReLU(), 0), torch.nn.Linear(3, 2)])],
        "affine": [dict(inputs=4, outputs=3)], "chain": [{"*": (torch.nn.Linear(4, 3), pl.ReLU())}], "rescale": [dict(network=pl.networks.MLP(4, 5, 3), inputs=x)],
        # data, metrics, files, figures
        "phantom": [dict(shape=(8, 8), coils=2, noise=0.1)], "emission_phantom": [dict(shape=(8, 8))], "digits": [dict()], "characters": [dict(text="abba")],
        "psnr": [dict(x=image, reference=image + 0.1)], "nrmse": [dict(x=Z, reference=Z + 0.1)], "ssim": [dict(x=randn(12, 12), reference=randn(12, 12, seed=1))],
        "write_cfl": [dict(path=str(FOLDER / "a"), x=kspace)], "read_cfl": [dict(path=str(FOLDER / "a"))],
        "write_nifti": [dict(path=str(FOLDER / "a.nii"), x=image, voxel_size=2.0)], "read_nifti": [dict(path=str(FOLDER / "a.nii"))],
        "write_ismrmrd": [dict(path=str(FOLDER / "a.h5"), kspace=kspace, field_of_view=(200.0, 200.0))], "read_ismrmrd": [dict(path=str(FOLDER / "a.h5"))],
        "read_fastmri": [dict(path=str(FOLDER / "a.h5"))], "read_listmode": [dict(path=str(FOLDER / "a.cfl"))], "read_interfile": [dict(path=str(FOLDER / "a.hdr"))],
        "plot_history": [dict(result=pl.PGD(3).solve(lasso))], "plot_images": [dict(rows={"a": randn(2, 4, 4)})],
        "plot_predictions": [dict(images=randn(3, 4, 4), predicted=torch.arange(3), labels=torch.arange(3))], "plot_reconstruction": [dict(result=pl.FISTA(2).solve(scan))],
        # workers
        "Workers": [dict(total=2), dict(data=2, layers=2)], "Simulated": [dict(total=2, speeds=(1.0, 2.0))], "Link": [dict(latency=1e-4)], "Flushed": [dict(microbatches=2)],
        "Streamed": [dict()], "Machine": [dict(), dict(cores=2.0, visit=1e-4)],
        "StageCosts": [dict(forward=((0.0, 1e-3),), backward=((0.0, 2e-3),), parameter_bytes=(8,), output_bytes=(8,))], "layouts": [dict(**costs, workers=2, rows=8)],
        "layout_table": [dict(found=pl.distributed.layouts(**costs, workers=2, rows=8))], "measured_costs": [dict(problem=pl.LiftedTraining(net, x, y), rows=4, repeats=1)],
        "simulate": [dict(problem=costs["costs"], workers=(1, 2), batch_size=8)],
    }

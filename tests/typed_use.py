"""What a type checker makes of user code: `make lint` runs mypy on this file. The ignored lines are mistakes that it has to see (an ignore that is not needed is an error)."""

import torch

import paralift as pl

(images, labels), test = pl.data.digits()
network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
problem = pl.LiftedTraining(network, images, labels, loss="cross_entropy", weight_regulariser=1e-5 * pl.L1Norm(), validation=test)
result = pl.ISGM(epochs=10, batch_size=128, seed=0).solve(problem, workers=2, callback=pl.EarlyStopping())
trained: torch.nn.Module = result.network
result.plot("convergence.png").suptitle("digits")

image, maps, kspace = pl.data.phantom((64, 64), coils=4, noise=0.01)
A = 0.5 * pl.MRI(mask=pl.variable_density_mask((64, 64), acceleration=4), coil_maps=maps)
scan = pl.Reconstruction(A, data=kspace, regulariser=2e-3 * pl.TotalVariation() + 1e-3 * pl.L1Norm() @ pl.Wavelet((64, 64)))
pl.PDHG(max_iterations=40, tolerance=pl.Tolerance(residual=1e-8) | pl.Tolerance(gap=1e-6)).solve(scan)
gridded: torch.Tensor = A.adjoint(kspace)
normal: pl.LinearOperator = A.adjoint @ A + 2.0 * pl.IdentityOperator(A.domain)
norm: float = normal.norm()
shrunk: torch.Tensor = (2.0 * pl.L1Norm()).prox(image, sigma=0.1)

pl.FISTA(max_iterations="many")  # type: ignore[arg-type]
pl.MRI(mask=3)  # type: ignore[arg-type]
pl.ISGM(epoch=3)  # type: ignore[call-arg]
pl.PGD().solve(network)  # type: ignore[arg-type]
pl.L1Norm() @ 2.0  # type: ignore[operator]
wrong: int = pl.L1Norm()(image)  # type: ignore[assignment]

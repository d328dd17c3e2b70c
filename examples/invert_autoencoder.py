"""Invert the encoder of an autoencoder: `python examples/invert_autoencoder.py [--iterations 300] [--weight 1.5e-4] [--noise 0.01] [--quick] [--output DIR]`.

As in Wang & Benning (Front. Appl. Math. Stat. 9:1176850, 2023): a convolutional autoencoder of six layers with 300 codes is trained, here by the lifted method
(`LiftedTraining`, ISGM). Then its decoder is left aside: the image in [0, 1] is found from the code alone, by the lifted energy of the encoder's three layers in the image x_0
and the layers' outputs, with alpha TV(x_0), "a decoder without training" (`ImplicitGradient`). No activation is differentiated. Both are shown beside the test images. The
paper's alpha is 9e-3 for another energy (TV itself, the Bregman term of the last layer, no box). `benchmarks/deep_inversion.py` compares with Adam on the image.
MNIST is read from PARALIFT_DATA or the cache, or fetched; `--quick` takes scikit-learn's digits.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import paralift as pl

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--samples", type=int, default=10000, help="train on the first so many images")
parser.add_argument("--iterations", type=int, default=300, help="of the inversion of all images together")
parser.add_argument("--weight", type=float, default=1.5e-4, help="alpha, the weight of total variation")
parser.add_argument("--noise", type=float, default=0.01, help="on the codes, relative to their standard deviation")
parser.add_argument("--quick", action="store_true", help="the digits, 8 x 8")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)

torch.manual_seed(0)
if arguments.quick:
    arguments.epochs, arguments.iterations, side, codes = 20, 100, 8, 60
    (train, _), (test, _) = pl.data.digits()
    train, test = train.view(-1, 1, 8, 8), test.view(-1, 1, 8, 8)
else:
    side, codes = 28, 300
    (train, _), (test, _) = pl.data.mnist(flatten=False)
    train, test = train[:arguments.samples].unsqueeze(1), test.unsqueeze(1)
test, quarter = test[:12], side // 4
network = nn.Sequential(
    nn.Conv2d(1, 8, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * quarter**2, codes), nn.ReLU(),
    nn.Linear(codes, 16 * quarter**2), nn.ReLU(), nn.Unflatten(1, (16, quarter, quarter)), nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), nn.ReLU(),
    nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1))
training = pl.LiftedTraining(network, train, train, loss="squared_error", rho=10.0)
trained = pl.ISGM(arguments.epochs, batch_size=64, step=2e-3, schedule="linear", seed=0).solve(training)
print(trained)
encoder, decoder = trained.network[:7], trained.network[7:]

with torch.no_grad():
    clean = encoder(test)
    code = (clean + arguments.noise * clean.std() * torch.randn_like(clean)).clamp(min=0)        # the range of the last activation
    decoded = decoder(code)
problem = pl.LiftedInversion(encoder, code, pl.HuberTotalVariation(0.02), weight=arguments.weight, rho={1: 12.0, 2: 3.0}, fidelity="squared_error",
                             constraint=pl.IndicatorBox(0, 1), shape=(1, side, side))
print(problem)
result = pl.ImplicitGradient(arguments.iterations).solve(problem, record_every=10)
print(result)

psnr = lambda images: float((-10 * (images - test).square().flatten(1).mean(1).log10()).mean())
rows = {"image": test, f"decoder, trained\n{psnr(decoded):.1f} dB": decoded, f"lifted inversion,\nno training\n{psnr(result.solution):.1f} dB": result.solution}
print(f"mean PSNR: decoder {psnr(decoded):.2f} dB, inversion {psnr(result.solution):.2f} dB")
pl.plotting.plot_images({label: images[:, 0] for label, images in rows.items()}, output / "invert_autoencoder.png",
                        title=f"from {codes} codes back to {side} x {side} pixels, {100 * arguments.noise:g} % noise on the codes (mean PSNR)")
print(f"figure: {output}/invert_autoencoder.png")

"""ResNet-20 on Fashion-MNIST by ISGM: `python examples/train_resnet.py [--samples 10000] [--passes 6] [--no-augment] [--average 0.98] [--quick] [--output DIR]`.

One sweep a minibatch of 128, a step that falls linearly from 1e-3, weight decay, and the average of the iterates as the result. Each time that an image is read it is shifted by
up to two pixels and, every other time, flipped: a torch Dataset that is random is read anew for each minibatch.
Fashion-MNIST is read from PARALIFT_DATA or the cache, or fetched; `--quick` takes scikit-learn's digits, a narrow ResNet-8 and no flips.
"""

import argparse
from pathlib import Path

import torch

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--samples", type=int, default=10000, help="train on the first so many images")
parser.add_argument("--passes", type=int, default=6)
parser.add_argument("--augment", action=argparse.BooleanOptionalAction, default=True, help="random shifts and flips")
parser.add_argument("--average", type=float, default=0.98, help="weight of the average of the iterates; 0: the last iterate")
parser.add_argument("--quick", action="store_true", help="a narrow ResNet-8 on the digits")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)

if arguments.quick:
    (images, labels), (test_images, test_labels) = pl.data.digits()
    images, test_images, names = images.view(-1, 8, 8), test_images.view(-1, 8, 8), [str(k) for k in range(10)]
    blocks, width, shift, passes, batch, average = (1, 1, 1), 8, 1, 4, 64, min(arguments.average, 0.9)
else:
    (images, labels), (test_images, test_labels) = pl.data.fashion_mnist(flatten=False)
    names = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
    blocks, width, shift, passes, batch, average = (3, 3, 3), 16, 2, arguments.passes, 128, arguments.average
images, labels = images[:arguments.samples].unsqueeze(1), labels[:arguments.samples]
mean, deviation = images.mean(), images.std()
inputs, test_inputs = (images - mean) / deviation, (test_images.unsqueeze(1) - mean) / deviation


class Augmented(torch.utils.data.Dataset):
    """Images shifted by up to `shift` pixels each way, the border filled with black, and flipped left to right with probability 1/2."""

    def __init__(self, x, y):
        self.padded, self.y = torch.nn.functional.pad(x, [shift] * 4, value=float(x.min())), y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        (down, right), (height, width) = torch.randint(2 * shift + 1, (2,)).tolist(), inputs.shape[-2:]
        image = self.padded[i, :, down:down + height, right:right + width]
        return (image.flip(-1) if not arguments.quick and torch.rand(()) < 0.5 else image), self.y[i]


torch.manual_seed(0)
network = pl.networks.ResNet(1, 10, blocks, width)
data = (Augmented(inputs, labels),) if arguments.augment else (inputs, labels)
problem = pl.LiftedTraining(network, *data, validation=(test_inputs[:2000], test_labels[:2000]))
print(problem)
result = pl.ISGM(passes, batch_size=batch, schedule="linear", weight_decay=0.01, average=average, seed=0).solve(problem)
print(result)

with torch.no_grad():
    predicted = torch.cat([result.network(part).argmax(1) for part in test_inputs.split(500)])
wrong = predicted != test_labels
print(f"\n{'pass':>6}{'training loss':>16}{'validation loss':>17}{'validation accuracy (%)':>26}{'seconds':>10}")
h = result.history
for k in range(len(h["objective"])):
    print(f"{k + 1:>6}{h['objective'][k]:>16.4f}{h['validation_loss'][k]:>17.4f}{100 * h['accuracy'][k]:>26.2f}{h['seconds'][k]:>10.1f}")
print(f"\ntest accuracy on all {len(predicted)} test images: {100 * (1 - wrong.double().mean()):.2f} %; errors by class: "
      + ", ".join(f"{name} {int(wrong[test_labels == k].sum())}" for k, name in enumerate(names)))

result.plot(output / "resnet_convergence.png")
shown = wrong.nonzero().flatten()[:30]
title = f"The first {len(shown)} of {int(wrong.sum())} misclassified test images of {len(wrong)}"
classes = "" if arguments.quick else "\n" + ", ".join(f"{k} {name}" for k, name in enumerate(names))
pl.plotting.plot_predictions(test_images[shown], predicted[shown], test_labels[shown], output / "resnet_misclassified.png", columns=10, rows=3, title=title + classes)
print(f"figures: {output / 'resnet_convergence.png'}, {output / 'resnet_misclassified.png'}")

"""Networks of Hugging Face's transformers, lifted and trained for a few steps: `python examples/lift_huggingface.py [--passes 5] [--quick] [--output DIR]`.

A small GPT-2, a ViT and a ResNet are made from their configurations, with random weights, so nothing is downloaded. `pl.lift` shows their stages; then ISGM, one sweep
a minibatch, trains GPT-2 on the characters of Python's own help texts (`pydoc_data.topics`), the others on scikit-learn's digits. ViT's GELU is no proximal map, so
its stages get the MAC penalty, and a warning says so. Two things to know for other models:
a module must return one tensor, so it is wrapped, and `attn_implementation="eager"` writes the softmax of the attention out, so that it is lifted too.
It needs `pip install transformers`; without it the script says so and ends.
"""

import argparse
import pydoc_data.topics
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--passes", type=int, default=5)
parser.add_argument("--quick", action="store_true", help="one block each, two passes")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
try:
    from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification
except ImportError:
    print("skipped: this example needs the package transformers; install it with: pip install transformers")
    sys.exit(0)
output = Path(arguments.output)
output.mkdir(parents=True, exist_ok=True)
blocks, passes, context = (1, 2, 16) if arguments.quick else (2, arguments.passes, 32)


class Logits(torch.nn.Module):
    """The model's logits, as one tensor."""

    def __init__(self, model, **options):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, x):
        return self.model(x, **self.options).logits


def gpt2(vocabulary):
    config = GPT2Config(vocab_size=vocabulary, n_positions=context, n_embd=32, n_layer=blocks, n_head=2, activation_function="relu", resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, attn_implementation="eager")
    return Logits(GPT2LMHeadModel(config), use_cache=False)


def vit():
    return Logits(ViTForImageClassification(ViTConfig(image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=blocks, num_attention_heads=2,
                                                      intermediate_size=64, hidden_act="gelu", num_labels=10, attn_implementation="eager")))


def resnet():
    return Logits(ResNetForImageClassification(ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[blocks, blocks], layer_type="basic",
                                                            hidden_act="relu", num_labels=10)))


(images, labels), (test_images, test_labels) = pl.data.digits()
images, test = images.view(-1, 1, 8, 8), (test_images.view(-1, 1, 8, 8), test_labels)
tokens, alphabet = pl.data.characters("".join(pydoc_data.topics.topics.values()))
windows = tokens[:len(tokens) // (context + 1) * (context + 1)].view(-1, context + 1)
windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
words, held = windows[:1500], windows[1500:1800]
MODELS = {"GPT-2": (lambda: gpt2(len(alphabet)), words[:, :-1], words[:, 1:], (held[:, :-1], held[:, 1:])),
          "ViT": (vit, images, labels, test), "ResNet": (resnet, images, labels, test)}

histories = {}
for name, (make, x, y, validation) in MODELS.items():
    torch.manual_seed(0)
    network = make()
    print(f"\n{name}, {sum(p.numel() for p in network.parameters())} parameters\n{pl.lift(network, x[:4])}")
    problem = pl.LiftedTraining(network, x, y, validation=validation)
    result = pl.ISGM(passes, batch_size=32, step=3e-3, schedule="linear", seed=0).solve(problem, progress=False)
    positions = y[0].numel()
    h = result.history
    training, held_out = ([v / positions for v in h[column]] for column in ("objective", "validation_loss"))
    histories[name] = training, held_out, 100 * h["accuracy"][-1]
    print(f"{name}: validation loss {held_out[0]:.3f} after the first pass, {held_out[-1]:.3f} after {passes} of {len(x) // 32} steps each, "
          f"accuracy {100 * h['accuracy'][-1]:.1f} %, {h['seconds'][-1]:.1f} s", flush=True)

fig = Figure(figsize=(11, 3.7), layout="constrained")
for ax, (name, (training, held_out, accuracy)) in zip(fig.subplots(1, 3), histories.items()):
    ax.plot(range(1, len(training) + 1), training, "k--", label="training, mean over the pass")
    ax.plot(range(1, len(training) + 1), held_out, "k-", label="validation, after the pass")
    ax.set(title=f"{name}: accuracy {accuracy:.1f} %", xlabel="passes over the data", ylabel="loss (nats a character)" if name == "GPT-2" else "loss (nats)")
    ax.set_xticks(range(1, len(training) + 1))
    ax.grid(alpha=0.3)
fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
fig.savefig(output / "huggingface.png", dpi=120)
print(f"\nfigure: {output / 'huggingface.png'}")

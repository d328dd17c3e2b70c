"""A character language model by ISGM: `python examples/train_transformer.py [--depth 4] [--width 96] [--context 64] [--steps 1000] [--quick] [--output DIR]`.

A causal transformer learns tinyshakespeare, next character by next character, in steps of one sweep on 32 windows drawn at random; every 50 steps it is validated on the
last tenth of the text. It prints the loss beside that of counted single characters and pairs, and a text drawn from the model.
A deep one: `--depth 24 --width 32 --context 32 --steps 400`.
The text is read from PARALIFT_DATA or the cache, or fetched; where that fails, and with `--quick`, the texts of Python's own help (`pydoc_data.topics`) take its place.
"""

import argparse
import pydoc_data.topics
from pathlib import Path

import torch
from matplotlib.figure import Figure

import paralift as pl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--depth", type=int, default=4, help="blocks")
parser.add_argument("--width", type=int, default=96)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--context", type=int, default=64, help="characters that the model sees")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--step", type=float, default=2e-3, help="the largest step: reached after a tenth of the steps, then falling to 0")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--quick", action="store_true", help="one narrow block, 150 steps, Python's help texts")
parser.add_argument("--output", default="output")
arguments = parser.parse_args()
if arguments.quick:
    arguments.depth, arguments.width, arguments.context, arguments.steps = 1, 32, 16, 150
output, context, batch, every = Path(arguments.output), arguments.context, 32, 50
output.mkdir(parents=True, exist_ok=True)

text, source = None, "tinyshakespeare"
if not arguments.quick:
    try:
        text = pl.data.tinyshakespeare()
    except FileNotFoundError as error:
        print(error)
if text is None:
    text, source = "".join(pydoc_data.topics.topics.values()), "Python's help texts"
tokens, alphabet = pl.data.characters(text)
cut = len(tokens) * 9 // 10
train, held = tokens[:cut], tokens[cut:]
torch.manual_seed(arguments.seed)


def windows(sequence, starts):
    """Inputs (n, context) and the characters after each of theirs."""
    found = sequence[starts.unsqueeze(1) + torch.arange(context + 1)]
    return found[:, :-1], found[:, 1:]


def draw():
    return windows(train, torch.randint(len(train) - context, (every * batch,)))


def counted(order):
    """Nats a character on the held-out text, of the frequencies in the training text (plus one) after the order - 1 characters before."""
    n = len(alphabet)
    codes = lambda s: s if order == 1 else s[:-1] * n + s[1:]
    counts = (torch.bincount(codes(train), minlength=n**order) + 1.0).view(-1, n)
    return float(-(counts / counts.sum(1, keepdim=True)).log().flatten()[codes(held)].mean())


def redraw(result):
    problem.inputs, problem.targets = draw()


def sample(network, length, temperature=0.8):
    """A text drawn character by character, from a line break on."""
    line = torch.tensor([[alphabet.index("\n")]])
    with torch.no_grad():
        for _ in range(length):
            logits = network(line[:, -context:])[0, -1]
            line = torch.cat([line, torch.multinomial(torch.softmax(logits / temperature, 0), 1).view(1, 1)], 1)
    return "".join(alphabet[k] for k in line[0].tolist())


network = pl.networks.CausalTransformer(len(alphabet), arguments.width, arguments.depth, arguments.heads, context)
validation = windows(held, torch.linspace(0, len(held) - context - 1, 200).long())
problem = pl.LiftedTraining(network, *draw(), validation=validation)
print(f"{source}: {len(train)} characters to train on, an alphabet of {len(alphabet)}; {sum(p.numel() for p in network.parameters())} parameters in {len(problem.stages)} stages")
solver = pl.ISGM(max(1, arguments.steps // every), batch, step=arguments.step, schedule=lambda done: min(10 * done + 0.02, 1.02 - done), weight_decay=0.01, seed=arguments.seed)
result = solver.solve(problem, callback=redraw)
print(result)

h = result.history
losses = {"training": [v / context for v in h["objective"]], "validation": [v / context for v in h["validation_loss"]]}      # per character; the problem's loss is per window
references = {"single characters, counted": counted(1), "pairs, counted": counted(2)}
print(f"\n{'steps':>7}{'training loss':>16}{'validation loss':>17}{'seconds':>10}   (nats a character)")
for k in range(len(h["objective"])):
    print(f"{every * (k + 1):>7}{losses['training'][k]:>16.3f}{losses['validation'][k]:>17.3f}{h['seconds'][k]:>10.1f}")
print(f"\nblocks: {arguments.depth}, width {arguments.width}, context {context}: validation loss {losses['validation'][-1]:.3f} nats a character after "
      f"{every * len(h['objective'])} steps; " + ", ".join(f"{name} {value:.3f}" for name, value in references.items()))
print(f"\nA text drawn from it, temperature 0.8:\n{sample(result.network, 100 if arguments.quick else 400)}")

fig = Figure(figsize=(6.4, 3.8), layout="constrained")
ax = fig.subplots()
steps = [every * (k + 1) for k in range(len(h["objective"]))]
for (name, values), style in zip(losses.items(), ("k--", "k-")):
    ax.plot(steps, values, style, label=f"{name}: {values[-1]:.2f}")
for (name, value), style in zip(references.items(), ("-.", ":")):
    ax.axhline(value, color="0.5", linestyle=style, label=f"{name}: {value:.2f}")
ax.set(xlabel="steps", ylabel="loss (nats a character)", title=f"{source}; blocks: {arguments.depth}, width {arguments.width}, context {context}")
ax.grid(alpha=0.3)
ax.legend()
path = output / f"transformer_{arguments.depth}_blocks.png"
fig.savefig(path, dpi=120)
print(f"figure: {path}")

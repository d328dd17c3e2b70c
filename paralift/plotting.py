"""Figures, legible in grey. matplotlib loads on first use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from .solvers.result import Result
import numpy as np

from .arguments import Count, FilePath, Kind, checked, is_array
from .files import replacing

__all__ = ["plot_history", "plot_images", "plot_predictions", "plot_reconstruction"]


def _several(v):
    return isinstance(v, (list, tuple)) or is_array(v) and np.ndim(v) > 0


Items = Annotated[Any, Kind("a tensor, an array or a list", _several)]
Pictures = Annotated[dict[str, Any], Kind("a dict of tensors (n, h, w), arrays or lists of images",
                                          lambda v: isinstance(v, dict) and len(v) > 0 and all(map(_several, v.values())))]


@checked
def plot_history(result: Result, path: FilePath | None = None) -> Figure:
    """The history's columns over data passes, a panel a column, each with its last value; returns the figure."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator

    columns = [k for k in result.history if k not in ("iteration", "data_passes", "seconds")]
    rows = -(-len(columns) // 4) or 1
    across = max(1, -(-len(columns) // rows))
    fig = Figure(figsize=(3.6 * across, 3.1 * rows), layout="constrained")
    passes = result.history.get("data_passes", [])
    axes = fig.subplots(rows, across, squeeze=False).ravel()
    for ax, name in zip(axes, columns):
        values = result.history[name]
        ax.plot(passes, values, marker="o" if len(values) < 40 else None, color="black", markersize=3)
        if min(values, default=0) > 0 and max(values) > 10 * min(values):
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 1e3 * min(values) else (1,)))
            ax.yaxis.set_major_formatter("{x:g}"), ax.yaxis.set_minor_formatter("")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("passes over the data")
        ax.set_title(name.replace("_", " ") + (f": {values[-1]:.4g}" if values else ""))
        ax.grid(alpha=0.3)
    for ax in axes[len(columns):]:
        ax.axis("off")
    return _saved(fig, path)


@checked
def plot_images(rows: Pictures, path: FilePath | None = None, titles: Sequence[str] = (), limits: tuple[float, float] = (0, 1), title: str | None = None) -> Figure:
    """Images in rows, {label of the row: (n, h, w)}, dark ink on white, the same grey scale `limits` for all. Returns the figure."""
    from matplotlib.figure import Figure

    across = max(len(images) for images in rows.values())
    fig = Figure(figsize=(0.95 * across + 1.2, 1.0 * len(rows) + 0.4 * bool(title)), layout="constrained")
    axes = fig.subplots(len(rows), across, squeeze=False)
    for line, (label, images) in zip(axes, rows.items()):
        for i, ax in enumerate(line):
            ax.set_xticks([]), ax.set_yticks([])
            if i < len(images):
                ax.imshow(_drawable(images[i]), cmap="gray_r", vmin=limits[0], vmax=limits[1])
            else:
                ax.axis("off")
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    for ax, text in zip(axes[0], titles):
        ax.set_title(text, fontsize=8)
    fig.suptitle(title, fontsize=10) if title else None
    return _saved(fig, path)


@checked
def plot_predictions(images: Items, predicted: Items, labels: Items, path: FilePath | None = None, columns: Count = 10, rows: Count = 3,
                     title: str | None = None) -> Figure:
    """Images (n, h, w) with the predicted class above each; wrong ones have a thick frame and the true class. Returns the figure."""
    from matplotlib.figure import Figure

    if np.ndim(images) != 3 or not np.shape(images)[:1] == np.shape(predicted) == np.shape(labels):
        shapes = ", ".join(str(np.shape(v)) for v in (images, predicted, labels))
        raise ValueError(f"plot_predictions got images, classes and labels of shapes {shapes}; it needs (n, h, w), (n,) and (n,).")
    if any(v != v for classes in (predicted, labels) for v in classes):
        raise ValueError("plot_predictions got classes or labels that are NaN; it needs integers.")
    n = min(len(images), rows * columns)
    wrong = [int(p) != int(y) for p, y in zip(predicted[:n], labels[:n])]
    fig = Figure(figsize=(columns * 0.95, rows * 1.2 + 0.4), layout="constrained")
    for i, ax in enumerate(fig.subplots(rows, columns, squeeze=False).ravel()):
        ax.set_xticks([]), ax.set_yticks([])
        if i >= n:
            ax.axis("off")
            continue
        ax.imshow(_drawable(images[i]), cmap="gray_r")
        ax.set_title(f"{int(predicted[i])}" + (f" (is {int(labels[i])})" if wrong[i] else ""), fontsize=9, fontweight="bold" if wrong[i] else "normal")
        for spine in ax.spines.values():
            spine.set(linewidth=2.5 if wrong[i] else 0.5, color="black" if wrong[i] else "0.7")
    fig.suptitle(title or f"predicted class; framed: wrong ({sum(wrong)} of these {n})", fontsize=10)
    return _saved(fig, path)


@checked
def plot_reconstruction(result: Result, reference: torch.Tensor | None = None, path: FilePath | None = None, level: float | None = None) -> Figure:
    """`Result.show`: image, reference and error on their grey scales, PSNR and SSIM over the whole image, the profile along the middle row, the objective. Returns the figure."""
    from matplotlib.figure import Figure

    from .metrics import psnr, ssim

    image = result.solution.detach().cpu()
    if image.dim() < 2:
        raise ValueError(f"show got an image of shape {tuple(image.shape)}; it draws images of at least two axes: use result.plot().")
    if reference is not None and reference.shape != image.shape:
        raise ValueError(f"show got a reference of shape {tuple(reference.shape)} for an image of shape {tuple(image.shape)}; both must agree.")
    named = "magnitude" if image.is_complex() or reference is not None and reference.is_complex() else ""
    size = (lambda v: v.abs()) if named else (lambda v: v)
    image, truth = size(image), None if reference is None else size(reference.detach().cpu())
    quality = "" if truth is None else f"PSNR {float(psnr(image, truth, ndim=image.dim())):.2f} dB"
    if truth is not None and min(image.shape[-2:]) >= 11:                                # the window of SSIM
        quality += f", SSIM {float(ssim(image, truth).mean()):.4f}"
    views = _slices(image, truth)
    level = float((image if truth is None else truth).max()) if level is None else level
    low = min(0.0, float((image if truth is None else truth).min()))
    fig = Figure(figsize=(3.4 * (1 if truth is None else 3) * (1 if len(views) == 1 else 1.1) + 0.4, 3.0 * len(views) + 2.6), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[3.0 * len(views), 2.4])  # type: ignore[misc]
    panels = top.subplots(len(views), 1 if truth is None else 3, squeeze=False)
    for row, (label, x, y) in zip(panels, views):
        shown = [("reconstruction", x)] if y is None else [("reconstruction", x), ("reference", y), ("error", (x - y).abs())]
        for ax, (title, picture) in zip(row, shown):
            limits = (0.0, max(0.2 * level, 1e-30)) if title == "error" else (low, level)
            drawn = ax.imshow(picture.numpy(), cmap="gray", vmin=limits[0], vmax=limits[1])
            ax.set_title(", ".join(filter(None, (title, named if title != "error" else "white: 20 % of the peak", label))), fontsize=9)
            ax.set_xticks([]), ax.set_yticks([])
        top.colorbar(drawn, ax=ax, fraction=0.04) if y is None else None
    left, right = bottom.subplots(1, 2)
    _, x, y = views[0]
    middle = x.shape[0] // 2
    if y is not None:
        left.plot(y[middle].numpy(), color="0.6", linewidth=2.5, label="reference")
    left.plot(x[middle].numpy(), color="black", linewidth=1, label="reconstruction")
    left.set_title(f"profile along row {middle}", fontsize=9), left.legend(fontsize=8), left.grid(alpha=0.3)
    objective = result.history.get("objective", [])
    right.plot(result.history.get("data_passes", []), objective, color="black")
    if objective and min(objective) > 0 and max(objective) > 10 * min(objective):
        right.set_yscale("log")
    right.set_xlabel("passes over the data"), right.set_title("objective", fontsize=9), right.grid(alpha=0.3)
    solver = result.provenance.get("solver", "").partition("(")[0]
    fig.suptitle(", ".join(filter(None, (f"{solver}, {result.iterations} iterations, {result.seconds:.2f} s", quality))), fontsize=10)
    return _saved(fig, path)


def _slices(image, truth):
    """[(label, image, reference)] of two axes: the first of a batch, the three middle slices of a volume (a first axis at least a quarter as long as the others)."""
    take = lambda pick: (pick(image), None if truth is None else pick(truth))
    while image.dim() > 3 or image.dim() == 3 and 4 * image.shape[0] < min(image.shape[1:]):
        image, truth = take(lambda v: v[0])
    if image.dim() == 2:
        return [("", image, truth)]
    return [(f"middle slice of axis {axis}", *take(lambda v, axis=axis: v.select(axis, v.shape[axis] // 2))) for axis in range(3)]


def _drawable(v):
    """An image as matplotlib takes it: off the GPU, without a graph."""
    return v.detach().cpu().numpy() if hasattr(v, "detach") else v


def _saved(fig, path):
    if path is not None:
        known = fig.canvas.get_supported_filetypes()
        if Path(path).suffix[1:].lower() not in known:
            raise ValueError(f"the figure was to be saved as {str(path)!r}; its ending needs to be one of {', '.join(sorted(known))}.")
        with replacing(path) as temporary:
            fig.savefig(temporary, dpi=120)
    return fig

"""Figures, legible in grey. matplotlib loads on first use."""

__all__ = ["plot_history", "plot_images", "plot_predictions"]


def plot_history(result, path=None):
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


def plot_images(rows, path=None, titles=(), limits=(0, 1), title=None):
    """Images in rows, {label of the row: (n, h, w)}, dark ink on white, the same grey scale `limits` for all. Returns the figure."""
    from matplotlib.figure import Figure

    across = max(len(images) for images in rows.values())
    fig = Figure(figsize=(0.95 * across + 1.2, 1.0 * len(rows) + 0.4 * bool(title)), layout="constrained")
    axes = fig.subplots(len(rows), across, squeeze=False)
    for line, (label, images) in zip(axes, rows.items()):
        for i, ax in enumerate(line):
            ax.set_xticks([]), ax.set_yticks([])
            if i < len(images):
                ax.imshow(images[i], cmap="gray_r", vmin=limits[0], vmax=limits[1])
            else:
                ax.axis("off")
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    for ax, text in zip(axes[0], titles):
        ax.set_title(text, fontsize=8)
    fig.suptitle(title, fontsize=10) if title else None
    return _saved(fig, path)


def plot_predictions(images, predicted, labels, path=None, columns=10, rows=3, title=None):
    """Images (n, h, w) with the predicted class above each; wrong ones have a thick frame and the true class. Returns the figure."""
    from matplotlib.figure import Figure

    n = min(len(images), rows * columns)
    wrong = [int(p) != int(y) for p, y in zip(predicted[:n], labels[:n])]
    fig = Figure(figsize=(columns * 0.95, rows * 1.2 + 0.4), layout="constrained")
    for i, ax in enumerate(fig.subplots(rows, columns, squeeze=False).ravel()):
        ax.set_xticks([]), ax.set_yticks([])
        if i >= n:
            ax.axis("off")
            continue
        ax.imshow(images[i], cmap="gray_r")
        ax.set_title(f"{int(predicted[i])}" + (f" (is {int(labels[i])})" if wrong[i] else ""), fontsize=9, fontweight="bold" if wrong[i] else "normal")
        for spine in ax.spines.values():
            spine.set(linewidth=2.5 if wrong[i] else 0.5, color="black" if wrong[i] else "0.7")
    fig.suptitle(title or f"predicted class; framed: wrong ({sum(wrong)} of these {n})", fontsize=10)
    return _saved(fig, path)


def _saved(fig, path):
    if path is not None:
        fig.savefig(path, dpi=120)
    return fig

"""Figures. matplotlib loads on first use."""

__all__ = ["plot_history", "plot_predictions"]


def plot_history(result, path=None):
    """The history's columns over data passes, a panel a column; returns the figure."""
    from matplotlib.figure import Figure

    columns = [k for k in result.history if k not in ("iteration", "data_passes", "seconds")]
    fig = Figure(figsize=(3.6 * max(1, len(columns)), 3.2), layout="constrained")
    passes = result.history.get("data_passes", [])
    for ax, name in zip(fig.subplots(1, max(1, len(columns)), squeeze=False)[0], columns):
        values = result.history[name]
        ax.plot(passes, values, marker="o" if len(values) < 40 else None, color="black", markersize=3)
        if min(values, default=0) > 0 and max(values) > 20 * min(values):
            ax.set_yscale("log")
        ax.set_xlabel("passes over the data")
        ax.set_title(name.replace("_", " "))
        ax.grid(alpha=0.3)
    if path is not None:
        fig.savefig(path, dpi=120)
    return fig


def plot_predictions(images, predicted, labels, path=None, columns=10, rows=3):
    """Images (n, h, w) with predicted and true labels; wrong ones are marked. Returns the figure."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(columns * 0.9, rows * 1.15), layout="constrained")
    for i, ax in enumerate(fig.subplots(rows, columns).ravel()):
        ax.axis("off")
        if i < len(images):
            ax.imshow(images[i], cmap="gray_r")
            wrong = int(predicted[i]) != int(labels[i])
            ax.set_title(f"{int(predicted[i])}" + (f" (is {int(labels[i])})" if wrong else ""), fontsize=8, fontweight="bold" if wrong else "normal")
    if path is not None:
        fig.savefig(path, dpi=120)
    return fig

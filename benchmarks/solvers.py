"""PARALIFT's solvers beside peers from PyPI: seconds until E - E* <= target * E*, same problem, one thread, alternating rounds.

`python benchmarks/solvers.py [--quick] [task ...]` prints a Markdown table. A reference point, certified by its duality gap, comes first. The number of
iterations that each method needs is then read off a watched run; what is timed is a run of that many iterations, unwatched, from data in memory to the
solution: set-up, Lipschitz constants and step search included, compilation excluded. Times are processor seconds of the one thread. One numpy function in
float64 evaluates E for all. Peers that are not installed are skipped: pyproximal and pylops, copt (with numba), scikit-learn, scikit-image. MNIST comes
through PARALIFT_DATA.
"""

import argparse
import importlib.metadata
import importlib.util
import math
import platform
import statistics
import time

import torch
from solver_tasks import LIMIT, Completion, Denoising, Lasso, Logistic
from threadpoolctl import threadpool_limits

PATIENCE = 30                    # a peer that takes more than so many times our time is left unfinished


class Reached(Exception):
    pass


def iterations_needed(task, run, limit):
    """(iterations until the target, whether it was reached within `limit` seconds): counted in a watched run; for blind ones by whole runs, from the slope of
    log gain over log iterations, until 2 % cannot be saved."""
    began = time.process_time()
    if not getattr(run, "blind", False):
        count = 0

        def watch(x):
            nonlocal count
            count += 1
            if task.gain(x) <= task.target:
                raise Reached
            if time.process_time() - began > limit:
                raise TimeoutError

        try:
            run(LIMIT, watch)
        except Reached:
            return count, True
        except TimeoutError:
            pass
        return count, False
    low, high, k = (0, math.inf), None, 4
    for _ in range(30):
        gain = task.gain(run(k))
        if gain <= task.target:
            high = (k, max(gain, 1e-16))
        else:
            low = (k, gain)
        if high is None:
            if time.process_time() - began > limit:
                return k, False
            k *= 2
        elif high[0] - low[0] <= max(1, 0.02 * high[0]):
            break
        elif low[0]:
            slope = math.log(low[1] / high[1]) / math.log(high[0] / low[0])
            guess = low[0] * (low[1] / task.target) ** (1 / slope)
            k = int(min(max(guess, low[0] + 0.02 * (high[0] - low[0]) + 1), high[0] - 1))
        else:
            k = high[0] // 2
    return high[0], True


# ---- the comparison
def compare(task, rounds):
    """Rows (name, iterations, seconds a round)."""
    task.certify()
    print(f"\n**{task.name}**: E* = {task.best:.8g}, certified to {task.certificate:.0e}; target {task.target:g}; {rounds} rounds\n", flush=True)
    runs, limit = {}, math.inf
    for name, run in task.methods().items():
        runs[name] = run, *iterations_needed(task, run, limit)
        if limit == math.inf:                                  # ours comes first
            began = time.process_time()
            run(runs[name][1])
            limit = max(1.0, PATIENCE * (time.process_time() - began))
    times = {name: [] for name, (_, _, done) in runs.items() if done}
    for i in range(rounds):
        for name in list(times) if i % 2 else reversed(list(times)):
            run, k, _ = runs[name]
            began = time.process_time()
            x = run(k)
            times[name].append(time.process_time() - began - getattr(run, "compilation", 0.0))
            if task.gain(x) > 1.05 * task.target:
                print(f"{name}: {task.gain(x):.2e} after {k} iterations")
    own = next(iter(times))
    print("| method | iterations | seconds: median (range) | ms an iteration | pl / this one: median (range) |\n|---|---|---|---|---|")
    for name, (_, k, done) in runs.items():
        if not done:
            print(f"| {name} | > {k} | - | - | < {1 / PATIENCE:g} |")
            continue
        t, ratios = times[name], [a / b for a, b in zip(times[own], times[name])]
        spread = "-" if name == own else f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {name} | {k} | {statistics.median(t):.4g} ({min(t):.4g} to {max(t):.4g}) | {1e3 * statistics.median(t) / k:.3g} | {spread} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small problems, under a minute")
    parser.add_argument("task", nargs="*", help="lasso, ill, completion, tv, binary, classes; all by default")
    arguments = parser.parse_args()
    q = arguments.quick
    tasks = {
        "lasso": lambda: Lasso("lasso", *((100, 400) if q else (500, 2000)), 1.0, 0.1),
        "ill": lambda: Lasso("ill-conditioned lasso", *((100, 400) if q else (500, 2000)), 0.01, 0.01),
        "completion": lambda: Completion(*((60, 40, 4) if q else (300, 200, 10)), 0.05),
        "tv": lambda: Denoising(128 if q else 512, 0.05),
        "binary": lambda: Logistic(2, 1000 if q else 60000, 3e-2 if q else 1e-3),
        "classes": lambda: Logistic(10, 1000 if q else 60000, 3e-2 if q else 3e-3),
    }
    torch.set_num_threads(1)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "scipy", "pyproximal", "pylops", "copt", "numba", "scikit-learn", "scikit-image")
                if importlib.util.find_spec({"scikit-learn": "sklearn", "scikit-image": "skimage"}.get(name, name))]
    print(f"Python {platform.python_version()}, {', '.join(versions)}; {platform.machine()}, one thread{', quick' if q else ''}")
    with threadpool_limits(1):
        for name in arguments.task or tasks:
            compare(tasks[name](), 3 if q else 5)


if __name__ == "__main__":
    main()

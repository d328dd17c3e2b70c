"""Two solves in two threads of one process, callbacks and checkpoints included, are two solves one after the other."""

import threading

import pytest
import torch

import paralift as pl

A, b = (torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) for shape in ((30, 20), (30,)))


def lasso(weight):
    return pl.Composite(pl.LeastSquares(A, b), weight * pl.L1Norm())


def training(seed):
    g = torch.Generator().manual_seed(seed)
    network = pl.networks.MLP(6, 5, 3)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return pl.LiftedTraining(network, torch.rand(40, 6, generator=g), torch.randint(3, (40,), generator=g))


CASES = {"FISTA": [(lambda: pl.FISTA(60), lambda: lasso(0.5)), (lambda: pl.FISTA(60), lambda: lasso(2.0))],
         "PDHG": [(lambda: pl.PDHG(60), lambda: pl.Composite(None, w * pl.L1Norm(), pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A))) for w in (0.5, 2.0)],
         "ISGM": [(lambda: pl.ISGM(3, batch_size=8, seed=1), lambda: training(1)), (lambda: pl.ISGM(3, batch_size=8, seed=2), lambda: training(2))],
         "BCD": [(lambda: pl.BCD(10, order="random", seed=1), lambda: training(1)), (lambda: pl.BCD(10, seed=2), lambda: training(2))]}


def run(case, seen, folder, i):
    solver, problem = CASES[case][i]
    return solver().solve(problem(), callback=lambda result: seen.append((result.iterations, result.objective)), progress=False, checkpoint=folder / f"{case}{i}",
                          checkpoint_every=0.0)


@pytest.mark.parametrize("case", CASES)
def test_callbacks_in_two_threads(case, tmp_path):
    serial = [[], []]
    expected = [run(case, serial[i], tmp_path, i) for i in range(2)]
    parallel, results, together = [[], []], [None, None], threading.Barrier(2)

    def work(i):
        together.wait()
        results[i] = run(case, parallel[i], tmp_path, i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(2):
        assert parallel[i] == serial[i] and results[i].history["objective"] == expected[i].history["objective"]
        assert all(torch.equal(v, expected[i].x[k]) for k, v in results[i].x.items())
        assert pl.Result.load(tmp_path / f"{case}{i}").iterations == expected[i].iterations

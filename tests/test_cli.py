import subprocess
import sys

import pytest

import paralift as pl
from paralift import cli


def test_info_names_what_is_here(capsys, monkeypatch):
    monkeypatch.setenv("PARALIFT_DATA", "/nowhere")
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for word in (pl.__version__, "torch", "numpy", "finufft", "devices", "gloo", "threads", "PARALIFT_DATA=/nowhere, which is no folder"):
        assert word in text, word


def test_info_says_what_is_missing_and_what_installs_it(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_version", lambda name: "missing" if name in ("finufft", "nibabel") else "1.0")
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().out.endswith("for what is missing: pip install 'paralift[imaging,nufft]'\n")


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "paralift", "--version"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == f"paralift {pl.__version__}\n", run.stderr


def test_a_wrong_command_is_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        cli.main(["dance"])
    assert refused.value.code == 2 and "info" in capsys.readouterr().err


def test_demo_trains_and_draws(tmp_path, capsys):
    assert cli.main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    assert sorted(f.name for f in tmp_path.iterdir()) == ["digits_convergence.png", "digits_predictions.png"] and "figures:" in capsys.readouterr().out


def test_demo_without_scikit_learn_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert cli.main(["demo", "--quick", "--output", str(tmp_path)]) == 1
    assert "pip install 'paralift[examples]'" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_bench_prints_ratios(capsys):
    from paralift.bench import bench

    rows = bench(quick=True)
    assert [name.split(",")[0] for name, *_ in rows][:3] == ["training", "prox of the l1 norm", "MRI"] and len(rows) in (3, 4)
    assert all(peer > 0 and own > 0 and 0.05 < ratio < 20 for _, peer, own, ratio in rows), rows
    assert "of minima" in capsys.readouterr().out

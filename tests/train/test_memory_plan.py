"""The plan of memory next to what steps of the small model really take."""

import json

import pytest
from plan_worker import CASES, measured, planned
from test_distributed import on_two

from groma.cli import main
from groma.distributed import World


@pytest.mark.parametrize("name", [name for name in CASES if name != "sharded"])
def test_plan_fits_reality(name):
    plan = planned(CASES[name], 1)
    assert plan.total == pytest.approx(measured(CASES[name], World()), rel=0.15)
    assert plan.gathered == 0


@pytest.mark.slow
def test_plan_fits_reality_where_it_is_sharded():
    ran = on_two("plan_worker.py", "sharded")
    assert ran.returncode == 0, ran.stderr[-3000:]
    plan = planned(CASES["sharded"], 2)
    assert plan.total == pytest.approx(json.loads(ran.stdout.splitlines()[-1])["measured"], rel=0.15)


def test_what_sharding_divides():
    one, eight = planned(CASES["sharded"], 1), planned(CASES["sharded"], 8)
    assert one.gathered == 0 < eight.gathered
    for part in ("weights", "optimizer", "gradients"):
        assert getattr(eight, part) == pytest.approx(getattr(one, part) / 8, rel=1e-6)
    assert eight.total < one.total


def test_a_plan_is_printed_and_nothing_is_trained(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--out", str(out), "--data.batch-size", "2", "--plan"]
    assert main(["train", "tiny-detect", *options, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["batch"]["pictures"] == 2 and plan["total"] > plan["weights"] > 0
    assert main(["train", "tiny-detect", *options]) == 0
    assert "activations" in capsys.readouterr().out and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["speak"], "not for 'speak'"),
        (["finetune-detect", "--from", "groma-tiny"], "--data"),
        (["tiny-detect", "--processes", "0"], "at least one process"),
    ],
)
def test_runs_without_a_plan_are_named(arguments, told, capsys):
    assert main(["train", *arguments, "--plan"]) == 2
    assert told in capsys.readouterr().err

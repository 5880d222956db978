"""A whole run: what its report holds, that floors are floors, that targets say what they should."""

import json
import math
import time
from dataclasses import replace

import pytest
from rich.console import Console

from groma.bench.growth import Growth, Turn
from groma.bench.machine import Machine
from groma.bench.report import Report
from groma.bench.run import Options, bench
from groma.bench.stages import Answers, Stage, Stages, measure_answers, measure_stages, together
from groma.bench.targets import FULL_SIZE, targets
from groma.bench.work import Work
from groma.errors import InputError
from groma.storage import json_text

STAGES = [
    "picture",
    "encoder",
    "proposer",
    "fusion",
    "projector",
    "selection",
    "regions",
    "prompt",
    "prefill",
    "decode",
]


FOOTPRINTS = tuple(size << 20 for size in (1, 8, 64))
"""Bytes that are copied to measure the machine: so small a model moves no more."""


@pytest.fixture(scope="module")
def report(assistant) -> Report:
    options = Options(batch_size=2, repeats=1, new_tokens=6, growth=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groma.bench.machine.FOOTPRINTS", FOOTPRINTS)
        patch.setattr("groma.bench.growth.BATCHES", (1, 2))
        patch.setattr("groma.bench.growth.PICTURES", (1, 2))
        return bench(assistant, options, model="small", weights="random")


def test_the_report_is_json_with_every_field(report):
    values = json.loads(json_text(report.to_dict(), what="the report"))
    assert list(values) == [
        "date",
        "versions",
        "machine",
        "configuration",
        "stages",
        "answers",
        "memory",
        "conversation",
        "growth",
        "turns",
        "targets",
    ]
    assert set(values["versions"]) == {"groma", "torch", "transformers", "python"}
    assert values["machine"]["matrix_flops_per_second"]["float32"] > 0
    assert values["machine"]["copy_bytes_per_second"] > 0
    assert values["machine"]["unsteadiness"] >= 1
    assert values["configuration"]["model"] == "small"
    assert values["configuration"]["parameters"]["total"] > 0
    assert list(values["stages"]) == list(values["answers"]) == ["1", "2"]
    for stages in values["stages"].values():
        assert [stage["name"] for stage in stages] == STAGES
    assert len(values["conversation"]) == 3
    assert set(values["growth"]) == {
        *(f"regions.{name}" for name in ("selection", "regions", "prompt", "prefill", "all")),
        "batch",
        "pictures",
    }
    assert len(values["turns"]) > 3
    assert all(set(target) == {"name", "value", "limit", "met"} for target in values["targets"])


def test_floors_are_above_zero_and_not_passed(report):
    values = report.to_dict()
    told = [stage for stages in values["stages"].values() for stage in stages]
    told += [*values["answers"].values(), values["memory"]]
    assert all(0 < one["fraction_of_floor"] <= 1.2 for one in told), told
    for stage in told[: len(STAGES)]:
        assert stage["flops"] > 0 or stage["name"] in {"picture", "selection", "prompt"}
        assert stage["moved_bytes"] > 0


def test_people_are_told_when_other_programs_ran(report):
    steady = replace(report, unsteadiness=1.0, answers={})
    assert not steady.disturbed
    assert replace(steady, unsteadiness=2.0).disturbed
    slow = Answers(pictures=1, seconds=1e3, language_calls=2)  # far more than its stages
    assert replace(steady, answers={1: slow}).disturbed


def test_two_pictures_are_twice_the_work(report):
    one, two = (report.stages[size].stages for size in (1, 2))
    for single, double in zip(one, two, strict=True):
        assert double.work.flops == pytest.approx(2 * single.work.flops)
        assert single.work.moved_bytes < double.work.moved_bytes <= 2 * single.work.moved_bytes


def test_people_get_tables(report):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.tables())
    text = console.export_text()
    for word in (*STAGES, "whole answers", "memory of 2", "turns about one picture", "growth", "targets"):
        assert word in text


def test_stages_make_the_answer_that_is_asked_for(task, assistant):
    """The parts take about as long as the whole, both far from exact on a busy machine."""
    stages, answers = measure_stages(task, pictures=1), measure_answers(task, pictures=1)
    assert 1 <= answers.language_calls <= task.new_tokens
    assert 0.02 < stages.seconds(answers.language_calls) / answers.seconds < 50
    assert stages.regions <= assistant.max_regions


def test_batches_are_as_before_afterwards(assistant):
    before = assistant.batch_size
    with pytest.raises(RuntimeError), together(assistant, before + 3):
        assert assistant.batch_size == before + 3
        raise RuntimeError
    assert assistant.batch_size == before


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("repeats", 0), ("new_tokens", 1)])
def test_bad_options(name, value):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} must be at least"):
        Options(**{name: value})


def test_a_run_on_groma_tiny_is_quick():
    from groma.pretrained import load

    began = time.process_time()
    report = bench(
        load("groma-tiny", device="cpu"), Options(batch_size=2, repeats=1, new_tokens=4), model="t", weights=""
    )
    assert time.process_time() - began < 20
    assert report.growth is None
    assert report.stages[1].prompt_tokens > report.configuration["image_tokens"]


# --- targets ---------------------------------------------------------------------------------------------------------


def _turn(number: int, processed: int) -> Turn:
    return Turn(
        number=number,
        seconds=1.0,
        encoded_pictures=int(number == 1),
        encoded_regions=3,
        prompt_tokens=100 * number,
        new_tokens=10,
        prefilled_tokens=processed,
    )


def _said(
    device: str = "cpu", *, batch: float = 3.0, share: float = 0.01, processed: int = 10, parameters: int = FULL_SIZE
):
    machine = Machine(
        device=device, name="", threads=1, memory_bytes=None, matrix_rates={"float32": 1.0}, copy_rates={1: 1.0}
    )
    work = Work(flops=0, moved_bytes=1, dtype="float32")
    stages = Stages(pictures=1, regions=3, prompt_tokens=9, stages=(Stage(name="selection", seconds=share, work=work),))
    answers = {n: Answers(pictures=n, seconds=s, language_calls=2) for n, s in ((1, 1.0), (8, batch))}
    growth = {"regions.all": Growth(sizes=(1, 10), seconds=(1.0, 100.0)), "batch": Growth(sizes=(1,), seconds=(1.0,))}
    turns = [_turn(1, 100), _turn(2, processed)]
    return [t.met for t in targets(machine, stages, answers, turns, growth, parameters=parameters)]


def test_targets_are_met_or_not():
    quadratic = False
    assert _said() == [True, True, True, quadratic, True]
    assert _said("cuda:1", batch=5.0)[0] is False
    assert _said("cpu", batch=5.0)[0] is True
    assert _said(processed=200)[2] is False
    assert _said(share=0.03)[4] is False
    assert _said(share=0.03, parameters=10**6)[4] is None


def test_targets_that_were_not_measured_are_open(report):
    batch, *_ = report.targets()
    assert batch.value is None
    assert batch.met is None
    assert all(t.value is None or math.isfinite(t.value) for t in report.targets())

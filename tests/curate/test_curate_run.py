"""Whole runs against a real server: what is kept and why not, what it costs, and that nothing is paid for twice."""

import json
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import QUICK, quick_job, quick_recipe

from chat_server import (
    ANSWER_TOKENS,
    QUESTION_TOKENS,
    Behaviour,
    ChatServer,
    Cut,
    Drip,
    Hold,
    Raw,
    Refuse,
    Say,
    conversation,
    good_answer,
    in_turn,
    well_behaved,
)
from groma.curate.annotations import read_annotations
from groma.curate.endpoint import OpenAIEndpoint, find_access
from groma.curate.report import Report
from groma.curate.run import Job, curate
from groma.curate.settings import Asking, Budget, Line, RegionSettings, Rules
from groma.data.annotation import Annotation
from groma.data.cleaning import Fault
from groma.data.sources import Source
from groma.errors import InputError

BAD = conversation("What is there?", "[A cat](9) sits there.", "And?", "[Another](17).")


@pytest.fixture
def small_set(made_up_set) -> tuple[Path, Path]:
    return made_up_set(8)


class Bench:
    """A set, a server and a folder for results."""

    def __init__(self, small_set: tuple[Path, Path], server: ChatServer, out: Path) -> None:
        self.file, self.pictures = small_set
        self.server = server
        self.out = out

    def job(self, **changes: Any) -> Job:
        return quick_job(self.pictures, changes.pop("out", self.out), **changes)

    def run(self, behaviour: Behaviour | None = None, *, annotations: Any = None, **changes: Any) -> Report:
        if behaviour is not None:
            self.server.behaviour = behaviour
        options = {name: changes.pop(name) for name in ("interrupted", "on_progress") if name in changes}
        job = self.job(**changes)
        endpoint = OpenAIEndpoint(
            find_access(url=self.server.url), timeout_s=job.line.timeout_s, stream=job.line.stream
        )
        return curate(self.annotations() if annotations is None else annotations, endpoint, job, **options)

    def annotations(self) -> list[Annotation | Fault]:
        return list(read_annotations(self.file, "coco_region_captions"))

    def records(self, out: Path | None = None) -> list[dict[str, Any]]:
        return json.loads(((out or self.out) / "instruct.json").read_text())

    def left_out(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "left_out.jsonl").read_text().splitlines()]


@pytest.fixture
def bench(small_set, server, tmp_path) -> Bench:
    return Bench(small_set, server, tmp_path / "out")


def check_sums(report: Report) -> None:
    """Every annotation is in exactly one count, and every reason is counted once."""
    figures = report.figures
    pictures = dict(figures["pictures"])
    assert pictures.pop("given") == sum(pictures.values())
    for name in ("rejected", "skipped", "unanswered"):
        assert pictures[name] == sum(figures[name].values())


@pytest.mark.parametrize("stream", [False, True])
def test_all_goes_well(bench, stream):
    report = bench.run(line=replace(QUICK, stream=stream))
    check_sums(report)
    assert report.stopped is None
    assert report.figures["pictures"]["kept"] == 8
    assert report.figures["yield"] == 1.0
    assert report.figures["conversations"] == {"exchanges": 16, "phrases": 48, "regions": 40, "regions_named": 40}
    paid = report.figures["paid_in_all_runs"]
    assert (paid["answers"], paid["question_tokens"], paid["answer_tokens"]) == (8, 8000, 1600)
    assert paid["perhaps_paid"]["requests"] == 0
    assert json.loads((bench.out / "report.json").read_text()) == report.to_dict()
    assert bench.left_out() == []
    assert [record["file_name"] for record in bench.records()] == [f"{n:03}.png" for n in range(8)]
    source = Source(bench.out / "instruct.json", "groma_instruct")
    assert len(source[7].exchanges) == 2 and len(source[7].boxes_xyxy_frame) == 5


def test_the_files_do_not_depend_on_who_was_quicker(bench, tmp_path):
    def late_first(body: dict[str, Any], before: int):
        threading.Event().wait(0.2 if "000" in json.dumps(body["messages"][-1])[-50:] else 0.0)
        return well_behaved(body, before)

    bench.run(late_first, line=replace(QUICK, concurrency=8))
    bench.run(out=tmp_path / "one", line=replace(QUICK, concurrency=1))
    first, second = bench.out / "instruct.json", tmp_path / "one" / "instruct.json"
    assert first.read_bytes() == second.read_bytes()


def test_the_second_run_asks_nothing(bench):
    first = bench.run()
    written = (bench.out / "instruct.json").read_bytes()
    (bench.out / "instruct.json").unlink()
    for picture in bench.pictures.iterdir():
        picture.unlink()  # not even the pictures are read again
    second = bench.run()
    assert len(bench.server.bodies) == 8
    assert (bench.out / "instruct.json").read_bytes() == written
    assert second.figures["requests_of_this_run"]["sent"] == 0
    same = ("pictures", "conversations", "paid_in_all_runs", "yield")
    assert {name: first.figures[name] for name in same} == {name: second.figures[name] for name in same}


def test_another_folder_takes_the_answers_that_are_there(bench, tmp_path):
    bench.run()
    changed = quick_recipe(rules=Rules(max_phrase_words=2))
    report = bench.run(out=tmp_path / "second", answers=bench.out / "answers.jsonl", recipe=changed)
    # the model is told the rules, so that other rules are another request; the same ones are the same request
    assert report.figures["requests_of_this_run"]["from_answers_file"] == 0
    again = bench.run(out=tmp_path / "third", answers=bench.out / "answers.jsonl")
    assert again.figures["requests_of_this_run"] == {
        "sent": 0, "answered": 0, "from_answers_file": 8, "faults": {},
    }  # fmt: skip
    assert bench.records(tmp_path / "third") == bench.records()


def test_a_bad_answer_is_asked_for_again_with_its_faults(bench):
    def bad_at_first(body: dict[str, Any], before: int):
        is_second = body["messages"][-1]["role"] == "user" and isinstance(body["messages"][-1]["content"], str)
        return Say(content=good_answer(body) if is_second else BAD)

    report = bench.run(bad_at_first)
    assert report.figures["pictures"]["kept"] == 8
    assert report.figures["kept_after_attempt"] == {"2": 8}
    assert len(bench.server.bodies) == 16
    complaints = [body["messages"][-1]["content"] for body in bench.server.bodies]
    told = [text for text in complaints if isinstance(text, str)]
    assert len(told) == 8
    assert all("answer 1 ties 'A cat' to 9, but there are regions 1 to 5 only" in text for text in told)


@pytest.mark.parametrize(
    ("action", "reason", "asked"),
    [
        (Say(content=BAD), "unknown_region", 2),
        (Say(content="not { json"), "unreadable", 2),
        (Say(content=""), "empty", 2),
        (Say(content=None), "empty", 2),
        (Say(content='{"conversation": [{"role"', finish="length"), "cut_off", 2),
        (Say(content=None, message={"refusal": "I cannot talk about this."}), "refused", 1),
        (Say(content="", finish="content_filter"), "refused", 1),
        (Say(content=conversation("What?", "A dog.", "What else?", "A cat.")), "few_phrases", 2),
    ],
)
def test_what_is_rejected(bench, action, reason, asked):
    report = bench.run(lambda *_: action, annotations=bench.annotations()[:2])
    check_sums(report)
    assert report.figures["rejected"] == {reason: 2}
    assert report.figures["yield"] == 0.0
    assert len(bench.server.bodies) == 2 * asked
    assert bench.records() == []
    assert [(line["picture"], line["reason"]) for line in bench.left_out()] == [
        ("000.png", reason),
        ("001.png", reason),
    ]
    bench.run()  # it is finished: bad answers were paid for as well
    assert len(bench.server.bodies) == 8 * asked


def test_what_is_repaired_is_counted(bench):
    def loose(body: dict[str, Any], before: int):
        return Say(content=f"Here it is:\n```json\n{good_answer(body)}\n```")

    report = bench.run(loose)
    assert report.figures["repaired"] == {"conversations": 8, "loose_form": 8}


@pytest.mark.parametrize("stream", [False, True])
def test_faults_that_pass(bench, stream):
    """One of everything that may go wrong on the way; every picture is answered in the end, once."""
    faults = in_turn(
        Refuse(status=500),
        None,
        Refuse(status=429, headers={"Retry-After": "0.1"}),
        Refuse(status=503, body="<html>"),
        Cut(),
        Drip(),
        Raw(body=b'{"choices": ['),
        Raw(body=b'{"choices": []}'),
        Refuse(status=529, headers={"retry-after-ms": "20"}),
    )
    report = bench.run(faults, line=replace(QUICK, timeout_s=3.0, stream=stream, tries=9, lost_answers=5))
    check_sums(report)
    assert report.figures["pictures"]["kept"] == 8
    assert set(bench.server.answered.values()) == {1}
    requests = report.figures["requests_of_this_run"]
    assert (requests["sent"], requests["answered"], sum(requests["faults"].values())) == (16, 8, 8)
    # those that broke in the middle may have been charged: they stay on the bill, at their most
    perhaps = report.figures["paid_in_all_runs"]["perhaps_paid"]
    assert perhaps["requests"] == 4
    assert perhaps["tokens_at_most"] >= 4 * 1500


def test_retry_after_holds_everybody(bench):
    line = replace(QUICK, concurrency=4)
    bench.run(in_turn(None, Refuse(status=429, headers={"Retry-After": "0.6"})), line=line)
    times = bench.server.times
    refused = times[1]
    assert len(times) == 9
    late = [time for time in times[2:] if time - refused < 0.55]
    assert len(late) <= 3  # those that were under way already


def test_a_rate_is_kept(bench):
    began = time.monotonic()
    bench.run(line=replace(QUICK, per_minute=60 / 0.05))
    assert max(bench.server.times) - began >= 7 * 0.05 * 0.9  # the first one waits for nobody


def test_one_request_goes_first_alone(bench):
    """A wrong key shows after one request, not after as many as there are workers."""
    bench.server.behaviour = lambda *_: Refuse(status=401)
    with pytest.raises(InputError, match=r"answered 401: no \(the key was not accepted\)"):
        bench.run(line=replace(QUICK, concurrency=8))
    assert len(bench.server.bodies) == 1
    report = json.loads((bench.out / "report.json").read_text())
    assert report["stopped"] == "endpoint"
    assert (report["pictures"]["unanswered"], report["pictures"]["waiting"]) == (1, 7)


def test_a_picture_that_is_refused_costs_itself_alone(bench):
    report = bench.run(in_turn(None, Refuse(status=400), Refuse(status=403)))
    check_sums(report)
    assert report.figures["pictures"]["kept"] == 6
    assert report.figures["unanswered"] == {"400": 1, "403": 1}
    assert sorted(line["reason"] for line in bench.left_out()) == ["unanswered_400", "unanswered_403"]
    again = bench.run(well_behaved)
    assert again.figures["pictures"]["kept"] == 8
    assert len(bench.server.bodies) == 10


def test_a_request_whose_answers_get_lost_is_given_up_early(bench):
    """Each of them may have been paid for."""
    report = bench.run(lambda *_: Cut(), annotations=bench.annotations()[:1], line=replace(QUICK, tries=6))
    assert report.figures["pictures"]["unanswered"] == 1
    assert len(bench.server.bodies) == 2


def test_an_endpoint_that_is_down_ends_the_run(bench):
    bench.server.behaviour = lambda *_: Refuse(status=500)
    with pytest.raises(InputError, match=r"3 pictures in a row got no answer, the last one because: .*500"):
        bench.run(line=replace(QUICK, tries=2, failures_in_a_row=3, concurrency=1))
    assert len(bench.server.bodies) == 6


def test_an_endpoint_that_wants_hours_ends_the_run(bench):
    bench.server.behaviour = in_turn(None, None, Refuse(status=429, headers={"Retry-After": "7200"}))
    with pytest.raises(InputError, match="asks to wait 7200 s; run the same command again"):
        bench.run(line=replace(QUICK, concurrency=1))
    assert len(bench.records()) == 2
    assert len(bench.server.bodies) == 3
    assert bench.run().figures["pictures"]["kept"] == 8
    assert set(bench.server.answered.values()) == {1}


@pytest.mark.parametrize(
    "budget",
    [
        Budget(max_tokens=9000),
        Budget(max_money=0.0245, price_in=2.0, price_out=8.0),
    ],
    ids=["tokens", "money"],
)
def test_a_budget_is_not_passed_and_more_of_it_goes_on(bench, budget):
    report = bench.run(budget=budget, line=replace(QUICK, concurrency=3))
    check_sums(report)
    assert report.stopped == "budget"
    figures, paid = report.figures["pictures"], report.figures["paid_in_all_runs"]
    assert 2 <= figures["kept"] <= 7
    assert figures["kept"] + figures["waiting"] == 8
    assert paid["answers"] == figures["kept"] == len(bench.server.bodies) == len(bench.records())
    spent = (QUESTION_TOKENS + ANSWER_TOKENS) * figures["kept"]
    assert paid["question_tokens"] + paid["answer_tokens"] == spent
    if budget.max_tokens is not None:
        assert spent <= budget.max_tokens
    else:
        assert paid["money"] == pytest.approx((2.0 * 1000 + 8.0 * 200) / 1e6 * figures["kept"])
        assert paid["money"] <= budget.max_money
    # the same budget again: nothing is left of it, whatever the first run is called now
    again = bench.run(budget=budget)
    assert (again.stopped, len(bench.server.bodies)) == ("budget", figures["kept"])
    more = bench.run()
    assert (more.stopped, more.figures["pictures"]["kept"]) == (None, 8)
    assert set(bench.server.answered.values()) == {1}


def test_what_the_first_answer_cost_is_reserved_for_the_next(bench):
    """Some endpoints count a picture as tens of thousands of tokens, which no estimate of ours would cover."""
    dear = {"prompt_tokens": 30_000, "completion_tokens": ANSWER_TOKENS}
    report = bench.run(lambda body, _: Say(content=good_answer(body), usage=dear), budget=Budget(max_tokens=70_000))
    paid = report.figures["paid_in_all_runs"]
    assert (report.stopped, paid["answers"], paid["question_tokens"]) == ("budget", 2, 60_000)


def test_what_may_have_been_paid_counts_for_the_budget(bench):
    """An answer that was lost on its way is on the bill of the next run, too."""
    with pytest.raises(InputError):
        bench.run(lambda *_: Cut(), line=replace(QUICK, tries=2, failures_in_a_row=1))
    before = bench.run(well_behaved, budget=Budget(max_tokens=6000)).figures["paid_in_all_runs"]
    assert before["perhaps_paid"]["requests"] == 2
    assert before["answers"] == 0
    assert before["perhaps_paid"]["tokens_at_most"] > 6000 - 3500


def test_an_endpoint_that_does_not_count(bench):
    report = bench.run(lambda body, _: Say(content=good_answer(body), usage=None), budget=Budget(max_tokens=9000))
    paid = report.figures["paid_in_all_runs"]
    assert report.stopped == "budget"
    assert paid["answers_without_count"] == paid["answers"] == len(bench.server.bodies)
    assert paid["question_tokens"] + paid["answer_tokens"] <= 9000


def test_equal_requests_are_paid_for_once(bench, tmp_path):
    """Two names of one picture, asked about at the same time."""

    def slow(body: dict[str, Any], before: int):
        threading.Event().wait(0.4)
        return well_behaved(body, before)

    (bench.pictures / "copy.png").write_bytes((bench.pictures / "003.png").read_bytes())
    annotations = bench.annotations()
    annotations.append(replace(annotations[3], picture="copy.png"))
    annotations.append(annotations[3])
    few_boxes = quick_recipe(regions=RegionSettings(least=1))
    report = bench.run(slow, annotations=annotations, line=replace(QUICK, concurrency=10), recipe=few_boxes)
    check_sums(report)
    assert report.figures["pictures"]["kept"] == 9
    assert report.figures["pictures"]["repeated"] == 1
    assert report.figures["requests_of_this_run"]["from_answers_file"] == 1
    assert len(bench.server.bodies) == 8
    assert bench.records()[3]["conversation"] == bench.records()[8]["conversation"]


def test_what_is_not_asked_about(bench):
    (bench.pictures / "000.png").unlink()
    (bench.pictures / "001.png").write_bytes(b"not a picture")
    annotations = bench.annotations()
    annotations[2] = replace(annotations[2], frame=(640.0, 480.0))
    annotations[3] = replace(annotations[3], boxes_xyxy_frame=annotations[3].boxes_xyxy_frame[:2], labels=("a", "b"))
    annotations[4] = replace(annotations[4], picture="../out/x.png")
    annotations[5] = Fault("unreadable_record", "record 5: no width")
    report = bench.run(annotations=annotations)
    check_sums(report)
    assert report.figures["skipped"] == dict.fromkeys(
        ["corrupt_picture", "few_regions", "missing_picture", "outside_folder", "unreadable_record", "wrong_size"], 1
    )
    assert len(bench.server.bodies) == report.figures["pictures"]["kept"] == 2
    told = {line["reason"]: line["told"][0] for line in bench.left_out()}
    assert "2 of 2 boxes can be regions, expected at least 3" in told["few_regions"]
    assert [line["reason"] for line in bench.left_out()][:2] == ["missing_picture", "corrupt_picture"]


def test_boxes_that_became_no_regions_are_counted(bench):
    annotations = bench.annotations()
    twice = [replace(a, boxes_xyxy_frame=a.boxes_xyxy_frame * 3, labels=a.labels * 3) for a in annotations]
    recipe = quick_recipe(regions=RegionSettings(most=4))
    report = bench.run(annotations=twice, recipe=recipe)
    assert report.figures["boxes_dropped"] == {"overlapping": 80, "surplus": 8}
    assert report.figures["conversations"]["regions"] == 32
    again = bench.run(annotations=twice, recipe=recipe)
    assert again.figures["boxes_dropped"] == report.figures["boxes_dropped"]
    assert len(bench.server.bodies) == 8


def test_a_picture_that_was_mended_is_taken_up(bench):
    content = (bench.pictures / "000.png").read_bytes()
    (bench.pictures / "000.png").unlink()
    assert bench.run().figures["pictures"]["kept"] == 7
    (bench.pictures / "000.png").write_bytes(content)
    assert bench.run().figures["pictures"]["kept"] == 8
    assert bench.records()[0]["file_name"] == "000.png"


def test_trusted_boxes(bench):
    annotations = bench.annotations()
    boxes = annotations[0].boxes_xyxy_frame
    moved = tuple((x1 + 3, y1 + 2, x2 + 3, y2 + 2) for x1, y1, x2, y2 in boxes[:4])
    trusted = {"000.png": replace(annotations[0], boxes_xyxy_frame=moved, labels=())}
    report = bench.run(annotations=annotations[:2], trusted=trusted)
    assert report.figures["skipped"] == {"few_regions": 1}  # nobody vouches for the second picture's boxes
    assert report.figures["boxes_dropped"] == {"untrusted": 1}
    (record,) = bench.records()
    assert sorted((x, y) for x, y, _, _ in record["boxes"]) == sorted((x1, y1) for x1, y1, _, _ in moved)


def test_another_recipe_needs_another_folder(bench):
    bench.run()
    with pytest.raises(InputError, match=r"another recipe: seed \(0 -> 1\): give another folder"):
        bench.run(recipe=quick_recipe(seed=1))
    with pytest.raises(InputError, match=r"asking\.temperature \(None -> 0\.5\)"):
        bench.run(recipe=quick_recipe(asking=Asking(picture_tokens=500, temperature=0.5)))
    assert bench.run(line=Line(), budget=Budget(max_tokens=10**9)).stopped is None


def test_interrupted(bench, monkeypatch):
    """What is under way is waited for and kept; nothing new is asked."""
    monkeypatch.setattr("groma.curate.run.WATCH_S", 0.01)
    interrupted, release = threading.Event(), threading.Event()
    behaviour = in_turn(None, Hold(until=release), Hold(until=release))

    def watch(body: dict[str, Any], before: int):
        action = behaviour(body, before)
        if isinstance(action, Hold) and len(bench.server.bodies) == 3:
            interrupted.set()
            threading.Timer(0.8, release.set).start()
        return action

    report = bench.run(watch, line=replace(QUICK, concurrency=2), interrupted=interrupted)
    check_sums(report)
    assert report.stopped == "interrupted"
    assert report.figures["pictures"]["kept"] == len(bench.server.bodies) == 3
    assert report.figures["pictures"]["waiting"] == 5
    assert bench.run().figures["pictures"]["kept"] == 8
    assert set(bench.server.answered.values()) == {1}


def test_annotations_that_end_in_an_error(bench):
    def broken():
        yield from bench.annotations()[:3]
        raise InputError("regions.json: not valid JSON")

    with pytest.raises(InputError, match="not valid JSON"):
        bench.run(annotations=broken(), line=replace(QUICK, concurrency=1))
    assert len(bench.records()) == 3


def test_progress(bench):
    seen = []
    bench.run(on_progress=lambda tally: seen.append((tally.given, tally.kept)))
    assert seen[-1] == (8, 8)
    assert Counter(kept for _, kept in seen) == Counter(range(1, 9))


def test_the_key_is_written_nowhere(bench):
    bench.run(in_turn(None, Refuse(status=400, body='{"error": {"message": "sk-secret-of-the-tests?"}}')))
    for file in bench.out.rglob("*"):
        assert b"sk-secret" not in file.read_bytes(), file

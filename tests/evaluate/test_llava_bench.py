"""LLaVA-Bench with a judge that is a real server: both orders, refusals, a run that goes on without paying twice."""

import json

import pytest
from knowing import Knowing, numbered

from chat_server import ChatServer, Refuse, Say
from groma.errors import InputError
from groma.evaluate import open_benchmark
from groma.evaluate.data_folder import Judge, Place
from groma.evaluate.judging import Verdict, read_verdict
from groma.evaluate.report import measure
from groma.evaluate.runner import run_benchmark

CATEGORIES = ("conv", "detail", "complex")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    questions, answers, contexts = [], [], []
    for number in range(1, 7):
        numbered(number).save(folder / f"{number}.png")
        category = CATEGORIES[number % 3]
        questions.append({"question_id": number, "image": f"{number}.png", "category": category, "text": f"Q{number}?"})
        answers.append({"question_id": number, "text": f"reference {number}"})
        box = {"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}
        contexts.append({"image": f"{number}.png", "captions": [f"caption {number}"], "instances": [box]})
    for name, rows in (
        ("qa90_questions.jsonl", questions),
        ("qa90_gpt4_answer.jsonl", answers),
        ("caps_boxes_coco2014_val_80.jsonl", contexts),
    ):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def opened(data, server):
    return open_benchmark("llava-bench", Place(data=data, judge=Judge(model="judge-1", url=server.url)))


def answering() -> Knowing:
    return Knowing(text_of=lambda k, question, _boxes: f"answer {k}")


def fond_of_the_first(body, _before) -> Say:
    """The reference is worth 8, the model 6; whoever comes first gets one more."""
    first_is_reference = "Answer 1:\nreference" in body["messages"][1]["content"]
    return Say(content="9 6\nwell" if first_is_reference else "7 8\nwell")


def test_both_orders_cancel_the_judges_liking_for_a_place(data, tmp_path):
    with ChatServer(fond_of_the_first) as server:
        benchmark = opened(data, server)
        records = run_benchmark(answering(), benchmark, out=tmp_path / "run")
        figures = measure(benchmark, records, model="knowing").metrics()
        assert figures["all"] == pytest.approx((6 + 7) / (9 + 8))
        assert figures["reference_first"] == pytest.approx(6 / 9) and figures["model_first"] == pytest.approx(7 / 8)
        assert figures["conversation"] == figures["detail"] == figures["reasoning"] == pytest.approx(13 / 17)
        assert figures["unjudged"] == 0
        assert len(server.bodies) == 12
        body = server.bodies[0]
        assert body["model"] == "judge-1" and body["temperature"] == 0
        told = body["messages"][1]["content"]
        assert "caption 1" in told and "dog: [0.1, 0.2, 0.3, 0.4]" in told and "Q1?" in told
    # measured again without the judge, which is gone
    again = run_benchmark(answering(), benchmark, out=tmp_path / "run")
    assert again == records
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["cases"]["judge"] == {"model": "judge-1", "url": server.url, "prompt": 1}
    assert "secret" not in "".join(file.read_text() for file in (tmp_path / "run").glob("*.json*"))


def test_a_judge_that_fails_ends_the_run_and_nothing_is_paid_twice(data, tmp_path):
    calls = []

    def behave(body, before):
        calls.append(body["messages"][1]["content"])
        return Refuse(status=401) if len(calls) == 5 else Say(content="8 8")

    assistant = answering()
    with ChatServer(behave) as server:
        benchmark = opened(data, server)
        with pytest.raises(InputError, match="401"):
            run_benchmark(assistant, benchmark, out=tmp_path / "run")
        answered = sum(server.answered.values())
        assert 0 < answered < 12
        assistant.seen.clear()
        records = run_benchmark(assistant, benchmark, out=tmp_path / "run")
        assert not assistant.seen, "the answers were kept"
        assert set(server.answered.values()) == {1} and len(server.answered) == 12
    assert measure(benchmark, records, model="x").metrics()["all"] == 1


def test_verdicts_without_two_scores_are_counted(data):
    with ChatServer(lambda body, _: Say(content="I cannot judge this.")) as server:
        benchmark = opened(data, server)
        figures = measure(benchmark, run_benchmark(answering(), benchmark), model="x").metrics()
    assert figures["unjudged"] == 1


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("8 7\nreasons 1 2 3", Verdict(8, 7)),
        ("\n9, 10", Verdict(9, 10)),
        ("7.5 8", Verdict(7.5, 8)),
        ("8/10 6/10", Verdict(8, 6)),
        ("Scores: 8 and 7.", Verdict(8, 7)),
        ("Answer 1: 8, answer 2: 7", None),
        ("11 3", None),
        ("0 5", None),
        ("7", None),
        ("", None),
    ],
)
def test_what_a_judge_writes(text, verdict):
    assert read_verdict(text) == verdict


def test_what_is_missing_is_told_before_anything_is_asked(data, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="needs a judge: give --judge MODEL or set OPENAI_MODEL"):
        open_benchmark("llava-bench", Place(data=data))
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="needs a key"):
        open_benchmark("llava-bench", Place(data=data, judge=Judge(model="judge-1")))
    local = Place(data=data, judge=Judge(model="judge-1", url="http://127.0.0.1:9/v1"))
    (data / "qa90_gpt4_answer.jsonl").write_text('{"question_id": 1, "text": "x"}\n')
    with pytest.raises(InputError, match="has no answer to question 2"):
        open_benchmark("llava-bench", local)
    (data / "qa90_questions.jsonl").write_text('{"question": 1}\n')
    with pytest.raises(InputError, match=r"line 1: question_id, image, text, category missing"):
        open_benchmark("llava-bench", local)

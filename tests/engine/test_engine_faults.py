"""What breaks in an engine, and that it is one question's own."""

import time
from dataclasses import replace

import pytest
import torch
from asked import LONG, QUESTIONS, SHORT, opened

from groma.engine.engine import Engine
from groma.engine.observer import Observer
from groma.engine.ticket import (
    CancelledError,
    EngineError,
    StoppedError,
)
from groma.errors import GromaError, InputError
from groma.inference.assistant import Groma
from groma.inference.generate import Decoding
from groma.inference.row_cache import RowCache
from groma.inference.transcript import Transcript
from slow_backend import slowly
from small_models import assert_same, picture


@pytest.fixture(scope="module")
def assistant(endless) -> Groma:
    """Who runs beside the one that breaks has not ended by chance."""
    return endless


def test_a_question_that_fails_takes_no_other_down(assistant, monkeypatch, caplog):
    engine = Engine(assistant, backend=slowly(assistant, 0.01))
    with engine:
        long = engine.question(opened(engine), QUESTIONS[0], decoding=Decoding(max_new_tokens=40))
        good = engine.submit(long)
        too_long = replace(long, decoding=Decoding(max_new_tokens=10_000))
        prepare = assistant.prepare

        def breaking(requests):
            if any(request.exchange.question == "Break!" for request in requests):
                raise RuntimeError("secret detail")
            return prepare(requests)

        monkeypatch.setattr(assistant, "prepare", breaking)
        bad = engine.submit(engine.question(opened(engine), "Break!", decoding=SHORT))
        refused, beside = engine.submit(too_long), engine.submit(long)
        with pytest.raises(EngineError) as broken:
            bad.result(20)
        assert "secret" not in str(broken.value) and "secret detail" in caplog.text
        with pytest.raises(InputError, match="context"):
            refused.result(20)
        assert_same(good.result(20).answer, beside.result(20).answer)


def test_a_picture_that_cannot_be_encoded_takes_no_other_down(assistant, monkeypatch):
    engine = Engine(assistant, backend=slowly(assistant, 0.01))
    see = assistant.see_pixels
    with engine:
        first, bad, good = (engine.question(opened(engine, n), QUESTIONS[0], decoding=SHORT) for n in range(3))

        def breaking(pixels, sizes):
            if any((one == bad.picture.pixels).all() for one in pixels):
                raise RuntimeError("out of memory")
            return see(pixels, sizes)

        monkeypatch.setattr(assistant, "see_pixels", breaking)
        tickets = [engine.submit(job) for job in (first, bad, good)]
        with pytest.raises(EngineError):
            tickets[1].result(20)
        for number in (0, 2):
            plain = assistant.ask(picture(number), QUESTIONS[0], decoding=SHORT)
            assert_same(tickets[number].result(20).answer, plain)


@pytest.mark.parametrize("memory_for", [1, 0], ids=["prompts-one-by-one", "no-prompt-of-that-length"])
def test_a_prompt_for_which_there_is_no_memory_takes_no_other_down(assistant, monkeypatch, memory_for):
    """Prompts of several at once are then read one by one; who runs already notices nothing."""
    with Engine(assistant, backend=slowly(assistant, 0.01)) as engine:
        jobs = [engine.question(opened(engine), q, decoding=Decoding(max_new_tokens=40)) for q in QUESTIONS[:3]]
        wanted = [assistant.ask(picture(0), q, decoding=jobs[0].decoding) for q in QUESTIONS[:3]]
        forward, failed = assistant.model.language.forward, []

        def forgetful(embeddings, **options):
            hidden = forward(embeddings, **options)  # so that the cache was written when it fails
            if embeddings.shape[1] > 1 and len(embeddings) > memory_for:
                failed.append(len(embeddings))
                raise torch.OutOfMemoryError("no memory is left")
            return hidden

        first = engine.submit(jobs[0])
        while first.first_said is None:
            time.sleep(0.001)
        monkeypatch.setattr(assistant.model.language, "forward", forgetful)
        with engine._condition:  # so that both join at once
            others = [engine.submit(job) for job in jobs[1:]]
        for ticket, plain in zip(others, wanted[1:], strict=True):
            if memory_for:
                assert_same(ticket.result(20).answer, plain)
            else:
                with pytest.raises(EngineError):
                    ticket.result(20)
        assert not first.done or memory_for
        assert_same(first.result(20).answer, wanted[0])
        assert failed[0] == 2
        assert engine.running == 0


def test_an_answer_that_cannot_be_read_takes_no_other_down(assistant, monkeypatch):
    with Engine(assistant, backend=slowly(assistant, 0.01)) as engine:
        decoding = Decoding(max_new_tokens=40)
        good, bad = (engine.submit(engine.question(opened(engine), q, decoding=decoding)) for q in QUESTIONS[:2])
        add = Transcript.add

        def breaking(transcript, said):
            if transcript._question == QUESTIONS[1]:
                raise RuntimeError("a token that nobody knows")
            return add(transcript, said)

        monkeypatch.setattr(Transcript, "add", breaking)
        with pytest.raises(EngineError):
            bad.result(20)
        assert_same(good.result(20).answer, assistant.ask(picture(0), QUESTIONS[0], decoding=decoding))
        assert engine._batch._backend.running == 0


def test_a_step_that_breaks_fails_who_was_in_it_and_the_engine_goes_on(assistant, monkeypatch):
    with Engine(assistant) as engine:
        job = engine.question(opened(engine), QUESTIONS[0], decoding=Decoding(max_new_tokens=5))
        forward = assistant.model.language.forward

        def failing(*_, **__):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(assistant.model.language, "forward", failing)
        with pytest.raises(EngineError):
            engine.ask(job)
        monkeypatch.setattr(assistant.model.language, "forward", forward)
        assert_same(engine.ask(job).answer, assistant.ask(picture(0), QUESTIONS[0], decoding=job.decoding))


def test_what_cannot_be_kept_is_no_reason_to_lose_an_answer(assistant, monkeypatch, caplog):
    """No memory for a copy of keys and values when an answer ends, and when one is given up."""
    with Engine(assistant, backend=slowly(assistant, 0.01)) as engine:
        monkeypatch.setattr(RowCache, "save", lambda *_: 1 / 0)
        decoding = Decoding(max_new_tokens=40)
        first = engine.question(opened(engine), QUESTIONS[0], decoding=decoding)
        short = engine.question(opened(engine), QUESTIONS[1], decoding=SHORT)
        running, ending, leaving = engine.submit(first), engine.submit(short), engine.submit(short)
        while leaving.first_said is None:
            time.sleep(0.001)
        leaving.cancel()
        for ticket, question, own in ((running, QUESTIONS[0], decoding), (ending, QUESTIONS[1], SHORT)):
            assert_same(ticket.result(20).answer, assistant.ask(picture(0), question, decoding=own))
        with pytest.raises(CancelledError):
            leaving.result(20)
    assert "could not be kept" in caplog.text


def test_figures_that_are_no_numbers_spoil_nobody(assistant, monkeypatch):
    """One prompt overflows: it fails, its neighbour goes on, and who gets its place next is answered."""
    with Engine(assistant, backend=slowly(assistant, 0.01)) as engine:
        decoding = Decoding(max_new_tokens=40)
        jobs = [engine.question(opened(engine), q, decoding=decoding) for q in QUESTIONS[:3]]
        wanted = [assistant.ask(picture(0), q, decoding=decoding) for q in QUESTIONS[:3]]
        prepare = assistant.prepare

        def overflowing(requests):
            prepared = prepare(requests)
            for one in prepared:
                if one.request.exchange.question == QUESTIONS[1]:
                    with torch.inference_mode():
                        one.prompt.embeddings[-1] = torch.nan
            return prepared

        monkeypatch.setattr(assistant, "prepare", overflowing)
        good = engine.submit(jobs[0])
        with pytest.raises(GromaError, match="no numbers"):
            engine.ask(jobs[1])
        assert_same(engine.ask(jobs[2]).answer, wanted[2])
        assert_same(good.result(20).answer, wanted[0])


def test_a_listener_that_fails_disturbs_nobody(assistant, caplog):
    ended = []

    class Counting(Observer):
        def ended(self, outcome, seconds, usage):
            ended.append(outcome)

    with Engine(assistant, backend=slowly(assistant, 0.01), observer=Counting()) as engine:
        job = engine.question(opened(engine), QUESTIONS[0], decoding=SHORT)
        good = engine.submit(job)
        engine.submit(replace(job, streams=True), lambda event: 1 / 0)
        engine.submit(replace(job, time_limit_s=0), lambda event: 1 / 0)
        assert good.result(20).answer.text
    assert sorted(ended) == ["answered", "cancelled", "time_limit"] and "listens to question" in caplog.text


def test_regions_that_cannot_be_told_are_one_questions_own(assistant, monkeypatch):
    with Engine(assistant, backend=slowly(assistant, 0.01)) as engine:
        good = engine.submit(engine.question(opened(engine), QUESTIONS[0], decoding=SHORT))
        monkeypatch.setattr(assistant, "found", lambda seen: 1 / 0)
        with pytest.raises(EngineError):
            engine.ask(engine.job(opened(engine), None))
        assert good.result(20).answer.text


def test_a_back_end_that_fails_is_logged(assistant, monkeypatch, caplog):
    """What users cannot mend is no refusal of theirs."""
    with Engine(assistant) as engine:
        monkeypatch.setattr(engine._batch._backend, "step", lambda: raise_(GromaError("vLLM failed")))
        with pytest.raises(GromaError, match="vLLM failed"):
            engine.ask(engine.question(opened(engine), QUESTIONS[0], decoding=SHORT))
    assert "question" in caplog.text and "vLLM failed" in caplog.text


def raise_(error):
    raise error


def test_an_engine_that_dies_says_so_and_leaves_nobody_waiting(assistant):
    engine, died = Engine(assistant), []
    engine.on_death = died.append
    engine._queue.pop = lambda: 1 / 0
    engine.start()
    ticket = engine.submit(engine.question(opened(engine), QUESTIONS[0], decoding=SHORT))
    with pytest.raises(StoppedError):
        ticket.result(20)
    engine._thread.join(10)
    assert isinstance(died[0], ZeroDivisionError) and not engine.ready


def test_answers_that_a_back_end_has_lost_are_not_waited_for(assistant, monkeypatch):
    with Engine(assistant, backend=slowly(assistant, 0.01)) as engine:
        ticket = engine.submit(engine.question(opened(engine), QUESTIONS[0], decoding=LONG))
        backend = engine._batch._backend

        def forgetful():
            backend.close()
            monkeypatch.undo()
            return {}

        monkeypatch.setattr(backend, "step", forgetful)
        with pytest.raises(GromaError, match="has lost"):
            ticket.result(20)
        assert engine.ask(engine.question(opened(engine), QUESTIONS[0], decoding=SHORT)).answer.text

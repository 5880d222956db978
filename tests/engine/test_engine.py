"""The engine: the same answers as the plain call whoever else asks, and places that are freed at once."""

import random
import threading
import time
from dataclasses import replace

import pytest
from asked import LONG, QUESTIONS, SHORT, opened
from PIL import Image

from groma.engine.engine import Engine, EngineSettings
from groma.engine.observer import Observer
from groma.engine.ticket import (
    Answered,
    BusyError,
    CancelledError,
    Job,
    StoppedError,
    TimeLimitError,
)
from groma.errors import InputError
from groma.inference.generate import Decoding
from groma.inference.result import Entity
from groma.prompt.parse import TextDelta
from patience import SOON_S
from slow_backend import slowly
from small_models import assert_same, picture


def counting(assistant, monkeypatch) -> list[int]:
    """How many pictures each call of the encoder sees."""
    seen: list[int] = []
    perceive = assistant.model.perceive
    monkeypatch.setattr(assistant.model, "perceive", lambda pixels: seen.append(len(pixels)) or perceive(pixels))
    return seen


def test_answers_are_those_of_the_plain_call_whoever_else_asks(assistant):
    """120 questions from 12 threads, of all lengths, with boxes and histories, joining and leaving all the time."""
    rng = random.Random(0)
    first = {n: assistant.ask(picture(n), QUESTIONS[0], decoding=Decoding(max_new_tokens=8)) for n in range(6)}
    asked = []
    for _ in range(120):
        number = rng.randrange(6)
        boxes = [[5, 5, 60, 70], [30, 20, 110, 85]][: rng.randrange(3)]
        words = rng.choice(QUESTIONS) + "".join(f" [{k + 1}]" for k in range(len(boxes)))
        decoding = Decoding(
            max_new_tokens=rng.choice([1, 2, 5, 17, 40]), temperature=rng.choice([0.0, 0.0, 0.8]), seed=rng.randrange(9)
        )
        history = [first[number]] if rng.random() < 0.4 else []
        asked.append((number, words, boxes or None, history, decoding, rng.random() < 0.5))
    wanted = [assistant.ask(picture(n), q, regions=b, history=h, decoding=d, grounded=g) for n, q, b, h, d, g in asked]
    said: dict[int, Answered] = {}
    with Engine(assistant, EngineSettings(max_batch=8, max_queue=1000)) as engine:

        def ask(worker: int) -> None:
            for place in range(worker, len(asked), 12):
                n, q, b, h, d, g = asked[place]
                job = engine.question(opened(engine, n), q, b, history=h, decoding=d, grounded=g)
                said[place] = engine.ask(replace(job, client=str(worker)))

        threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.pictures.hits > engine.pictures.misses
    assert len(said) == len(asked)
    for place, plain in enumerate(wanted):
        assert_same(said[place].answer, plain)
    assert sum(answered.usage.cached_tokens for answered in said.values()) > 0
    assert len({answer.raw_text for answer in wanted}) > 30


def test_a_picture_is_encoded_once(assistant, monkeypatch):
    with Engine(assistant) as engine:
        encoded = counting(assistant, monkeypatch)
        for _ in range(3):
            tickets = [engine.submit(engine.question(opened(engine), q, decoding=SHORT)) for q in QUESTIONS]
            answers = [ticket.result(60) for ticket in tickets]
        assert encoded == [1]
        assert all(answered.usage.cached_tokens > 20 for answered in answers)
        engine.pictures.max_bytes = 1
        engine.pictures.keep("x", assistant.see(picture(5)))
        assert len(engine.pictures) == 0 and engine.pictures.num_bytes == 0
        engine.ask(engine.question(opened(engine), QUESTIONS[0], decoding=SHORT))
        assert encoded[1:] == [1, 1]


def test_pictures_are_kept_by_content_and_bytes(assistant):
    limit = 10 * assistant.see(picture(0)).num_bytes
    with Engine(assistant, EngineSettings(picture_cache_bytes=limit)) as engine:
        for number in range(40):
            engine.ask(engine.question(opened(engine, number), "Why?", decoding=Decoding(max_new_tokens=1)))
            assert 0 < engine.pictures.num_bytes <= limit
        assert 1 < len(engine.pictures) < 40
        assert opened(engine, 39).seen is not None
        assert opened(engine, 0).seen is None
        again = engine.picture(Image.merge("RGB", picture(39).split()))
        assert again.seen is not None, "the same content"


def test_a_new_turn_reads_what_is_new(assistant):
    with Engine(assistant) as engine:
        history, prompts = [], []
        for turn, question in enumerate(QUESTIONS):
            boxes = [[5, 5, 60, 70]] if turn == 0 else None
            job = engine.question(opened(engine), question, boxes, history=history, decoding=Decoding(max_new_tokens=6))
            answered = engine.ask(job)
            history.append(answered.answer)
            prompts.append(answered.usage)
        for usage, before in zip(prompts[1:], prompts, strict=False):
            assert usage.cached_tokens >= before.prompt_tokens - 1


def test_what_is_said_is_told_token_by_token(assistant):
    with Engine(assistant) as engine:
        for seed in range(30):
            decoding = Decoding(max_new_tokens=40, temperature=1.0, seed=seed)
            job = replace(engine.question(opened(engine, 3), QUESTIONS[1], decoding=decoding), streams=True)
            *events, last = engine.submit(job)
            assert isinstance(last, Answered)
            assert "".join(event.text for event in events if isinstance(event, TextDelta)) == last.answer.text
            named = [event for event in events if isinstance(event, Entity)]
            assert named == list(last.answer.entities)
            if len(named) > 1:
                return
    raise AssertionError("no answer named two regions")


def test_regions_alone(assistant):
    with Engine(assistant) as engine:
        answered = engine.ask(Job(picture=opened(engine), exchange=None))
        assert answered.answer is None
        assert list(answered.regions) == assistant.regions(picture(0))


# --- who leaves ------------------------------------------------------------------------------------------------------


def test_who_gives_up_frees_a_place_at_the_next_step(endless):
    engine = Engine(endless, EngineSettings(max_batch=2), backend=slowly(endless, 0.1))
    with engine:
        long = engine.question(opened(engine), QUESTIONS[0], decoding=LONG)
        first, second, third = (engine.submit(replace(long, streams=True)) for _ in range(3))
        next(iter(first))
        next(iter(second))
        assert engine.running == 2 and engine.waiting == 1 and third.began is None
        first.cancel()
        with pytest.raises(CancelledError):
            first.result(10)
        next(iter(third))
        assert third.began - first.began < SOON_S  # of the twenty that the first would take
        third.cancel()
        second.cancel()
        second.cancel()
    assert engine.running == 0


def test_who_gives_up_while_waiting_is_never_answered(endless):
    class Seen(Observer):
        def __init__(self):
            self.outcomes = []

        def ended(self, outcome, seconds, usage):
            self.outcomes.append(outcome)

    observer = Seen()
    engine = Engine(endless, EngineSettings(max_batch=1), observer=observer, backend=slowly(endless, 0.01))
    with engine:
        running = engine.submit(engine.question(opened(engine), QUESTIONS[0], decoding=Decoding(max_new_tokens=30)))
        waiting = engine.submit(engine.question(opened(engine), QUESTIONS[1], decoding=SHORT))
        waiting.cancel()
        with pytest.raises(CancelledError):
            waiting.result(10)
        assert running.result(20).answer is not None
    assert observer.outcomes == ["cancelled", "answered"]


@pytest.mark.parametrize("max_batch", [1, 2])
def test_time_limits_hold_in_the_queue_and_in_the_batch(endless, max_batch):
    engine = Engine(endless, EngineSettings(max_batch=max_batch), backend=slowly(endless, 0.05))
    with engine:
        long = engine.question(opened(engine), QUESTIONS[0], decoding=LONG)
        first = engine.submit(long)
        hasty = engine.submit(replace(long, time_limit_s=1.5))
        with pytest.raises(TimeLimitError, match=r"within 1\.5 s"):
            hasty.result(10)
        assert (hasty.began is None) == (max_batch == 1)
        assert not first.done
        first.cancel()


def test_a_full_queue_says_when_to_come_again(endless):
    engine = Engine(endless, EngineSettings(max_batch=1, max_queue=4), backend=slowly(endless, 0.02))
    with engine:
        long = engine.question(opened(engine), QUESTIONS[0], decoding=LONG)
        tickets = [engine.submit(long)]
        while engine.waiting:
            time.sleep(0.01)
        tickets += [engine.submit(replace(long, client="greedy")) for _ in range(2)]
        with pytest.raises(BusyError, match="of this client wait already") as refused:
            engine.submit(replace(long, client="greedy"))
        assert 1 <= refused.value.retry_after_s <= 60
        tickets += [engine.submit(replace(long, client=str(k))) for k in range(2)]
        with pytest.raises(BusyError, match="4 questions wait already"):
            engine.submit(replace(long, client="late"))
        for ticket in tickets:
            ticket.cancel()


def test_clients_are_served_in_turn(assistant):
    order = []
    engine = Engine(assistant, EngineSettings(max_batch=1, max_queue=40), backend=slowly(assistant, 0.005))
    with engine:
        job = engine.question(opened(engine), QUESTIONS[0], decoding=Decoding(max_new_tokens=2))
        with engine._condition:  # so that all wait at once
            tickets = [
                engine.submit(replace(job, client=client), lambda _, name=client: order.append(name))
                for client in ["many"] * 10 + ["few"] * 2
            ]
        while not all(ticket.done for ticket in tickets):
            time.sleep(0.01)
    assert order.index("few") <= 2 and order[:6].count("few") == 2


def test_stopping_finishes_what_runs_or_tells_it(endless):
    engine = Engine(endless, backend=slowly(endless, 0.01))
    with pytest.raises(StoppedError):
        engine.submit(Job(picture=opened(engine), exchange=None))
    engine.start()
    job = engine.question(opened(engine), QUESTIONS[0], decoding=Decoding(max_new_tokens=20))
    tickets = [engine.submit(job) for _ in range(3)]
    assert engine.close() is True
    assert all(ticket.result(1).answer.text for ticket in tickets)
    with pytest.raises(StoppedError):
        engine.submit(job)

    engine = Engine(endless, backend=slowly(endless, 0.05))
    engine.start()
    ticket = engine.submit(replace(job, decoding=LONG))
    assert engine.close(timeout_s=0.1) is False
    with pytest.raises(StoppedError):
        ticket.result(1)


@pytest.mark.parametrize("bad", [{"max_batch": 0}, {"max_queue": 0}, {"picture_cache_bytes": -1}, {"max_pixels": 0}])
def test_settings_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        EngineSettings(**bad)

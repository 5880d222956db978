"""Chat completions with the real client of OpenAI, over a real port: the answers are those of the plain call."""

import json
import threading

import openai
import pytest
from hostile_judging import alike
from serving import data_url, served, user

from groma.engine.engine import EngineSettings
from groma.inference.generate import Decoding
from groma.serve.settings import ServeSettings
from small_models import picture

SHORT = 24
BOX, OTHER = [10, 10, 60, 70], [30, 20, 110, 85]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client, *messages, **more):
    options = {"model": "small", "max_tokens": SHORT} | more
    return client.chat.completions.create(messages=list(messages), **options)


def plain(server, image, question, **more):
    return server.assistant.ask(image, question, decoding=Decoding(max_new_tokens=SHORT), **more)


def assert_is(message, answer):
    """A reply's message against the plain answer."""
    assert message.content == answer.text
    grounding = message.grounding
    assert grounding["images"] == [
        {"width_px": answer.image_size_px[0], "height_px": answer.image_size_px[1], "start": 0, "end": len(answer.text)}
    ]
    assert [(e["phrase"], e["start"], e["end"], tuple(e["region_ids"])) for e in grounding["entities"]] == [
        (e.phrase, e.start, e.end, e.region_ids) for e in answer.entities
    ]
    for entity, plain_entity in zip(grounding["entities"], answer.entities, strict=True):
        assert entity["score"] == pytest.approx(plain_entity.score, abs=1e-4)
        assert entity["boxes_xyxy_px"] == [pytest.approx(list(box), abs=1e-2) for box in plain_entity.boxes_xyxy_px]
        assert grounding["regions"][entity["region_ids"][0]]["box_xyxy_px"] == entity["boxes_xyxy_px"][0]
    assert len(grounding["regions"]) == len(answer.regions)


# --- one question ----------------------------------------------------------------------------------------------------


def test_a_question(server, client):
    for number in range(4):
        reply = ask(client, user("What is in the picture?", picture(number)))
        answer = plain(server, picture(number), "What is in the picture?")
        assert_is(reply.choices[0].message, answer)
        assert reply.choices[0].finish_reason == answer.finish_reason
        assert reply.object == "chat.completion" and reply.model == "small"
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert 0 < reply.usage.completion_tokens <= SHORT


@pytest.mark.parametrize("beside", [True, False])
def test_regions_and_grounding(server, client, beside):
    """In the message, or beside the messages as `extra_body` of the client."""
    question = "Is [2] left of [1]?"
    answer = plain(server, picture(0), question, regions=[BOX, OTHER], grounded=False)
    fields = {"regions": [BOX, OTHER], "grounded": False}
    if beside:
        reply = ask(client, user(question, picture(0)), extra_body=fields)
    else:
        reply = ask(client, user(question, picture(0), **fields))
    assert_is(reply.choices[0].message, answer)
    grounding = reply.choices[0].message.grounding
    mine = {n: region for region in grounding["regions"] for n in region["numbers"]}
    assert mine[1]["box_xyxy_px"] == pytest.approx(BOX, abs=1e-3) and mine[1]["source"] == "user"
    assert grounding["grounded"] is False


def test_sampling_is_seeded(server, client):
    options = {"temperature": 1.0, "top_p": 0.9}
    said = [
        ask(client, user("Why?", picture(0)), seed=seed, **options).choices[0].message.content for seed in (1, 1, 2, 3)
    ]
    assert said[0] == said[1]
    assert len(set(said)) > 1
    decoding = Decoding(max_new_tokens=SHORT, temperature=1.0, top_p=0.9, seed=1)
    assert said[0] == server.assistant.ask(picture(0), "Why?", decoding=decoding).text


def test_the_picture_may_come_before_the_question(server, client):
    content = [{"type": "image_url", "image_url": {"url": data_url(picture(2)), "detail": "high"}}]
    reply = ask(client, {"role": "user", "content": content}, {"role": "user", "content": "Why?"})
    assert reply.choices[0].message.content == plain(server, picture(2), "Why?").text


# --- conversations ---------------------------------------------------------------------------------------------------


def test_a_conversation_goes_on_from_what_came_back(server, client):
    """The client's own message object is sent back; phrases keep their regions, and only what is new is read."""
    messages, history, read = [], [], 0
    for turn, question in enumerate(["What is in the picture?", "And [1]?", "Why?"]):
        boxes = [BOX] if turn == 1 else None
        more = {"regions": boxes} if boxes else {}
        messages.append(user(question, *([picture(3)] if turn == 0 else []), **more))
        reply = ask(client, *messages)
        answer = plain(server, picture(3), question, regions=boxes, history=history)
        assert_is(reply.choices[0].message, answer)
        assert reply.usage.prompt_tokens_details.cached_tokens >= read - 1
        read = reply.usage.prompt_tokens
        messages.append(reply.choices[0].message)
        history.append(answer)


def test_an_answer_that_comes_back_without_grounding_is_plain_text(server, client):
    reply = ask(
        client,
        user("What is in the picture?", picture(3)),
        {"role": "assistant", "content": "A red dog."},
        {"role": "user", "content": "Why?"},
    )
    assert reply.choices[0].message.content


def test_a_new_picture_begins_anew(server, client):
    reply = ask(
        client,
        user("What is in the picture?", picture(0)),
        {"role": "assistant", "content": "A red dog."},
        user("And here?", picture(1)),
    )
    assert_is(reply.choices[0].message, plain(server, picture(1), "And here?"))


def test_several_pictures_are_answered_one_by_one(server, client):
    images = [picture(n, size) for n, size in enumerate([(120, 90), (64, 200), (90, 90)])]
    reply = ask(client, user("What is this?", *images))
    message = reply.choices[0].message
    answers = [plain(server, image, "What is this?") for image in images]
    assert message.content == "\n\n".join(f"Image {n}: {answer.text}" for n, answer in enumerate(answers, start=1))
    for number, (image, answer) in enumerate(zip(message.grounding["images"], answers, strict=True)):
        assert message.content[image["start"] : image["end"]] == answer.text
        assert (image["width_px"], image["height_px"]) == answer.image_size_px
        named = [e for e in message.grounding["entities"] if e["image"] == number]
        assert [message.content[e["start"] : e["end"]] for e in named] == [e.phrase for e in answer.entities]
        assert len([r for r in message.grounding["regions"] if r["image"] == number]) == len(answer.regions)
    again = ask(client, user("What is this?", *images), message, {"role": "user", "content": "Why?"})
    second = [
        plain(server, image, "Why?", history=[answer]).text for image, answer in zip(images, answers, strict=True)
    ]
    assert [line for line in second if line] and again.choices[0].message.content == "\n\n".join(
        f"Image {n}: {text}" for n, text in enumerate(second, start=1)
    )


def test_a_system_message_is_left_out_and_that_is_told(server, client):
    reply = ask(client, {"role": "system", "content": "You are a pirate."}, user("Why?", picture(0)))
    assert_is(reply.choices[0].message, plain(server, picture(0), "Why?"))
    (warning,) = reply.choices[0].message.grounding["warnings"]
    assert "system message was left out" in warning


def test_what_became_of_boxes_is_told(client):
    reply = ask(client, user("Is [1] in [2]?", picture(0)), extra_body={"regions": [BOX, BOX]})
    assert reply.choices[0].message.grounding["warnings"] == [
        "boxes [1] and [2] overlap so much that they are one region"
    ]
    reply = ask(client, user("What is [1]?", picture(0)), extra_body={"regions": [[10, 10, 500, 70]]})
    assert reply.choices[0].message.grounding["warnings"] == [
        "box [1] reaches beyond the picture and was clipped to it"
    ]


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_streaming_says_the_same(server, client, count):
    named = 0
    for seed in range(12):
        images = [picture(n) for n in range(count)]
        options = {"temperature": 1.0, "seed": seed, "max_tokens": 40}
        whole = ask(client, user("What is in the picture?", *images), **options)
        chunks = list(
            ask(
                client,
                user("What is in the picture?", *images),
                stream=True,
                stream_options={"include_usage": True},
                **options,
            )
        )
        message = whole.choices[0].message
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert deltas[0].role == "assistant"
        assert "".join(delta.content or "" for delta in deltas) == message.content
        assert alike(deltas[-1].grounding, message.grounding)
        told = [entity for delta in deltas for entity in getattr(delta, "entities", None) or []]
        assert [entity.pop("index") for entity in told] == list(range(len(told)))
        assert alike(told, message.grounding["entities"])
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) == {None}
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert len({chunk.id for chunk in chunks}) == 1
        named += len(told)
    assert named > 4


def test_phrases_light_up_before_the_answer_ends(server, client):
    for seed in range(40):
        chunks = ask(client, user("What?", picture(0)), stream=True, temperature=1.0, seed=seed, max_tokens=60)
        kinds = ["entities" if getattr(c.choices[0].delta, "entities", None) else "text" for c in chunks]
        if "entities" in kinds[:-3]:
            return
    raise AssertionError("no phrase came before the end")


def test_a_client_that_goes_away_frees_its_place(endless):
    with served(endless, engine_settings=EngineSettings(max_batch=1), step_s=0.05) as server:
        options = {"max_tokens": 300}
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            for stream in (True, False):
                if stream:
                    reply = ask(client, user("What?", picture(0)), stream=True, **options)
                    next(iter(reply))
                    assert server.engine.running == 1
                    reply.close()
                else:
                    with pytest.raises(openai.APITimeoutError):
                        ask(client.with_options(timeout=0.5), user("What?", picture(0)), **options)
                server.wait_idle()
                assert server.send("GET", "/health")[1] == {"status": "ready"}
        text = server.send("GET", "/metrics")[1]
        assert 'groma_questions_total{outcome="cancelled"} 2.0' in text


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "No picture?"}]}, "no message has a picture"),
        ({"messages": [{"role": "assistant", "content": "Hm."}]}, "the last message must be a user's"),
        ({"n": 2}, "n: "),
        ({"tools": [{"type": "function"}]}, "tools: "),
        ({"stop": ["."]}, "stop: "),
        ({"logprobs": True}, "logprobs: "),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"region": [[1, 2, 3, 4]]}, "there is no field 'region': 'regions'?"),
        ({"regions": [[60, 10, 10, 70]]}, "is inverted"),
        ({"regions": [[500, 500, 600, 600]]}, "outside"),
        ({"regions": [[0.1, 0.1, 0.9, 0.9]]}, "looks normalized"),
        ({"regions": [[1, 2, 3]]}, "regions.0"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "context"),
        ({"seed": 2**63}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty: this cannot be done here: leave it out"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_told_in_one_sentence(server, change, text, stream):
    body = {"messages": [user("What is this?", picture(0))], "max_tokens": 8, "stream": stream} | change
    status, told, _ = server.send("POST", "/v1/chat/completions", body)
    assert status == 400
    assert set(told) == {"error"} and set(told["error"]) == {"message", "type", "param", "code"}
    assert text in told["error"]["message"] and "\n" not in told["error"]["message"]
    assert told["error"]["type"] == "invalid_request_error"


def test_the_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="no message has a picture"):
        ask(client, {"role": "user", "content": "What?"})


def test_a_grounding_that_was_tampered_with_is_refused(server, client):
    reply = ask(client, user("What is in the picture?", picture(3)), temperature=1.0, seed=1, max_tokens=60)
    message = json.loads(reply.choices[0].message.model_dump_json())
    for change in ({"start": -1}, {"end": 10_000}, {"phrase": "another"}, {"boxes_xyxy_px": [[1, 1, 1e9, 5]]}):
        entity = {"image": 0, "phrase": "", "start": 0, "end": 0, "boxes_xyxy_px": [[1, 1, 50, 50]]} | change
        bad = message | {"grounding": {"entities": [entity]}}
        body = {"messages": [user("What?", picture(3)), bad, user("Why?")], "max_tokens": 4}
        status, told, _ = server.send("POST", "/v1/chat/completions", body)
        assert (status == 400 and "grounding" in told["error"]["message"]) or change.keys() == {"boxes_xyxy_px"}


def test_a_full_queue_is_told_with_when_to_come_again(endless):
    with served(endless, engine_settings=EngineSettings(max_batch=1, max_queue=1), step_s=0.02) as server:
        body = {"messages": [user("Why?", picture(0))], "max_tokens": 30}
        replies = []

        def send():
            replies.append(server.send("POST", "/v1/chat/completions", body))

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted({status for status, _, _ in replies}) == [200, 429]
        for status, told, headers in replies:
            if status == 429:
                assert 1 <= int(headers["retry-after"]) <= 60
                assert told["error"]["type"] == "rate_limit_error"


def test_a_time_limit(endless):
    with served(endless, ServeSettings(port=0, time_limit_s=4.0), step_s=0.1) as server:
        body = {"messages": [user("What?", picture(0))], "max_tokens": 300}
        status, told, _ = server.send("POST", "/v1/chat/completions", body)
        assert status == 504 and "within 4 s" in told["error"]["message"]
        status, text, _ = server.send("POST", "/v1/chat/completions", body | {"stream": True})
        assert status == 200
        last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["type"] == "timeout_error"

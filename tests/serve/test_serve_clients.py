"""What clients really send: streaming helpers, everything they know as null, odd conversations, probes, forms."""

import gzip
import json
import threading
from http.client import HTTPConnection

import openai
import pytest
from serving import data_url, png, served, user

from groma.engine.engine import AT_LEAST, EngineSettings
from groma.serve.settings import ServeSettings
from small_models import endless_groma, picture

CHAT = "/v1/chat/completions"
ALL_KNOWN = (
    "audio", "function_call", "functions", "prediction", "prompt_cache_retention", "web_search_options", "stream",
    "temperature", "top_p", "seed", "stop", "tools", "tool_choice", "response_format", "regions",
)  # fmt: skip
"""Fields that clients write down without a value."""


def answered(server, *messages, **more):
    status, told, _ = server.send("POST", CHAT, {"messages": list(messages), "max_tokens": 6, **more})
    assert status == 200, told
    return told["choices"][0]["message"]


def refused(server, *messages, **more):
    status, told, _ = server.send("POST", CHAT, {"messages": list(messages), "max_tokens": 6, **more})
    assert status == 400
    return told["error"]["message"]


def test_the_clients_own_helper_puts_streams_together(server):
    """It merges what is in chunks: lists by the `index` of what they hold."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        for seed in range(40):
            options = {"model": "small", "temperature": 1.0, "seed": seed, "max_tokens": 60}
            messages = [user("What?", picture(0))]
            with client.chat.completions.stream(messages=messages, **options) as stream:
                for _ in stream:
                    pass
                message = stream.current_completion_snapshot.choices[0].message
            if len(message.grounding["entities"]) > 1:
                break
        assert [entity["index"] for entity in message.entities] == list(range(len(message.grounding["entities"])))
        more = [*messages, message.model_dump(), user("And now?")]
        assert client.chat.completions.create(messages=more, **options).choices[0].message.content


def test_fields_without_a_value_ask_for_nothing(server):
    plain = answered(server, user("What?", picture(1)))
    assert answered(server, user("What?", picture(1)), **dict.fromkeys(ALL_KNOWN))["content"] == plain["content"]
    empty = {"stop": [], "tools": [], "logit_bias": {}, "top_logprobs": 0, "frequency_penalty": 0, "n": 1, "seed": -1}
    assert answered(server, user("What?", picture(1)), **empty)["content"] == plain["content"]


PART = {"type": "text", "text": "What?"}
IMAGE = {"type": "image_url", "image_url": {"url": data_url(picture(1))}}


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([IMAGE, {"type": "input_audio", "input_audio": {}}], "messages.0.user.content.1"),
        ([IMAGE, PART | {"cache_control": {}}], "there is no field 'cache_control'"),
        ([IMAGE, "text"], "messages.0.user.content.1: "),
        (
            [IMAGE, {"type": "text", "text": None}],
            "messages.0.user.content.1.text.text: input should be a valid string",
        ),
        ([{"type": "image_url", "image_url": {}}], "messages.0.user.content.0.image_url.image_url.url: field required"),
        ({"text": "What?"}, "messages.0.user.content: input should be a valid string"),
    ],
)
def test_a_wrong_part_is_told_with_its_place(server, parts, told):
    assert told in refused(server, {"role": "user", "content": parts})


def test_a_picture_may_be_an_address_alone(server):
    short = [PART, {"type": "image_url", "image_url": data_url(picture(1))}]
    long = [PART, IMAGE]
    one, other = (answered(server, {"role": "user", "content": parts}) for parts in (short, long))
    assert one["content"] == other["content"]


def test_earlier_answers_may_be_of_another_kind(server):
    first = user("What?", picture(1))
    for content in (
        [{"type": "text", "text": "a dog", "annotations": []}],
        [{"type": "refusal", "refusal": "a dog"}],
        "a dog",
    ):
        past = {"role": "assistant", "content": content, "annotations": [], "tool_calls": None, "audio": None}
        said = answered(server, first, past, user("Why?"))["content"]
        assert said == answered(server, first, {"role": "assistant", "content": "a dog"}, user("Why?"))["content"]


def test_what_is_left_out_is_told(server):
    hello = {"role": "assistant", "content": "Hello!"}
    message = answered(server, hello, user("What?", picture(1)))
    assert message["grounding"]["warnings"] == ["the assistant's message before the first question was left out"]
    message = answered(server, user("What?", picture(1)), hello, user("And here?", picture(2)))
    assert message["grounding"]["warnings"] == ["earlier turns were left out, as they are about other pictures"]
    message = answered(server, user("What?", picture(1)), hello, user("Why?"))
    assert "warnings" not in message["grounding"]


def test_pictures_of_two_messages_in_a_row_are_both_asked_about(server):
    two = answered(server, user("First.", picture(1)), user("What?", picture(2)))
    assert len(two["grounding"]["images"]) == 2
    one = answered(server, user("First.", picture(1)), {"role": "assistant", "content": "x"}, user("What?", picture(2)))
    assert len(one["grounding"]["images"]) == 1


def test_an_answer_may_fill_the_context_unless_its_length_is_said(server):
    long = user("word " * 80, picture(1))
    body = {"messages": [long]}
    status, told, _ = server.send("POST", CHAT, body)
    assert status == 200, told
    usage, limit = told["usage"], server.engine.default_decoding.max_new_tokens
    context = server.assistant.model.config.language.max_position_embeddings
    assert context - usage["prompt_tokens"] < limit, "there is room for the longest answer: the test shows nothing"
    assert usage["total_tokens"] <= context
    assert "tokens are left for the answer (max_new_tokens; over HTTP max_tokens)" in refused(
        server, long, max_tokens=limit
    )
    assert limit > AT_LEAST


# --- the other addresses ---------------------------------------------------------------------------------------------


def test_many_questions_of_a_request_get_in_where_nothing_waits():
    body = {"image": data_url(picture(0)), "boxes": [[n, n, 60, 70] for n in range(12)]}
    assistant = endless_groma(seed=1, max_position_embeddings=160)  # where an answer has 80 tokens
    with served(assistant, engine_settings=EngineSettings(max_batch=2, max_queue=4)) as server:
        for _ in range(2):
            status, told, _ = server.send("POST", "/describe", body)
            assert status == 200 and len(told["descriptions"]) == 12
        replies: list[int] = []
        threads = [
            threading.Thread(target=lambda: replies.append(server.send("POST", "/describe", body)[0])) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(replies) == [200, 429, 429]
        text = server.send("GET", "/metrics")[1]
        assert 'groma_replies_total{status="429"} 2.0' in text
        assert 'outcome="cancelled"' not in text  # those who were not let in had not begun


def test_a_box_that_was_clipped_is_told(server):
    body = {"image": data_url(picture(0)), "boxes": [[5, 5, 60, 60], [-30, -30, 60, 60]]}
    _, told, _ = server.send("POST", "/describe", body)
    assert told["warnings"] == ["box 2 reaches beyond the picture and was clipped to it"]


def test_forms_say_what_they_mean(server):
    file = ("image", "a.png", png(picture(0)))
    for phrase in (b"true", b"[1]", b"red"):
        status, told = post_form(server, "/locate", file, ("phrase", phrase))
        assert status == 200, told
    status, told = post_form(server, "/describe", file, ("boxes", b"[1, 1, 50, 50]"), ("boxes", b"[5, 5, 60, 60]"))
    assert status == 400 and "'boxes' twice" in told["error"]["message"]


def post_form(server, path, file, *fields):
    """Status and reply to a form of a file and further fields."""
    name, filename, content = file
    head = '--limit\r\nContent-Disposition: form-data; name="{}"'
    parts = [(head + '; filename="{}"\r\n\r\n').format(name, filename).encode() + content]
    parts += [(head + "\r\n\r\n").format(key).encode() + text for key, text in fields]
    body = b"\r\n".join([*parts, b"--limit--\r\n"])
    kind = {"Content-Type": "multipart/form-data; boundary=limit"}
    status, told, _ = server.send("POST", path, body, **kind)
    return status, told


def test_compressed_bodies_are_refused_in_words(server):
    body = gzip.compress(json.dumps({"image": data_url(picture(0))}).encode())
    status, told, _ = server.send("POST", "/regions", body, **{"Content-Encoding": "gzip"})
    assert status == 415 and "compressed" in told["error"]["message"]


def test_probes_are_answered(server):
    """By the machine's address, without a host, for the head alone."""
    for method in ("GET", "HEAD"):
        for path in ("/health", "/v1/models", "/", "/page/app.js", "/metrics"):
            assert server.send(method, path)[0] == 200, (method, path)
        status, body, _ = server.send(method, "/health", Host="10.0.0.7")
        assert (status, body) == (200, {"status": "ready"} if method == "GET" else "")
    assert server.send("GET", "/v1/models", Host="10.0.0.7")[0] == 403
    assert server.send("HEAD", "/nothing")[0] == 404


def test_a_known_page_may_send_what_its_client_sends(assistant):
    origin = "https://pages.example.org"
    asked = "authorization,content-type,x-stainless-lang,x-stainless-retry-count,openai-organization"
    with served(assistant, ServeSettings(port=0, cors_origins=(origin,))) as server:
        connection = HTTPConnection("127.0.0.1", server.port)
        preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
        connection.request("OPTIONS", CHAT, headers={"Origin": origin, **preflight})
        reply = connection.getresponse()
        assert reply.status == 200 and reply.getheader("Access-Control-Allow-Headers") == asked
        connection.close()


def test_forms_keys_and_replies_are_described(assistant):
    with served(assistant, ServeSettings(port=0, api_keys=("a-key-of-the-tests-0123",))) as server:
        _, api, _ = server.send("GET", "/openapi.json")
    assert api["components"]["securitySchemes"]["key"]["scheme"] == "bearer" and api["security"] == [{"key": []}]
    for path, methods in api["paths"].items():
        for method in methods.values():
            assert "422" not in method["responses"]
        if "post" in methods:
            post = methods["post"]
            assert ("multipart/form-data" in post["requestBody"]["content"]) == (path != CHAT)
            assert post["responses"]["200"]["content"]["application/json"]["example"]
            assert {"400", "401", "403", "408", "413", "429", "500", "503", "504"} <= set(post["responses"])


def test_a_server_whose_engine_dies_ends(assistant):
    """Somebody starts it again; it does not stay and refuse for ever."""
    with served(assistant) as server:
        told: list[BaseException | None] = []
        server.service.on_failure = lambda: told.append(server.service.failure)
        server.engine._queue.pop = lambda: 1 / 0
        status, answer, _ = server.send("POST", "/regions", {"image": data_url(picture(7))})
        assert status == 503, answer
        assert isinstance(told[0], ZeroDivisionError) and server.service.state == "stopping"

"""How a server is set up: settings and keys, and what is refused of them."""

import re
from typing import Any

import pytest
from plain_requests import KEY, OTHER_KEY

from groma.cli.serve import read_keys
from groma.errors import InputError
from groma.serve.settings import ServeSettings, check_keys, is_key, is_loopback

# --- settings --------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"port": -1}, "port"),
    ({"port": 65536}, "port"),
    ({"max_body_bytes": 0}, "max_body_bytes"),
    ({"max_picture_bytes": -1}, "max_picture_bytes"),
    ({"max_pictures": 0}, "max_pictures"),
    ({"max_messages": 0}, "max_messages"),
    ({"max_connections": 0}, "max_connections"),
    ({"upload_time_s": 0}, "upload_time_s"),
    ({"time_limit_s": -1}, "time_limit_s"),
    ({"drain_time_s": NAN}, "drain_time_s"),
    ({"remote_time_s": -INF}, "remote_time_s"),
    ({"api_keys": ("short",)}, "API key 1"),
    ({"api_keys": (KEY, "key with a blank in it")}, "API key 2"),
    ({"api_keys": (KEY, KEY, "schl\u00fcssel-der-tests-0123")}, "API key 3"),
    ({"api_keys": ("line\nbreak-of-a-key-0123",)}, "API key 1"),
    ({"api_keys": ("\x00" * 20,)}, "API key 1"),
    ({"host": "0.0.0.0"}, "--open-to-all"),
    ({"host": "::"}, "--open-to-all"),
    ({"host": ""}, "--open-to-all"),
    ({"host": "192.168.0.1"}, "--open-to-all"),
    ({"host": "example.org"}, "--open-to-all"),
    ({"host": "[::]"}, "--open-to-all"),
    ({"host": "localhost.example.org"}, "--open-to-all"),
    ({"host": "127.0.0.1.example.org"}, "--open-to-all"),
    ({"host": "0"}, "--open-to-all"),
    ({"cors_origins": ("*",)}, "origin"),
    ({"cors_origins": ("null",)}, "origin"),
    ({"cors_origins": ("example.org",)}, "origin"),
    ({"cors_origins": ("https://example.org/",)}, "origin"),
    ({"cors_origins": ("https://example.org/page",)}, "origin"),
    ({"cors_origins": ("https://example.org", "ftp://example.org")}, "origin"),
]


@pytest.mark.parametrize(("values", "word"), REFUSED)
def test_settings_that_cannot_be(values, word):
    with pytest.raises(InputError, match=re.escape(word)) as caught:
        ServeSettings(**values)
    assert "\n" not in str(caught.value)
    for key in values.get("api_keys", ()):
        assert key not in str(caught.value)


# S2, was broken because infinity is taken, and breaks the server when it starts or stops
@pytest.mark.parametrize("name", ["upload_time_s", "drain_time_s", "remote_time_s"])
def test_times_are_finite(name):
    with pytest.raises(InputError, match=name):
        ServeSettings(**{name: INF})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"host": "localhost"},
        {"host": "::1"},
        {"host": "[::1]"},
        {"host": "127.8.8.8"},
        {"host": "0.0.0.0", "api_keys": (KEY,)},
        {"host": "0.0.0.0", "open_to_all": True},
        {"port": 0},
        {"port": 65535},
        {"cors_origins": ("https://example.org", "http://127.0.0.1:8080")},
    ],
)
def test_settings_that_can_be(values):
    ServeSettings(**values)


def test_keys_are_not_shown():
    assert KEY not in repr(ServeSettings(api_keys=(KEY,)))


def test_names_by_which_a_server_is_called():
    own = {"localhost", "127.0.0.1", "::1"}
    assert ServeSettings().hosts == own
    assert ServeSettings(host="[::1]").hosts == own
    assert ServeSettings(trusted_hosts=("Groma.Example.Org",)).hosts == own | {"groma.example.org"}
    assert ServeSettings(host="192.168.0.1", api_keys=(KEY,)).hosts == own | {"192.168.0.1"}
    assert "*" in ServeSettings(host="0.0.0.0", api_keys=(KEY,)).hosts
    named = ServeSettings(host="0.0.0.0", api_keys=(KEY,), trusted_hosts=("groma.example.org",))
    assert "*" not in named.hosts and "groma.example.org" in named.hosts


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.test", "127.1", "0", "::ffff:8.8.8.8", "x"]
)
def test_not_this_machine(host):
    assert not is_loopback(host)


def test_keys():
    keys = (KEY, OTHER_KEY)
    check_keys(keys)
    assert is_key(KEY, keys) and is_key(OTHER_KEY, keys)
    for given in (
        "",
        KEY[:-1],
        KEY + "x",
        KEY.upper(),
        " " + KEY,
        f"{KEY},{OTHER_KEY}",
        "\xff\xfe",
        "\udcff",
        "a" * 10**6,
    ):
        assert not is_key(given, keys)
    assert not is_key("", ())
    assert not is_key(KEY, ())


# --- keys of a file and of the environment ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_keys_around(monkeypatch):
    monkeypatch.delenv("GROMA_API_KEYS", raising=False)


def test_keys_are_read(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n  {KEY}  \r\n{OTHER_KEY}\n{KEY}\n")
    assert read_keys(file) == (KEY, OTHER_KEY)
    monkeypatch.setenv("GROMA_API_KEYS", f" {OTHER_KEY} ,,")
    assert read_keys(None) == (OTHER_KEY,)
    assert read_keys(file) == (OTHER_KEY, KEY)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_files_without_keys(tmp_path, content):
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(InputError):
        read_keys(file)


# S1, was broken because what is left out as a comment counts as a key before, so that the server asks for none
def test_a_file_of_comments_is_a_file_without_keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# our keys\n#{KEY}\n")
    with pytest.raises(InputError):
        read_keys(file)


# S1, was broken for the same reason
def test_a_key_of_the_environment_is_no_comment(monkeypatch):
    monkeypatch.setenv("GROMA_API_KEYS", f"#{KEY}")
    assert read_keys(None) == (f"#{KEY}",)

"""Pictures with described regions, made up, and a server to ask about them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_up import write_set

from chat_server import ChatServer

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy between the tests and their server, no key but the tests' own, no index outside of the test's folder."""
    for name in (*PROXIES, "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-tests")
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A server that answers everything, until a test gives it another behaviour."""
    with ChatServer() as running:
        yield running


@pytest.fixture
def made_up_set(tmp_path: Path) -> Callable[[int], tuple[Path, Path]]:
    """Makes a set of so many pictures; returns its annotation file and its folder of pictures."""
    return lambda count: write_set(tmp_path / "set", count)

"""Servers for the tests of this folder: Groma's, unless a test needs other limits, and one with pictures to fetch."""

import shutil
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from hostile_server import good_png
from serving import Served, served
from tls_server import Tls, ok

from groma.inference.assistant import Groma
from small_models import endless_groma, small_groma

FEW_REGIONS = 0.72
"""Threshold of objectness that leaves numbers for boxes of later turns."""


@pytest.fixture(scope="session")
def assistant() -> Groma:
    groma = small_groma(seed=1)
    groma.model.config.selection.score_threshold = FEW_REGIONS
    return groma


@pytest.fixture(scope="session")
def endless() -> Groma:
    """Whose answers are as long as they may be."""
    groma = endless_groma(seed=1)
    groma.model.config.selection.score_threshold = FEW_REGIONS
    return groma


@pytest.fixture(scope="module")
def server(assistant) -> Served:
    with served(assistant) as running:
        yield running
        running.wait_idle()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory) -> Iterator[Tls]:
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl, which makes the certificate, is missing")
    server = Tls(tmp_path_factory.mktemp("tls"))
    yield server
    server.close()


@pytest.fixture
def tls(tls_server: Tls) -> Tls:
    tls_server.requests.clear()
    tls_server.names.clear()
    tls_server.answer = lambda sock, _: sock.sendall(ok(good_png()))
    return tls_server

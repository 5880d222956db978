"""A server for https://pictures.test that speaks TLS and answers as told, and pictures that are fetched from it."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile_server import good_png

from groma.errors import InputError
from groma.serve.remote import RemotePictures


class Names:
    """Resolves names as told, and notes which were asked for."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def fetching(names: Callable[[str], list[str]], **more: Any) -> RemotePictures:
    return RemotePictures(**{"max_bytes": 100_000, "time_limit_s": 5.0, "resolver": names} | more)


def refusal(pictures: RemotePictures, url: str) -> str:
    with pytest.raises(InputError) as caught:
        pictures.fetch(url)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 300
    return text


class Tls:
    """A server for https://pictures.test at the loopback address; `answer` says what it does with a connection."""

    def __init__(self, folder: Path) -> None:
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", "/CN=pictures.test", "-addext", "subjectAltName=DNS:pictures.test,DNS:other.test"]
        files = ["-days", "2", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*command, *names, *files], check=True, capture_output=True, timeout=30)
        self.trusting = ssl.create_default_context(cafile=str(certificate))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self.answer: Callable[[ssl.SSLSocket, bytes], None] = lambda sock, _: sock.sendall(ok(good_png()))
        self.delay_s = 0.0
        self._context.sni_callback = lambda _sock, name, _context: self.names.append(name)
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="test-tls", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        self._sock.settimeout(0.1)
        while not self._ends.is_set():
            try:
                plain, _ = self._sock.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(60)
        try:
            with plain, self._context.wrap_socket(plain, server_side=True) as sock:
                head = b""
                while b"\r\n\r\n" not in head:
                    part = sock.recv(4096)
                    if not part:
                        return
                    head += part
                self.requests.append(head)
                self.answer(sock, head)
        except OSError:
            pass  # the client has gone

    def close(self) -> None:
        self._ends.set()
        self._thread.join(5)
        self._sock.close()

    def pictures(self, **more: Any) -> RemotePictures:
        """Fetches from here, whatever the name."""
        given = {"allowed": lambda _: True, "port": self.port, "context": self.trusting}
        return fetching(more.pop("names", Names(["127.0.0.1"])), **given | more)


# --- what it answers -------------------------------------------------------------------------------------------------


def ok(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body


def leading(*places: str, status: str = "302 Found") -> Callable[[ssl.SSLSocket, bytes], None]:
    """Redirects to these, one after the other; then the picture."""
    left = list(places)

    def answer(sock: ssl.SSLSocket, _: bytes) -> None:
        sock.sendall(ok(b"", f"Location: {left.pop(0)}", status=status) if left else ok(good_png()))

    return answer


def endless(sock: ssl.SSLSocket, _: bytes) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(1000):
        sock.sendall(b"x" * 10_000)


def chunked(sock: ssl.SSLSocket, _: bytes) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        sock.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")


def dripping(first: bytes, each: bytes) -> Callable[[ssl.SSLSocket, bytes], None]:
    """Sends a beginning, then something every now and then, for a minute."""

    def answer(sock: ssl.SSLSocket, _: bytes) -> None:
        sock.sendall(first)
        for _ in range(600):
            time.sleep(0.1)
            sock.sendall(each)

    return answer


@contextmanager
def plain_server(sent: bytes, wait_s: float = 0.0) -> Iterator[int]:
    """A server without TLS, for one connection."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)

        def serve() -> None:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock:
                sock.sendall(sent)
                done.wait(wait_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        done.set()
        thread.join(5)

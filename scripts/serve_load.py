"""Load on a running or freshly started server: one client at a time, then many; and memory over thousands of requests.

python scripts/serve_load.py --clients 32 --seconds 60
python scripts/serve_load.py --requests 2000

Clients are processes of their own on this machine, so their work is in the figures. Each asks four questions about a
picture (describe it, locate, describe a box, a second turn) and goes on to the next; pictures come round again.
"""

import base64
import io
import json
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from PIL import Image

from groma.data.scenes.scene import make_scene

PICTURES = 64
"""Different ones."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    clients: int = 32
    """Clients at once."""
    seconds: float = 60.0
    """Of each measurement."""
    requests: int = 0
    """Instead: so many requests from these clients, and what the server's memory does."""
    model: str = "groma-tiny"
    """Which model is served."""
    threads: int | None = None
    """Torch threads of the server; None: its default."""
    json: Path | None = None
    """Write the figures to this file."""


@dataclass(frozen=True)
class Sent:
    """One request."""

    began: float
    seconds: float
    status: int
    tokens: int


class Pictures:
    """Data URLs of scenes, and a box in each."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.boxes: list[list[float]] = []
        for number in range(PICTURES):
            scene = make_scene("test", number, 5, size_px=224)
            file = io.BytesIO()
            Image.fromarray(scene.image).save(file, "JPEG", quality=90)
            self.urls.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
            self.boxes.append([float(value) for value in scene.objects[0].box_xyxy_px])


def questions(pictures: Pictures, number: int) -> list[tuple[str, Callable[[Any], dict[str, Any]]]]:
    """Path -> body, given the reply before."""
    url, box = pictures.urls[number], pictures.boxes[number]
    first = {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "Describe the image in detail."},
        ],
    }
    second = {"role": "user", "content": "What is [1]?", "regions": [box]}
    chat = "/v1/chat/completions"
    return [
        (chat, lambda _: {"messages": [first]}),
        (chat, lambda reply: {"messages": [first, reply["choices"][0]["message"], second]}),
        ("/locate", lambda _: {"image": url, "phrase": "the animal"}),
        ("/describe", lambda _: {"image": url, "boxes": [box]}),
    ]


def client(port: int, place: int, count: int, until: float, limit: int, results: Any) -> None:
    """Several clients, each a thread, of one process."""
    pictures, sent = Pictures(), list[Sent]()

    def run(own: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        number, left, reply = own * 7, limit, None
        while time.monotonic() < until and left > 0:
            for path, body in questions(pictures, number % PICTURES):
                began = time.monotonic()
                try:
                    connection.request("POST", path, json.dumps(body(reply)), {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    reply = json.loads(answer.read())
                    status = answer.status
                except (OSError, HTTPException, ValueError, KeyError):
                    connection.close()
                    status, reply = 0, None
                tokens = (reply or {}).get("usage", {}).get("completion_tokens", 0)
                sent.append(Sent(began, time.monotonic() - began, status, tokens))
                left -= 1
                if time.monotonic() >= until or left <= 0 or status != 200:
                    break
            number += 1

    threads = [threading.Thread(target=run, args=(place + k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(sent)


def measure(port: int, clients: int, seconds: float, *, limit: int = 10**9) -> list[Sent]:
    """So many clients for so long."""
    context = multiprocessing.get_context("spawn")
    results, per = context.Queue(), 16
    until = time.monotonic() + seconds + 8  # processes take a moment to begin
    groups = [(first, min(per, clients - first)) for first in range(0, clients, per)]
    processes = [context.Process(target=client, args=(port, a, n, until, limit, results)) for a, n in groups]
    for process in processes:
        process.start()
    sent = [one for _ in processes for one in results.get()]
    for process in processes:
        process.join()
    begin = max(min(one.began for one in sent), until - seconds) if limit == 10**9 else 0
    return [one for one in sent if one.began >= begin]


def told(sent: list[Sent]) -> dict[str, Any]:
    """Figures of a measurement."""
    good = [one for one in sent if one.status == 200]
    seconds = max(one.began + one.seconds for one in sent) - min(one.began for one in sent)
    times = np.array([one.seconds for one in good])
    return {
        "requests": len(sent),
        "errors": len(sent) - len(good),
        "requests_per_s": round(len(good) / seconds, 2),
        "p50_ms": round(float(np.quantile(times, 0.5)) * 1000, 1),
        "p95_ms": round(float(np.quantile(times, 0.95)) * 1000, 1),
        "p99_ms": round(float(np.quantile(times, 0.99)) * 1000, 1),
    }


def start(options: Options) -> tuple[subprocess.Popen[str], int]:
    """A server of its own on a free port."""
    command = [sys.executable, "-m", "groma.cli", "serve", options.model, "--port", "0", "--log-level", "warning"]
    command += [] if options.threads is None else ["--threads", str(options.threads)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    found = None
    while found is None:
        line = server.stderr.readline()
        if not line:
            raise SystemExit("the server did not start")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    threading.Thread(target=lambda: [sys.stderr.write(line) for line in server.stderr], daemon=True).start()  # pyright: ignore
    port = int(found[1])
    while True:
        connection = HTTPConnection("127.0.0.1", port)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return server, port
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)


def main() -> None:
    options = tyro.cli(Options)
    server, port = start(options)
    process = psutil.Process(server.pid)
    figures: dict[str, Any] = {}
    try:
        measure(port, 4, 5)  # caches of code are warm then
        if options.requests:
            rounds = []
            for _ in range(5):
                measure(port, options.clients, 600, limit=-(-options.requests // (4 * options.clients)))
                rounds.append(round(process.memory_info().rss / 2**20, 1))
                print(f"memory: {rounds[-1]} MiB", file=sys.stderr)
            figures["memory_mib"] = rounds
            figures["growth"] = round(rounds[-1] / rounds[0] - 1, 4)  # the first round fills the caches
        else:
            for name, clients in (("one", 1), ("many", options.clients)):
                figures[name] = {"clients": clients} | told(measure(port, clients, options.seconds))
                print(f"{name}: {figures[name]}", file=sys.stderr)
            figures["ratio"] = round(figures["many"]["requests_per_s"] / figures["one"]["requests_per_s"], 2)
    finally:
        server.terminate()
        figures["stopped_with"] = server.wait(60)
    print(json.dumps(figures, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

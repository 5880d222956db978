"""Shards behind HTTP: a real server that fails, cuts short and damages what it sends."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context

import pytest

from groma.data import remote
from groma.data.annotated_set import LooseSet
from groma.data.augment import WHOLE
from groma.data.batches import MicroBatches, Share
from groma.data.lessons import DetectionLessons
from groma.data.mixture import open_mixture, read_data
from groma.data.packed import PackedSet, pack
from groma.data.plan import MixturePlan
from groma.data.remote import UnreachableError
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import make_scene
from groma.data.sources import Source
from groma.errors import InputError
from groma.image import Preprocessing
from groma.train.mixture_stream import MixtureStream

pytest.importorskip("aiohttp")


class Server:
    """Serves a folder; `faults` says how the next answers to a path go wrong."""

    def __init__(self, folder):
        self.asked: list[str] = []
        self.faults: dict[str, list[str]] = {}
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                name = self.path.removeprefix("/")
                server.asked.append(name)
                fault = server.faults[name].pop(0) if server.faults.get(name) else ""
                if fault == "error":
                    return self.send_error(503)
                if not fault:
                    return super().do_GET()
                content = (folder / name).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if fault == "cut":
                    self.wfile.write(content[: len(content) // 2])
                else:
                    self.wfile.write(content[:600] + bytes([content[600] ^ 1]) + content[601:])
                self.close_connection = True

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()

    def fetched(self, shard):
        return self.asked.count(shard.name)


@pytest.fixture
def loose(tmp_path, monkeypatch) -> LooseSet:
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    scenes = [make_scene("train", index, 42, size_px=64) for index in range(24)]
    return LooseSet(Source(export_scenes(scenes, "coco", tmp_path / "loose"), "coco"), tmp_path / "loose" / PICTURES)


@pytest.fixture
def server(loose, tmp_path):
    pack(loose, tmp_path / "packed", shard_bytes=30_000)
    one = Server(tmp_path / "packed")
    yield one
    one.close()


def test_samples_are_the_same_and_shards_fetched_once(loose, server):
    away = PackedSet(server.url)
    assert len(away.shards) > 2
    assert [away.annotation(k) for k in range(len(away))] == [loose.annotation(k) for k in range(len(loose))]
    assert PackedSet(server.url).sample(3).annotation == loose.sample(3).annotation
    assert [server.fetched(shard) for shard in away.shards] == [1] * len(away.shards)


@pytest.mark.parametrize("fault", ["error", "cut", "damaged"])
def test_what_fails_is_tried_again(loose, server, fault):
    away = PackedSet(server.url)
    server.faults[away.shards[0].name] = [fault] * 2
    assert away.annotation(0) == loose.annotation(0)
    assert server.fetched(away.shards[0]) == 3


@pytest.mark.parametrize(
    ("fault", "told"), [("error", "503"), ("cut", "Not enough data"), ("damaged", "another checksum")]
)
def test_what_fails_for_long_ends_a_run_and_leaves_nothing_half_written(server, tmp_path, fault, told):
    away = PackedSet(server.url)
    server.faults[away.shards[0].name] = [fault] * 100
    with pytest.raises(UnreachableError, match=rf"shard-000000\.tar could not be fetched in 5 attempts: .*{told}"):
        away.sample(0)  # not counted as a bad sample: it is none
    assert [file for file in (tmp_path / "cache" / "shards").iterdir() if not file.name.endswith(".lock")] == []


def test_what_is_not_there_is_told_at_once(server, tmp_path):
    with pytest.raises(InputError, match=r"nowhere/shards\.json cannot be fetched"):
        PackedSet(f"{server.url}/nowhere")
    assert server.asked.count("nowhere/shards.json") == 1
    (tmp_path / "packed" / "shards.json").write_text("no list")
    with pytest.raises(InputError, match="not a readable JSON file"):
        PackedSet(server.url)


def test_a_set_that_was_packed_anew_is_not_read_from_old_shards(loose, server, tmp_path):
    before = PackedSet(server.url).annotation(0)
    for file in (tmp_path / "packed").iterdir():
        file.unlink()
    (tmp_path / "loose" / PICTURES / "000000.png").unlink()
    pack(loose, tmp_path / "packed", shard_bytes=30_000)
    assert PackedSet(server.url).annotation(0) == loose.annotation(1) != before


def test_the_cache_can_be_bounded(loose, server, tmp_path, monkeypatch):
    sizes = [shard.size_bytes for shard in PackedSet(server.url).shards]
    monkeypatch.setenv("GROMA_SHARD_CACHE_GB", str(2 * max(sizes) / 1e9))
    away = PackedSet(server.url)
    shards = tmp_path / "cache" / "shards"
    for k in range(len(away)):  # those that had to go are still open, and read
        assert away.annotation(k) == loose.annotation(k)
        assert sum(file.stat().st_size for file in shards.glob("*.tar")) <= 2 * max(sizes)
    assert PackedSet(server.url).annotation(0) == loose.annotation(0)
    assert server.fetched(away.shards[0]) == 2
    monkeypatch.setenv("GROMA_SHARD_CACHE_GB", "much")
    with pytest.raises(InputError, match="expected a number of gigabytes"):
        PackedSet(server.url)


def first_annotation(url):
    return PackedSet(url).annotation(0)


def test_processes_wait_for_one_that_fetches(loose, server):
    with get_context("spawn").Pool(3) as pool:
        assert pool.map(first_annotation, [server.url] * 3) == [loose.annotation(0)] * 3
    assert server.asked.count("shard-000000.tar") == 1


def test_workers_stream_a_mixture_from_a_server(loose, server, tmp_path):
    text = f"sets:\n  - {{set: coco, packed: {server.url}}}\n"
    (tmp_path / "mixture.yaml").write_text(text)
    opened = read_data(tmp_path / "mixture.yaml")
    sets, afresh = open_mixture(opened), open_mixture(opened)
    sets[0].data.sample(0)  # the parent has used its connection when workers are forked
    plan = MixturePlan([one.data for one in sets], [one.share for one in sets], samples_per_step=4, seed=1)
    lessons = DetectionLessons(preprocessing=Preprocessing(size_px=56), augmentation=WHOLE)
    micro_batches = MicroBatches(sets, plan, Share(batch_size=4), lessons)
    streams = [MixtureStream(micro_batches, workers=workers) for workers in (0, 2)]
    batches = [[stream.next() for _ in range(6)] for stream in streams]
    for ours, theirs in zip(*batches, strict=True):
        assert ours.images.equal(theirs.images) and len(ours) == 4
    assert sum(len(batch) for batch in batches[0]) == len(loose)
    del streams
    for file in (tmp_path / "cache" / "shards").glob("*.tar"):
        file.unlink()
    server.faults = {shard.name: ["error"] * 100 for shard in afresh[0].data.shards}
    for workers in (0, 1):
        anew = MicroBatches(afresh, plan, Share(batch_size=4), lessons)
        with pytest.raises(UnreachableError, match=r"^http.* could not be fetched in 5 attempts: [^\n]*$"):
            MixtureStream(anew, workers=workers).next()

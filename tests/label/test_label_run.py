"""Runs in one process: bad pictures, resuming, shares, retries, folders of other runs, and that nothing is lost."""

import json
import threading
from collections import Counter
from functools import partial

import pytest
from label_inputs import FIRST_WIDTH, folder, job, jpeg, rows
from label_workers import Echo, nobody, watcher
from PIL import Image

from groma.curate.journal import Journal
from groma.errors import InputError
from groma.evaluate.questions import Named
from groma.label.folder import FAILURES, LABELS, PARTS, RUN, LabelFolder, Share
from groma.label.inputs import open_input
from groma.label.labeller import Outcome
from groma.label.run import Watching, Workers, label
from groma.label.tasks import Label

COUNT = 10
HERE = Workers(count=0)
PART = f"{PARTS}/labels-1-of-1.jsonl"


@pytest.fixture
def photos(tmp_path):
    return folder(tmp_path / "photos", COUNT)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def seen(log) -> Counter:
    """Number of a picture -> how often it was seen."""
    return Counter(int(line) - FIRST_WIDTH for line in log.read_text().splitlines()) if log.exists() else Counter()


def stopping_after(count):
    """An interruption after so many pictures, and what must be told of progress."""
    interrupted = threading.Event()
    return Watching(interrupted=interrupted, on_progress=lambda tally: tally.done >= count and interrupted.set())


def texts(out) -> list[int]:
    return [int(row["text"]) - FIRST_WIDTH for row in rows(out / LABELS)]


def in_order(photos) -> list[int]:
    """Numbers of the pictures in the order of their keys."""
    return [int(item.key[-7:-4]) for item in open_input([str(photos)]).items]


def test_bad_pictures_are_counted_and_stop_nothing(photos, tmp_path):
    (photos / "000-empty.jpg").write_bytes(b"")
    (photos / "000-cut.jpg").write_bytes(jpeg(1)[:-200])
    (photos / "000-text.png").write_bytes(b"hello")
    (photos / "000-heic.heic").write_bytes(b"\0\0\0\x18ftypheic")
    Image.new("1", (12_000, 12_000)).save(photos / "000-huge.png")
    (photos / "000-gone.jpg").symlink_to(tmp_path / "nothing")
    (photos / "000-folder.jpg").mkdir()  # has no pictures: nothing to label
    out = tmp_path / "out"
    report = label(job(photos, out, workers=HERE, load=watcher))
    assert (report.pictures, report.labelled, report.failed, report.complete) == (COUNT + 6, COUNT, 6, True)
    assert len(report.examples) == 3
    reasons = {row["key"]: row["reason"] for row in rows(out / FAILURES)}
    for key, told in {
        "000-empty.jpg": "is empty (0 bytes)",
        "000-cut.jpg": "damaged or cut off",
        "000-text.png": "not a picture of a known format",
        "000-heic.heic": "HEIC",
        "000-huge.png": "144,000,000 pixels, but at most 100,000,000",
        "000-gone.jpg": "does not exist",
    }.items():
        assert told in reasons.pop(key)
    assert not reasons and texts(out) == in_order_of_labels(out)


def in_order_of_labels(out) -> list[int]:
    return [int(row["key"][-7:-4]) for row in rows(out / LABELS)]


def test_an_error_of_one_picture_is_its_own(photos, tmp_path):
    load = partial(watcher, wrong=frozenset({FIRST_WIDTH + 4}))
    report = label(job(photos, tmp_path / "out", workers=HERE, load=load, batch_size=8))
    assert (report.labelled, report.failed) == (COUNT - 1, 1)
    assert rows(tmp_path / "out" / FAILURES) == [{"key": "004.jpg", "reason": "RuntimeError: wrong in two lines"}]


def test_a_score_that_is_no_number_is_a_failure(photos, tmp_path, monkeypatch):
    def labels(self, assistant, pictures, boxes):
        scores = [float("nan") if picture.width == FIRST_WIDTH + 4 else 0.5 for picture in pictures]
        return [
            Label(entities=(Named(phrase="", start=0, end=0, boxes_xyxy_px=((0, 0, 9, 9),), scores=(score,)),))
            for score in scores
        ]

    monkeypatch.setattr(Echo, "label", labels)
    report = label(job(photos, tmp_path / "out", workers=HERE, load=watcher))
    assert (report.labelled, report.failed, report.boxes) == (COUNT - 1, 1, COUNT - 1)
    assert "cannot be written as JSON" in rows(tmp_path / "out" / FAILURES)[0]["reason"]


def test_a_stopped_run_goes_on_and_labels_nothing_twice(photos, tmp_path, log):
    out, load = tmp_path / "out", partial(watcher, log=log)
    report = label(job(photos, out, workers=HERE, load=load), stopping_after(4))
    assert (report.labelled, report.left, report.complete) == (6, 4, False) and not (out / LABELS).exists()
    report = label(job(photos, out, workers=HERE, load=load, batch_size=4, formats=("coco",)))
    assert (report.labelled, report.done_before, report.complete) == (4, 6, True)
    assert seen(log) == Counter(range(COUNT)) and texts(out) == in_order(photos)
    before = (out / LABELS).read_bytes()
    report = label(job(photos, out, workers=HERE, load=load, formats=("parquet",)))
    assert (report.labelled, report.done_before) == (0, COUNT) and (out / "labels.parquet").exists()
    assert (out / LABELS).read_bytes() == before and seen(log) == Counter(range(COUNT))


def test_half_a_line_is_dropped_and_done_again(photos, tmp_path, log):
    out, load = tmp_path / "out", partial(watcher, log=log)
    label(job(photos, out, workers=HERE, load=load), stopping_after(4))
    lines = (out / PART).read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    (out / PART).write_bytes(lines[0] + lines[1][:-9])
    report = label(job(photos, out, workers=HERE, load=load))
    assert (report.labelled, report.done_before) == (7, 3) and texts(out) == in_order(photos)
    twice = [number for number, count in seen(log).items() if count > 1]
    assert sorted(twice) == sorted(in_order(photos)[3:6]), "only what the half line was about"


def test_a_damaged_line_is_told(photos, tmp_path):
    out = tmp_path / "out"
    label(job(photos, out, workers=HERE, load=watcher), stopping_after(7))
    lines = (out / PART).read_bytes().splitlines(keepends=True)
    (out / PART).write_bytes(lines[0] + b"{oops}\n" + lines[2])
    with pytest.raises(InputError, match=r"labels-1-of-1.jsonl, line 2 is damaged .*: remove that line"):
        label(job(photos, out, workers=HERE, load=watcher))
    (out / PART).write_bytes(lines[0] + lines[2])
    label(job(photos, out, workers=HERE, load=watcher))
    assert texts(out) == in_order(photos)


OTHER = {
    "task": ({"task": "detect"}, 'task is "detect", there "echo"'),
    "question": ({"options": {"question": "Why?"}}, 'question is "Why\\?", there null'),
    "model": ({"load": partial(watcher, weight=1.0)}, 'model is "'),
}


@pytest.mark.parametrize("case", OTHER)
def test_labels_of_other_settings_are_not_mixed(photos, tmp_path, case):
    out = tmp_path / "out"
    label(job(photos, out, workers=HERE, load=watcher), stopping_after(4))
    before = (out / PART).read_bytes()
    changes, told = OTHER[case]
    with pytest.raises(InputError, match=f"out holds another run: .*{told}.*Give a new folder"):
        label(job(photos, out, **{"workers": HERE, "load": watcher} | changes))
    assert (out / PART).read_bytes() == before
    label(job(photos, out, workers=HERE, load=watcher))
    with pytest.raises(InputError, match="holds another run"):  # a finished one, too
        label(job(photos, out, **{"workers": HERE, "load": watcher} | changes))


def test_folders_that_cannot_be_used(photos, tmp_path):
    with pytest.raises(InputError, match="is the input itself"):
        label(job(photos, photos, workers=HERE, load=watcher))
    with pytest.raises(InputError, match=r"holds something else than labels \(000.jpg\)"):
        label(job(photos, photos / "below", workers=HERE, load=watcher))
    (tmp_path / "file").write_text("")
    for out, told in (tmp_path / "file", "is a file"), (tmp_path / "file" / "out", "cannot be written"):
        with pytest.raises(InputError, match=told):
            label(job(photos, out, workers=HERE, load=watcher))
    out = tmp_path / "out"
    with pytest.raises(InputError, match="there is no such model"):
        label(job(photos, out, workers=HERE, load=nobody))
    with Journal(out / PART), pytest.raises(InputError, match="another run is at work here"):
        label(job(photos, out, workers=HERE, load=watcher))
    assert label(job(photos, out, workers=HERE, load=watcher)).complete, "a model that was missing leaves no traces"


def test_a_folder_may_lie_in_its_input(photos):
    label(job(photos, photos / "labels", workers=HERE, load=watcher))
    assert label(job(photos, photos / "labels", workers=HERE, load=watcher)).done_before == COUNT


def test_failures_are_tried_again_when_asked(photos, tmp_path, log):
    out = tmp_path / "out"
    (photos / "gone.jpg").symlink_to(tmp_path / "nothing")
    (photos / "bad.jpg").write_bytes(b"bad")
    load = partial(watcher, log=log)
    assert label(job(photos, out, workers=HERE, load=load)).failed == 2
    (tmp_path / "nothing").write_bytes(jpeg(77))
    assert label(job(photos, out, workers=HERE, load=load)).labelled == 0
    (photos / "bad.jpg").write_bytes(b"")
    report = label(job(photos, out, workers=HERE, load=load, retry_failed=True))
    assert (report.labelled, report.failed, report.done_before) == (1, 1, COUNT)
    assert seen(log) == Counter([*range(COUNT), 77]) and len(rows(out / LABELS)) == COUNT + 1
    (failure,) = rows(out / FAILURES)
    assert failure["key"] == "bad.jpg" and "0 bytes" in failure["reason"], "the last reason counts"


def test_a_few_first_and_then_all(photos, tmp_path, log):
    out, load = tmp_path / "out", partial(watcher, log=log)
    report = label(job(photos, out, workers=HERE, load=load, limit=4))
    assert (report.pictures, report.labelled, report.complete) == (4, 4, True) and texts(out) == in_order(photos)[:4]
    report = label(job(photos, out, workers=HERE, load=load))
    assert (report.labelled, report.done_before) == (6, 4)
    label(job(photos, out, workers=HERE, load=load, limit=2))
    assert texts(out) == in_order(photos) and seen(log) == Counter(range(COUNT)), "what is there stays"


def test_files_in_other_formats_do_not_go_stale(photos, tmp_path):
    label(job(photos, tmp_path / "out", limit=3, formats=("jsonl", "coco"), workers=HERE, load=watcher))
    label(job(photos, tmp_path / "out", workers=HERE, load=watcher))
    coco = json.loads((tmp_path / "out" / "labels.coco.json").read_text())
    assert len(coco["images"]) == len(rows(tmp_path / "out" / "labels.jsonl")) > 3


def test_shares_are_the_whole(photos, tmp_path, log):
    out, load = tmp_path / "out", partial(watcher, log=log)
    for number in (2, 3, 1):
        report = label(job(photos, out, workers=HERE, load=load, share=Share(number, 3)))
        assert report.complete == (number == 1) and report.left == 0
        assert (out / f"report-{number}-of-3.json").exists()
    assert seen(log) == Counter(range(COUNT)) and texts(out) == in_order(photos) and not (out / PARTS).exists()
    sizes = [len(Share(number, 7).of(COUNT)) for number in range(1, 8)]
    assert sum(sizes) == COUNT and max(sizes) - min(sizes) <= 1


def test_shares_that_overlap_give_each_picture_once(photos, tmp_path):
    """As when somebody starts two machines with different numbers of shares."""
    out = tmp_path / "out"
    items = open_input([str(photos)]).items
    first = job(photos, out, workers=HERE, load=watcher, share=Share(1, 2))
    label(first)
    other = LabelFolder(out, items, Share(1, 3))
    run = json.loads((out / RUN).read_text())
    other.open({key: value for key, value in run.items() if key not in ("model", "dtype")})
    other.append(Outcome(rows=((0, {"key": items[0].key, "text": "9999"}),), failures=((1, "no"), (9, "bad luck"))))
    report = label(job(photos, out, workers=HERE, load=watcher))
    assert report.done_before == 6 and texts(out) == in_order(photos)[:9]
    assert (out / PARTS / "labels-1-of-3.jsonl").exists(), "its owner may still write there"
    other.close()
    label(job(photos, out, workers=HERE, load=watcher))
    assert not (out / PARTS).exists() and texts(out) == in_order(photos)[:9]


def test_too_many_bad_pictures(photos, tmp_path):
    for number in range(3):
        (photos / f"bad-{number}.jpg").write_bytes(b"")
    wanted = {"workers": HERE, "load": watcher}
    with pytest.raises(InputError, match=r"3 of 9 pictures failed, more than --max-bad 0.2 allows, one as picture"):
        label(job(photos, tmp_path / "out", max_bad=0.2, **wanted))
    report = label(job(photos, tmp_path / "out", max_bad=0.3, **wanted))
    assert (report.done_before, report.labelled, report.complete) == (9, 4, True)


def test_a_full_disk_loses_nothing(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    append, calls = Journal.append, []

    def full(journal, value):
        calls.append(value)
        if len(calls) == 2:
            raise InputError("cannot be written to: No space left on device; nothing is lost.")
        return append(journal, value)

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(InputError, match="No space left"):
        label(job(photos, out, workers=HERE, load=watcher))
    assert label(job(photos, out, workers=HERE, load=watcher)).done_before == 3 and texts(out) == in_order(photos)


def test_a_finished_folder_without_some_of_its_labels(photos, tmp_path, log):
    """Somebody took a line away, or put a strange one in."""
    out, load = tmp_path / "out", partial(watcher, log=log)
    label(job(photos, out, workers=HERE, load=load))
    lines = (out / LABELS).read_text().splitlines(keepends=True)
    (out / LABELS).write_text("".join(lines[:2] + lines[3:]))
    assert label(job(photos, out, workers=HERE, load=load)).labelled == 1
    assert (out / LABELS).read_text() == "".join(lines)
    (out / LABELS).write_text("".join(lines) + '{"key": "strange.jpg"}\n')
    with pytest.raises(InputError, match=r"labels.jsonl, line 11 is damaged \(KeyError: 'strange.jpg'\)"):
        label(job(photos, out, workers=HERE, load=load))

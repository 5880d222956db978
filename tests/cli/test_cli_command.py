"""The command itself: help without heavy imports, exit statuses, usage errors, warnings, the debug switch."""

import json
import os
import signal
import subprocess
import sys

import pytest
from commands import sentence
from PIL import Image

from groma.cli import main
from groma.cli.arguments import spell_out_regions

HEAVY = {"torch", "transformers", "numpy", "PIL", "scipy", "safetensors", "tokenizers"}


def in_a_process(*arguments, code="from groma.cli import main; sys.exit(main(sys.argv[1:]))", **environment):
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


MEASURED = """
import resource
from groma.cli import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(repr((status, used.ru_utime + used.ru_stime, sorted({name.partition('.')[0] for name in sys.modules}))),
      file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([c, "--help"] for c in ("ask", "locate", "regions", "train", "data", "curate", "evaluate", "info")),
        ["train", "detect", "--help"],
    ],
    ids=" ".join,
)
def test_help_is_instant(arguments):
    """Under a second of processor time (the clock would also count what else the machine does), nothing heavy."""
    pytest.importorskip("resource")  # not on Windows
    done = in_a_process(*arguments, code=MEASURED)
    status, seconds, modules = eval(done.stderr.splitlines()[-1])
    assert status == 0
    assert done.stdout
    assert HEAVY.isdisjoint(modules)
    assert seconds < 1.0


def test_every_command_is_in_the_help(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    commands = ("ask", "locate", "describe", "regions", "train", "data", "curate", "evaluate", "convert", "info")
    assert all(f"• {command}" in shown for command in commands)


def test_version(groma):
    assert groma("--version").out.startswith("groma 0.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Expected one of"),
        (["asc"], "Available subcommands"),
        (["ask", "x.png"], "Missing from groma ask"),
        (["ask", "x.png", "q", "--temperatur", "1"], "--temperature"),
        (["ask", "x.png", "q", "--temperature", "warm"], "could not convert"),
        (["ask", "x.png", "q", "--region"], "--region"),
        (["ask", "x.png", "q", "--dtype", "int8"], "float32"),
    ],
)
def test_usage_errors(groma, arguments, expected):
    ran = groma(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert expected in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["ask", "a.png", "q"], ["ask", "a.png", "q"]),
        (["--region", "1,2,3,4", "a.png"], ["--region=1,2,3,4", "a.png"]),
        (["--region", "-1,2,3,4", "-5,6,7,8", "q"], ["--region=-1,2,3,4", "--region=-5,6,7,8", "q"]),
        (["--region=1,2,3,4", "[5, 6, 7, 8]"], ["--region=1,2,3,4", "--region=[5, 6, 7, 8]"]),
        (["--region", "1,2,3,4", "What, then?"], ["--region=1,2,3,4", "What, then?"]),
        (["--region", "1,2,3,4", "3 dogs, or 4?"], ["--region=1,2,3,4", "3 dogs, or 4?"]),
        (["--region", "1,2,3,4", "1.5, -2e1 ,nan,inf"], ["--region=1,2,3,4", "--region=1.5, -2e1 ,nan,inf"]),
        (["--region", "x"], ["--region=x"]),
        (["--region", "--json"], ["--region", "--json"]),
        (["--region"], ["--region"]),
        (["a.png", "1,2"], ["a.png", "1,2"]),
        (["--", "--region", "1,2,3,4"], ["--", "--region", "1,2,3,4"]),
    ],
)
def test_regions_are_spelled_out(given, expected):
    assert spell_out_regions(given) == expected


def test_debug_shows_the_traceback_as_well(groma, monkeypatch):
    monkeypatch.setenv("GROMA_DEBUG", "1")
    ran = groma("ask", "missing.png", "What?")
    assert ran.status == 2
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("groma: error: picture 'missing.png' does not exist")


def test_a_fault_of_ours_is_one_line_with_a_hint(groma, monkeypatch):
    def fault(*_, **__):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("groma.image.load_image", fault)
    monkeypatch.delenv("GROMA_DEBUG", raising=False)
    ran = groma("ask", "x.png", "What?")
    assert ran.status == 1
    assert ran.err == (
        "groma: internal error, RuntimeError: first line (run again with GROMA_DEBUG=1 for the traceback and "
        "report it, please)\n"
    )


def test_ctrl_c(groma, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("groma.image.load_image", interrupt)
    assert groma("ask", "x.png", "What?") == (130, "", "groma: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_in_a_process(picture, model):
    code = (
        "import os, signal, groma.image; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # who runs tests in the background ignores it
        "groma.image.load_image = lambda _: os.kill(os.getpid(), signal.SIGINT); "
        "from groma.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = in_a_process("ask", picture, "What?", "--model", model, code=code)
    assert done.returncode == 130, (done.returncode, signal.SIGINT)
    assert "Traceback" not in done.stderr


def test_the_installed_command(picture, model):
    """Once through the real entry point: JSON alone on standard output, a warning alone on standard error."""
    arguments = ("ask", str(picture), "What?", "--region", "-5,0,60,60", "--json", "--max-new-tokens", "60")
    command = [sys.executable, "-m", "groma.cli", *arguments, "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["image_size_px"] == [120, 90]
    assert all(line.startswith("groma: warning: ") for line in done.stderr.splitlines()), done.stderr


def test_what_pillow_says_of_a_damaged_file_is_said_once(tmp_path):
    path = tmp_path / "damaged.tif"
    Image.new("RGB", (4, 4)).save(path)
    samples_per_pixel = b"\x15\x01\x03\x00\x01\x00\x00\x00"
    path.write_bytes(path.read_bytes().replace(samples_per_pixel + b"\x03", samples_per_pixel + b"\xff"))
    done = in_a_process("regions", path)  # not under pytest, whose own handlers keep the loggers quiet
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "header cannot be read" in done.stderr, done.stderr


def test_a_reader_that_leaves_early(picture, model):
    """`groma regions ... | head -1` must not end in a traceback."""
    command = [sys.executable, "-m", "groma.cli", "regions", str(picture), "--json", "--model", model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(timeout=120) == 0


def test_a_terminal_that_lacks_a_character():
    code = "from groma.cli.boundary import guarded; sys.exit(guarded(lambda _: print('caf\u00e9') or 0, []))"
    done = in_a_process(code=code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "caf\\xe9\n"), done.stderr


def test_main_catches_what_users_cause(groma):
    assert "recipe comes right after" in sentence(groma("train", "--json", "detect"))

"""docs/curate.md names every reason, shows the format that is written, and its Python runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import write_set

from chat_server import well_behaved
from groma.curate.checking import REJECTED, REPAIRED, judge
from groma.curate.preparing import SKIPPED
from groma.curate.regions import DROPPED
from groma.curate.settings import Rules
from groma.data.sources.lists import read_groma_instruct

PAGE = (Path(__file__).parents[2] / "docs" / "curate.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(
    "kinds", [REJECTED, REPAIRED, SKIPPED, DROPPED], ids=["rejected", "repaired", "skipped", "dropped"]
)
def test_every_reason_is_explained(kinds):
    named = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line[:1] == "|")))
    assert set(kinds) <= named


def test_the_format_on_the_page_is_read():
    record, answer = map(json.loads, blocks("json"))
    annotation = read_groma_instruct(record, {})
    phrases = [annotation.exchanges[0].answer.text[s.start : s.end] for s in annotation.exchanges[0].answer.spans]
    assert phrases == ["A dog", "its bowl"]
    judged = judge(json.dumps(answer), 5, Rules(min_exchanges=1))
    assert (judged.faults, judged.repairs) == ((), ())


def test_the_python_on_the_page_runs(server, tmp_path, monkeypatch):
    server.behaviour = well_behaved
    write_set(tmp_path, 2)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'kept': 2" in done.stdout


def test_the_command_line_needs_nothing_heavy():
    """So that `groma --help` stays instant."""
    code = "import sys, groma.cli.curate; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "numpy", "PIL", "openai", "ijson"}
    assert heavy.isdisjoint(json.loads(done.stdout.replace("'", '"')))

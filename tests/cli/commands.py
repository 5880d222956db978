"""What a command did, and how it refuses."""

from typing import NamedTuple


class Ran(NamedTuple):
    """What one command did."""

    status: int
    out: str
    err: str


def sentence(ran: Ran) -> str:
    """What a refused command said: status 2, nothing on standard output, one line on standard error."""
    assert ran.status == 2, ran
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("groma: error: ")
    assert "Traceback" not in line
    return line.removeprefix("groma: error: ")

"""Where exceptions become exit statuses: whatever happens in a command, people see one sentence.

Set GROMA_DEBUG=1 to see the traceback as well.
"""

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from groma.cli.output import note
from groma.errors import GromaError

OK, FAULT, USER_ERROR, INTERRUPTED = 0, 1, 2, 130

DEBUG_VARIABLE = "GROMA_DEBUG"


def guarded(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command and return its exit status; whatever it raises becomes a line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows its number
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it says of a damaged file, the error says as well
    try:
        with _warnings_in_one_line():
            status = run(arguments)
            sys.stdout.flush()
            return status
    except GromaError as error:
        _show_traceback()
        note(f"error: {error}")
        return USER_ERROR
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except SystemExit as exit_:  # tyro has printed help, or what it could not read
        return exit_.code if isinstance(exit_.code, int) else OK if exit_.code is None else USER_ERROR
    except BrokenPipeError:  # the reader of our output has gone, `groma regions ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # noqa: BLE001  # the outermost boundary: a fault of ours, said in one line
        _show_traceback()
        first_line = (str(error).splitlines() or [""])[0]
        note(
            f"internal error, {type(error).__name__}: {first_line} (run again with {DEBUG_VARIABLE}=1 for the "
            "traceback and report it, please)"
        )
        return FAULT


def _show_traceback() -> None:
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exc()


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show this package's warnings as a sentence, each time; others stay as Python shows them."""
    with warnings.catch_warnings():
        show_as_python_does = warnings.showwarning

        def show(message, category, filename, lineno, file=None, line=None) -> None:
            if category.__module__.startswith("groma."):
                note(f"warning: {message}")
            else:
                show_as_python_does(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield

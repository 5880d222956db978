"""What is settled about arguments before tyro reads them."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from groma.errors import InputError

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag that is given or not, without a --no-flag beside it."""

REGION_FLAG = "--region"

LARGEST_SEED = 2**63 - 1

_NUMBER = r"\s*[-+]?(?:[\d.]+(?:[eE][-+]?\d+)?|nan|inf)\s*"
_BOX_LIKE = re.compile(rf"[\[(]?{_NUMBER}(?:,{_NUMBER})+[\])]?", re.IGNORECASE)


def spell_out_regions(arguments: Sequence[str]) -> list[str]:
    """Write every region as `--region=BOX`, so that it can begin with a minus and several can follow one flag.

    `--region -5,0,20,20 30,0,60,20` becomes `--region=-5,0,20,20 --region=30,0,60,20`. The first value behind the
    flag is always a region, the next ones are if they look like numbers with commas.
    """
    spelled: list[str] = []
    behind_flag = behind_region = False
    for position, argument in enumerate(arguments):
        if argument == "--":
            return spelled + list(arguments[position:])
        is_option = argument.startswith("--")
        if (behind_flag and not is_option) or (behind_region and _BOX_LIKE.fullmatch(argument)):
            spelled.append(f"{REGION_FLAG}={argument}")
            behind_flag, behind_region = False, True
            continue
        if behind_flag:
            spelled.append(REGION_FLAG)  # without a value: tyro says so
        behind_flag = argument == REGION_FLAG
        behind_region = argument.startswith(f"{REGION_FLAG}=")
        spelled += [] if behind_flag else [argument]
    return spelled + [REGION_FLAG] * behind_flag


def named_values(given: Sequence[str], flag: str) -> dict[str, Any]:
    """Read `NAME=VALUE`; a value is JSON, or else text: `0.5`, `true` and `"5"` are what they look like.

    Raises:
        InputError: something has another form, or a name comes twice.
    """
    values: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{flag} must be NAME=VALUE, such as seed=1, got {one!r}.")
        if name in values:
            raise InputError(f"{flag} has {name} twice.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def check_seed(seed: int) -> int:
    """A seed that every random generator takes.

    Raises:
        InputError: It is negative or larger than 64 bits hold.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"--seed must be from 0 to {LARGEST_SEED}, got {seed}.")
    return seed


def check_count(value: int, flag: str) -> int:
    """A number of things of which there must be at least one.

    Raises:
        InputError: It is less than 1.
    """
    if value < 1:
        raise InputError(f"{flag} must be at least 1, got {value}.")
    return value

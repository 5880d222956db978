"""Pictures that are called otherwise on disk than in the annotations: what stands there instead.

Only a few names are tried, none is searched for: folders may hold millions of files.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")
_COCO_2014 = re.compile(r"COCO_(train|val|test)201[45]_")
"""What COCO's pictures of 2014 are called; those of 2017 are the same ones without it."""


def renamed(name: str, changes: Mapping[str, str]) -> str:
    """A picture's path in the annotations -> its path on disk.

    Args:
        name: as annotated.
        changes: text in it -> what stands in its place, one after the other.
    """
    for old, new in changes.items():
        name = name.replace(old, new)
    return name


def hint(pictures: Path, name: str) -> str:
    """What a user may have meant: ", but ... is there", and what to do; empty if nothing near is there.

    Args:
        pictures: the folder that paths start from.
        name: path that is not there.
    """
    for candidate, advice in _candidates(PurePosixPath(name)):
        if (pictures / candidate).is_file():
            return f", but {pictures / candidate} is: {advice}"
    return ""


def _candidates(path: PurePosixPath) -> Iterator[tuple[str, str]]:
    """Paths that are tried, and what would make each right."""
    for suffix in SUFFIXES:
        if not path.suffix:
            yield f"{path}{suffix}", "the annotations leave the suffix out, so no picture of theirs is found"
        elif suffix != path.suffix:
            yield str(path.with_suffix(suffix)), f"give the set `renamed: {{{path.suffix}: {suffix}}}`"
    bare = _COCO_2014.sub("", path.name)
    if bare != path.name:
        prefix = path.name.removesuffix(bare)
        yield str(path.with_name(bare)), f'give the set `renamed: {{{prefix}: ""}}`'
    elif path.stem.isdecimal():
        for split in ("train", "val"):
            yield f"COCO_{split}2014_{path.name}", "these are the pictures of 2014: use annotations of 2014, or 2017's"
    if len(path.parts) > 1:
        start = path.parts[0]
        yield str(PurePosixPath(*path.parts[1:])), f'give the set `renamed: {{{start}/: ""}}`, or the folder above'
        yield path.name, "the annotations name folders that are not there; `renamed` can take them away"
    yield f"../{path}", "let `pictures` be the folder above"

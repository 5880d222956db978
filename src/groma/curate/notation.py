r"""The notation in which the asked model answers; it is written and read here alone.

An answer is one JSON object. Its turns alternate, the user begins, and the assistant has the last word:

    {"conversation": [
      {"role": "user", "text": "Who is waiting for dinner?"},
      {"role": "assistant", "text": "[A brown dog](2) looks up at [two empty bowls](4,5)."}
    ]}

`[phrase](2)` ties a phrase to the region with the number 2, `[phrase](4,5)` to two regions. Phrases lie side by side,
never inside each other. Brackets stand for nothing else, and only the assistant's texts have any.

Reading is lenient where only one meaning is possible: text around the object, other names of roles and fields,
`[phrase] (4 and 5)`, `[phrase][4]`. Everything that was not to the letter is named, so that it can be counted.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from groma.data.annotation import Passage, Span

Role = Literal["user", "assistant"]

ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    "person": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
"""How a role may be called -> the role."""

TEXT_FIELDS = ("text", "content", "value")
ROLE_FIELDS = ("role", "from")

_LIST = r"\s*\d+(?:(?:\s*,\s*|\s*&\s*|\s+and\s+|\s*,\s*and\s+)\d+)*\s*"
_PHRASE = re.compile(
    # "[a dog][2]" is a slip for "[a dog](2)"; in "[a dog](1)[2](3)" the 2 is a phrase of its own
    rf"\[(?P<phrase>[^\[\]]*)\](?P<numbers>(?:[ ]?\({_LIST}\))+|[ ]?\[{_LIST}\](?!\())"
)
_EXACT_NUMBERS = re.compile(r"\(\d+(?:,\d+)*\)")
_THOUGHT = re.compile(r"\A\s*<think>.*</think>", re.DOTALL)


class NotationError(Exception):
    """A text is not in the notation; never leaves this folder."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as it came; its text is still in the notation."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Read:
    """What a model's answer says, before anything is judged."""

    turns: tuple[Turn, ...]
    """In their order."""
    loose: tuple[str, ...]
    """What was not to the letter, in words."""


def read_conversation(content: str) -> Read:
    """The turns of a model's answer.

    Raises:
        NotationError: No such object can be found in it; says why.
    """
    loose: list[str] = []
    thoughtless = _THOUGHT.sub("", content, count=1)
    if thoughtless != content:
        loose.append("reasoning in front of the answer")
    found = _json_in(thoughtless, loose)
    turns = tuple(_turn(entry, number, loose) for number, entry in enumerate(_entries(found, loose), start=1))
    return Read(turns, tuple(dict.fromkeys(loose)))


def write_conversation(turns: Sequence[Turn]) -> str:
    """The answer of a model that keeps to the letter."""
    entries = [{"role": turn.role, "text": turn.text} for turn in turns]
    return json.dumps({"conversation": entries}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ReadPhrases:
    """A text without the notation."""

    passage: Passage
    """Its spans are the phrases; their `boxes` are region numbers minus 1, whether such regions exist or not."""
    loose: bool
    """A phrase was not written to the letter."""


def read_phrases(text: str) -> ReadPhrases:
    """A text in the notation -> plain text with spans. Brackets that are no phrase stay in the text."""
    plain, spans, cursor, loose = "", list[Span](), 0, False
    for match in _PHRASE.finditer(text):
        plain += text[cursor : match.start()]
        phrase = match["phrase"].strip()
        numbers = [int(number) for number in re.findall(r"\d+", match["numbers"])]
        loose |= phrase != match["phrase"] or _EXACT_NUMBERS.fullmatch(match["numbers"]) is None
        unique = tuple(dict.fromkeys(numbers))
        loose |= len(unique) < len(numbers)
        spans.append(Span(len(plain), len(plain) + len(phrase), tuple(number - 1 for number in unique)))
        plain += phrase
        cursor = match.end()
    return ReadPhrases(Passage(plain + text[cursor:], tuple(spans)), loose)


def write_phrases(passage: Passage) -> str:
    """A passage in the notation: the inverse of `read_phrases` for texts without brackets."""
    text, cursor = "", 0
    for span in passage.spans:
        numbers = ",".join(str(box + 1) for box in span.boxes)
        text += f"{passage.text[cursor : span.start]}[{passage.text[span.start : span.end]}]({numbers})"
        cursor = span.end
    return text + passage.text[cursor:]


def _json_in(text: str, loose: list[str]) -> Any:
    """The JSON value in a text, which may stand between other words or in a code block."""
    starts = [position for position in (text.find("{"), text.find("[")) if position >= 0]
    end = max(text.rfind("}"), text.rfind("]")) + 1
    if not starts or end <= min(starts):
        raise NotationError("there is no JSON in the answer")
    body = text[min(starts) : end]
    if body != text.strip():
        loose.append("words around the JSON")
    try:
        return json.loads(body)
    except json.JSONDecodeError:
        pass  # a line break inside a text is the one slip that leaves no doubt about what was meant
    try:
        found = json.loads(body, strict=False)
    except json.JSONDecodeError as error:
        raise NotationError(f"the answer is not valid JSON ({error.msg} at character {error.pos})") from None
    loose.append("unescaped line breaks in the JSON")
    return found


def _entries(found: Any, loose: list[str]) -> list[Any]:
    """The list of turns in what the JSON holds."""
    if isinstance(found, dict):
        fields = cast(dict[str, Any], found)
        if isinstance(fields.get("conversation"), list):
            return cast(list[Any], fields["conversation"])
        lists = [cast(list[Any], value) for value in fields.values() if isinstance(value, list)]
        if len(lists) == 1 and len(fields) == 1:
            loose.append("another name for the conversation")
            return lists[0]
        raise NotationError(f"the JSON object has no list 'conversation', but {', '.join(fields) or 'nothing'}")
    if isinstance(found, list):
        loose.append("a list without its object")
        return cast(list[Any], found)
    raise NotationError("the JSON is no object with a list 'conversation'")


def _turn(entry: Any, number: int, loose: list[str]) -> Turn:
    if not isinstance(entry, dict):
        raise NotationError(f"turn {number} is no object with role and text")
    fields = cast(dict[str, Any], entry)
    role = next((fields[name] for name in ROLE_FIELDS if name in fields), None)
    text = next((fields[name] for name in TEXT_FIELDS if name in fields), None)
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise NotationError(f"turn {number} has the role {role!r}, expected 'user' or 'assistant'")
    if not isinstance(text, str):
        raise NotationError(f"turn {number} has no text")
    if role not in ("user", "assistant") or "role" not in fields or "text" not in fields:
        loose.append("other names for roles or texts")
    return Turn(ROLES[role.lower()], text)

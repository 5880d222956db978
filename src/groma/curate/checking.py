"""Judges what the model wrote: kept, kept after a repair that loses no truth, or rejected; always with the reason.

    answer -> turns -> exchanges, each with its faults -> cut off before the first fault -> limits -> Verdict

Two kinds of repairs are safe. Some change the form alone: words around the JSON, a line break, brackets that tie
nothing, a bare number behind a word. The other cuts the conversation off before its first fault: what was said earlier
does not depend on what comes later. Everything else would put words into somebody's mouth, and is rejected.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from groma.curate.notation import NotationError, Turn, read_conversation, read_phrases
from groma.curate.settings import Rules
from groma.data.annotation import Exchange, Passage, Span
from groma.prompt.tokens import NEW_TOKENS

REJECTED = {
    "refused": "the model, or a filter before it, declined to answer",
    "empty": "the answer is empty",
    "cut_off": "the answer reached its largest number of tokens",
    "unreadable": "the answer is not in the notation: no valid JSON, or of another shape",
    "wrong_turns": "user and assistant do not take turns, or the assistant begins",
    "empty_turn": "a turn says nothing",
    "unknown_region": "a phrase is tied to a region that does not exist",
    "bare_number": "a region's number, or the word for it, stands in the plain text",
    "mark_in_text": "a text talks about the frames that were drawn, or about the descriptions",
    "empty_phrase": "a tied phrase has no words",
    "long_phrase": "a tied phrase has more words than `rules.max_phrase_words`",
    "long_question": "a question has more characters than `rules.max_question_chars`",
    "long_answer": "an answer has more characters than `rules.max_answer_chars`",
    "markup": "a text holds tags that Groma's prompts are written with, or a list",
    "repeated_question": "a question was asked before",
    "few_exchanges": "there are fewer exchanges than `rules.min_exchanges`",
    "few_phrases": "there are fewer grounded phrases than `rules.min_phrases`",
}
"""Why a conversation is rejected -> what that means."""

REPAIRED = {
    "loose_form": "the JSON was not to the letter, but could be read in one way only",
    "loose_phrase": "a tied phrase was not written to the letter, but could be read in one way only",
    "blanks": "line breaks or blanks in a row became one blank",
    "emphasis": "asterisks around words were taken off",
    "brackets": "square brackets that tie nothing were taken off",
    "tied_question": "a question's phrases were untied, as questions are plain",
    "number_removed": "a region's number in brackets behind a word was taken out",
    "open_question": "a question without an answer was cut off the end",
    "cut_before_fault": "the conversation was cut off before its first fault",
    "cut_to_length": "exchanges after `rules.max_exchanges` were cut off",
}
"""What was mended -> what that means."""

_MARK_WORDS = r"(?:regions?|box(?:es)?|frames?|marks?|markers?|labels?|numbers?|no\.|objects?|items?|areas?|#)"
_NUMBER_AFTER_WORD = re.compile(rf"(?<!\w){_MARK_WORDS}\s*#?\s*(\d{{1,2}})\b", re.IGNORECASE)
_SPELLED_NUMBER = re.compile(
    r"\b(?:region|box|frame|marker)s?\s+(?:number\s+)?(?:two|three|four|five|six|seven|eight|nine|ten)\b", re.IGNORECASE
)
_BRACKETED = re.compile(r"[(\[<{]\s*(?:#\s*)?(\d{1,2}(?:\s*(?:,|&|and)\s*\d{1,2})*)\s*[)\]>}]")
_BEHIND_WORD = re.compile(r"(?<=[\w'\"])[ ]?[(\[]\s*\d{1,2}(?:\s*(?:,|&|and)\s*\d{1,2})*\s*[)\]](?=[\s.,;:!?]|$)")
_MARKS = re.compile(
    r"\bbounding box(?:es)?\b"
    r"|\b(?:numbered|highlighted|outlined|annotated) (?:\w+ )?(?:regions?|box(?:es)?|frames?|areas?|objects?)\b"
    r"|\b(?:marked|labell?ed|drawn) (?:regions?|box(?:es)?|frames?|areas?)\b"
    r"|\b(?:regions?|box(?:es)?|frames?) (?:marked|labell?ed|numbered)\b"
    r"|\b(?:marked|labell?ed|tagged) (?:with|as|by) (?:the )?(?:number|\d)"
    r"|\bregion descriptions?\b|\b(?:the|provided|given) captions? (?:says?|mentions?|describes?|states?)\b"
    r"|\baccording to the (?:captions?|descriptions?|annotations?)\b",
    re.IGNORECASE,
)
_TAG = re.compile(
    # "[pad](3)" is a phrase, "[PAD]" a tag
    "(?:" + "|".join(re.escape(token.value) for token in NEW_TOKENS) + r"|<r\d+>)(?!\s?[(\[]\s*\d)",
    re.IGNORECASE,
)
_LIST_LINE = re.compile(r"^\s*(?:[-*\u2022]|\d{1,2}[.)]|#{1,6})\s", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*]+?)(?<=[^\s*])\*(?![\w*])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that was wrong."""

    kind: str
    """A key of REJECTED or REPAIRED."""
    told: str
    """One sentence for people and for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of an answer."""

    exchanges: tuple[Exchange, ...] = ()
    """The conversation; the boxes of its spans are regions (0 .. n-1). Empty if it was rejected."""
    repairs: tuple[Remark, ...] = ()
    """What was mended; kinds of REPAIRED."""
    faults: tuple[Remark, ...] = ()
    """Why it was rejected; kinds of REJECTED. Empty if it was kept."""


def judge(content: str, num_regions: int, rules: Rules) -> Verdict:
    """Check an answer and mend what can be mended.

    Args:
        content: What the model wrote.
        num_regions: How many regions there are; their numbers are 1 .. num_regions.
        rules: What a conversation must be like.
    """
    if not content.strip():
        return _rejected(Remark("empty", "the answer is empty"))
    try:
        read = read_conversation(content)
    except NotationError as error:
        return _rejected(Remark("unreadable", str(error)))
    repairs = [Remark("loose_form", told) for told in read.loose]
    paired = _pairs(read.turns, repairs)
    if isinstance(paired, Remark):
        return _rejected(paired, repairs=repairs)
    sound, faults = _sound(paired, num_regions, rules, repairs)
    if faults and len(sound) >= rules.min_exchanges:
        repairs.append(Remark("cut_before_fault", faults[0].told))
    elif faults:
        return _rejected(*faults, repairs=repairs)
    return _within_limits(sound, rules, repairs)


def _rejected(*faults: Remark, repairs: Sequence[Remark] = ()) -> Verdict:
    return Verdict(repairs=tuple(repairs), faults=faults)


def _pairs(turns: Sequence[Turn], repairs: list[Remark]) -> list[tuple[str, str]] | Remark:
    """Questions with their answers, or what is wrong with their order."""
    if not turns:
        return Remark("few_exchanges", "the conversation has no turns")
    for number, turn in enumerate(turns, start=1):
        expected = "user" if number % 2 else "assistant"
        if turn.role != expected:
            return Remark("wrong_turns", f"turn {number} is the {turn.role}'s, expected the {expected}'s")
    if len(turns) % 2:
        repairs.append(Remark("open_question", f"turn {len(turns)} is a question without an answer"))
    texts = [turn.text for turn in turns]
    return list(zip(texts[::2], texts[1::2], strict=False))


def _sound(
    pairs: Sequence[tuple[str, str]], num_regions: int, rules: Rules, repairs: list[Remark]
) -> tuple[list[Exchange], list[Remark]]:
    """The exchanges before the first one with faults, and the faults of all."""
    sound: list[Exchange] = []
    faults: list[Remark] = []
    asked_before: set[str] = set()
    for number, (question, answer) in enumerate(pairs, start=1):
        mended: list[Remark] = []
        asked = _mended(question, f"question {number}", num_regions, mended)
        if asked.spans:
            mended.append(Remark("tied_question", f"question {number} has tied phrases"))
        said = _mended(answer, f"answer {number}", num_regions, mended)
        found = [
            *_text_faults(question, asked, f"question {number}", num_regions),
            *_text_faults(answer, said, f"answer {number}", num_regions),
            *_phrase_faults(said, f"answer {number}", num_regions, rules),
            *_length_faults(asked, said, number, rules),
        ]
        if asked.text.casefold() in asked_before:
            found.append(Remark("repeated_question", f"question {number} was asked before"))
        asked_before.add(asked.text.casefold())
        faults += found
        if not faults:
            repairs += mended
            # grounded: in the published data every question asks for an answer with grounded phrases
            sound.append(Exchange(question=Passage(asked.text), answer=said, grounded=True))
    return sound, faults


def _within_limits(exchanges: list[Exchange], rules: Rules, repairs: list[Remark]) -> Verdict:
    """What holds for the whole conversation."""
    if len(exchanges) > rules.max_exchanges:
        repairs.append(Remark("cut_to_length", f"the conversation has {len(exchanges)} exchanges"))
        exchanges = exchanges[: rules.max_exchanges]
    if len(exchanges) < rules.min_exchanges:
        told = f"the conversation has {len(exchanges)} exchanges, expected at least {rules.min_exchanges}"
        return _rejected(Remark("few_exchanges", told), repairs=repairs)
    phrases = sum(len(exchange.answer.spans) for exchange in exchanges)
    if phrases < rules.min_phrases:
        told = f"{phrases} phrases are tied to regions, expected at least {rules.min_phrases}"
        return _rejected(Remark("few_phrases", told), repairs=repairs)
    return Verdict(exchanges=tuple(exchanges), repairs=tuple(repairs))


# --- one text ---------------------------------------------------------------------------------------------------------


def _mended(text: str, where: str, num_regions: int, repairs: list[Remark]) -> Passage:
    """A text without notation, in its one plain form; what was mended is added to `repairs`."""

    def note(kind: str, told: str) -> None:
        repairs.append(Remark(kind, f"{where} {told}"))

    plain = _EMPHASIS.sub(lambda match: match[1] or match[2], text)
    if plain != text:
        note("emphasis", "has asterisks around words")
    one_line = " ".join(plain.split())
    if one_line != plain.strip():
        note("blanks", "has line breaks or blanks in a row")
    read = read_phrases(one_line)
    if read.loose:
        note("loose_phrase", "has a tied phrase that is not to the letter")
    passage = _without(read.passage, _BEHIND_WORD, num_regions)
    if passage != read.passage:
        note("number_removed", "has a number in brackets behind a word")
    untied = _without_brackets(passage)
    if untied != passage:
        note("brackets", "has square brackets that tie nothing")
    return untied


def _without(passage: Passage, pattern: re.Pattern[str], num_regions: int) -> Passage:
    """The passage without numbers of regions that stand outside of its phrases."""
    cuts = [
        match.span()
        for match in pattern.finditer(passage.text)
        if _numbers_are_regions(match[0], num_regions) and not _in_phrase(passage, *match.span())
    ]
    return _cut_out(passage, cuts)


def _without_brackets(passage: Passage) -> Passage:
    """The passage without square brackets around words; those around numbers stay, and are a fault."""
    pairs = [match.span() for match in re.finditer(r"\[[^\[\]]*[^\W\d][^\[\]]*\]", passage.text)]
    return _cut_out(passage, sorted(cut for start, end in pairs for cut in ((start, start + 1), (end - 1, end))))


def _cut_out(passage: Passage, cuts: Sequence[tuple[int, int]]) -> Passage:
    """The passage without these stretches of text, which lie apart and begin and end in no phrase's middle."""
    for start, end in reversed(cuts):
        length = end - start
        spans = tuple(
            Span(
                span.start - length if span.start >= end else span.start,
                span.end - length if span.end >= end else span.end,
                span.boxes,
            )
            for span in passage.spans
        )
        passage = Passage(passage.text[:start] + passage.text[end:], spans)
    return passage


def _text_faults(raw: str, passage: Passage, where: str, num_regions: int) -> Iterator[Remark]:
    """What is wrong with the words of a text."""
    if not passage.text:
        yield Remark("empty_turn", f"{where} is empty")
    if found := _TAG.search(raw) or _LIST_LINE.search(raw):
        yield Remark("markup", f"{where} has {found[0].strip()!r} in it; plain prose is needed")
    numbered = _NUMBER_AFTER_WORD.search(passage.text) or _SPELLED_NUMBER.search(passage.text)
    if numbered and _numbers_are_regions(numbered[0], num_regions):
        yield Remark("bare_number", f"{where} says {numbered[0]!r}; numbers of regions must not be mentioned")
    bracketed = _BRACKETED.search(passage.text)
    if bracketed and _numbers_are_regions(bracketed[1], num_regions):
        yield Remark("bare_number", f"{where} has {bracketed[0]!r} in its text, tied to no words")
    elif found := re.search(r"[\[\]]", passage.text):
        yield Remark("unreadable", f"{where} has a square bracket that belongs to no [phrase](number)")
    if found := _MARKS.search(passage.text):
        yield Remark("mark_in_text", f"{where} says {found[0]!r}; frames and descriptions must not be mentioned")


def _phrase_faults(passage: Passage, where: str, num_regions: int, rules: Rules) -> Iterator[Remark]:
    """What is wrong with the tied phrases of an answer."""
    for span in passage.spans:
        phrase = passage.text[span.start : span.end]
        unknown = [box + 1 for box in span.boxes if not 0 <= box < num_regions]
        if unknown:
            listed = ", ".join(map(str, unknown))
            told = f"{where} ties {phrase!r} to {listed}, but there are regions 1 to {num_regions} only"
            yield Remark("unknown_region", told)
        if not any(character.isalpha() for character in phrase):
            yield Remark("empty_phrase", f"{where} ties {phrase!r}, which has no words")
        if len(phrase.split()) > rules.max_phrase_words:
            told = f"{where} ties {phrase!r}, which has more than {rules.max_phrase_words} words"
            yield Remark("long_phrase", told)


def _length_faults(asked: Passage, said: Passage, number: int, rules: Rules) -> Iterator[Remark]:
    if len(asked.text) > rules.max_question_chars:
        told = f"question {number} has {len(asked.text)} characters, at most {rules.max_question_chars} are allowed"
        yield Remark("long_question", told)
    if len(said.text) > rules.max_answer_chars:
        told = f"answer {number} has {len(said.text)} characters, at most {rules.max_answer_chars} are allowed"
        yield Remark("long_answer", told)


def _numbers_are_regions(text: str, num_regions: int) -> bool:
    """Whether the numbers in a text could be those of regions: "frame 4" among ten, not "gate 25"."""
    return all(1 <= int(number) <= num_regions for number in re.findall(r"\d+", text))


def _in_phrase(passage: Passage, start: int, end: int) -> bool:
    return any(span.start < end and start < span.end for span in passage.spans)

"""Generated token ids -> clean text, phrases with spans and regions. The inverse of `render` for answers.

The parser reads ids, never text, so "<r5>" spelled out in letters stays text. It takes one id after the other
and says what is new after each (streaming); `parse` is the same parser fed with all ids.

What it makes of ids that do not follow the grammar `text | <p> text </p> | <roi> <rk>... </roi>`:

* a phrase or group still open when another tag or the end comes is closed there;
* text inside a group closes the group; a closing tag without an opening one is passed over;
* <rk> outside a group opens one, which ends at the first id that is not a region;
* an empty phrase is dropped and a group behind it becomes a bare one; a group without regions is dropped;
* any other special token is passed over, and so is everything behind the end token.

Blanks: lossless tokenizers bring their own, and the text is exact. Others lose the blanks next to special
tokens, so a run of text behind such a token loses its leading blanks here and gets one blank instead, unless
it begins with closing punctuation or white space, the text before ends with an opening bracket or white space,
or either neighbour is of a script without blanks between words (Chinese, Japanese).
"""

import codecs
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from groma.prompt.dialogue import Grounding, Phrase, Segment, Text
from groma.prompt.tokenizer_base import PromptTokenizer

_NO_BLANK_BEFORE = frozenset(".,;:!?%)]}'\u2026\u2019\u201d\xbb")
_NO_BLANK_AFTER = frozenset("([{\u201c\u2018\xab\xbf\xa1")
_UNSPACED_SCRIPTS = ("CJK ", "HIRAGANA ", "KATAKANA", "BOPOMOFO ", "IDEOGRAPHIC ", "FULLWIDTH ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPhrase:
    """A phrase of an answer, or a bare group of regions.

    Attributes:
        text: The phrase as it stands in the clean text; empty for a bare group.
        start: First character of the phrase in the clean text; of a bare group, its place.
        end: One behind the last character; `clean_text[start:end] == text`.
        regions: Region numbers as they were named, in order; empty for a phrase that is not grounded.
        token_positions: For each region, the index of its token among the ids that were parsed.
    """

    text: str
    start: int
    end: int
    regions: tuple[int, ...] = ()
    token_positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAnswer:
    """An answer without its markup.

    Attributes:
        text: Clean text.
        phrases: Phrases and bare groups in the order of the text.
        raw_text: The answer with every token spelled out, for people; it cannot tell tags from typed text.
        finished: The end token came.
    """

    text: str
    phrases: tuple[ParsedPhrase, ...]
    raw_text: str
    finished: bool


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The clean text grew by these characters (never half a one)."""

    text: str


@dataclass(frozen=True, slots=True)
class PhraseOpened:
    """The text that follows belongs to a phrase, from this character of the clean text on."""

    start: int


@dataclass(frozen=True, slots=True)
class PhraseClosed:
    """A phrase ended; its regions, if it has any, follow as `Grounded`. Fields as in `ParsedPhrase`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Grounded:
    """A group of regions is complete, with its phrase or as a bare group."""

    phrase: ParsedPhrase


Event = TextDelta | PhraseOpened | PhraseClosed | Grounded


class IncrementalParser:
    """Parses an answer while it is generated.

    Push each id as it comes, then call `finish` (the end token does that, too). The texts of all `TextDelta`
    events together are `result().text`.
    """

    def __init__(self, tokenizer: PromptTokenizer, *, stop_ids: Collection[int] | None = None) -> None:
        """Start an answer.

        Args:
            tokenizer: The one that the model was prompted with.
            stop_ids: Ids that end an answer (`ChatFormat.stop_ids`); the tokenizer's end token by default.
        """
        self._tokenizer = tokenizer
        self._special = tokenizer.special
        self._stop_ids = frozenset({self._special.eos} if stop_ids is None else stop_ids)
        self._handlers = {
            self._special.phrase_open: self._open_phrase,
            self._special.phrase_close: self._close_phrase,
            self._special.roi_open: self._open_group,
            self._special.roi_close: self._close_group,
        }
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._position = -1  # index of the id being read
        self._finished = False
        self._text = ""
        self._raw: list[str] = []
        self._in_run = False  # the current run of text has put out a character
        self._in_phrase = False
        self._phrase_start: int | None = None  # None until the open phrase has a character
        self._waiting: tuple[int, int] | None = None  # span of a closed phrase that may get a group
        self._group: list[tuple[int, int]] | None = None  # (region number, token position) of the open group
        self._group_tagged = False  # the open group began with <roi>
        self._phrases: list[ParsedPhrase] = []
        self._events: list[Event] = []

    def push(self, token_id: int) -> list[Event]:
        """Read the next id; returns what is new because of it. Ids behind the end token are passed over."""
        if self._finished:
            return []
        self._position += 1
        if token_id in self._stop_ids:
            self._finished = True
            return self.finish()
        number = self._special.region_number(token_id)
        if number is None and token_id < self._special.base_vocab_size and not self._is_control(token_id):
            self._add_text(self._utf8.decode(self._tokenizer.token_bytes(token_id)))
            return self._take_events()
        self._end_run()
        self._raw.append(self._tokenizer.token_name(token_id))
        if number is not None:
            self._add_region(number)
        else:
            if not self._group_tagged:
                self._close_group()
            self._handlers.get(token_id, lambda: None)()
        return self._take_events()

    def finish(self) -> list[Event]:
        """Close what is open; returns what is new because of it. Nothing more may be pushed."""
        self._end_run()
        self._close_phrase()
        self._close_group()
        self._release_phrase()
        return self._take_events()

    def result(self) -> ParsedAnswer:
        """The answer so far; complete after `finish`."""
        return ParsedAnswer(
            text=self._text,
            phrases=tuple(self._phrases),
            raw_text="".join(self._raw),
            finished=self._finished,
        )

    def _is_control(self, token_id: int) -> bool:
        return token_id in self._tokenizer.control_ids

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _end_run(self) -> None:
        """A special token follows: half a character that is still waiting will not be completed."""
        self._add_text(self._utf8.decode(b"", final=True))
        self._in_run = False

    def _add_text(self, text: str) -> None:
        rebuild = not self._tokenizer.lossless and not self._in_run
        if rebuild:
            text = text.lstrip(" ")
        if not text:
            return
        self._in_run = True
        self._close_group()
        self._release_phrase()
        if rebuild and _needs_blank(self._text[-1:], text[0]):
            self._put(" ")
        if self._in_phrase and self._phrase_start is None:
            self._phrase_start = len(self._text)
            self._events.append(PhraseOpened(self._phrase_start))
        self._put(text)

    def _put(self, text: str) -> None:
        self._text += text
        self._raw.append(text)
        self._events.append(TextDelta(text))

    def _open_phrase(self) -> None:
        self._close_phrase()
        self._close_group()
        self._release_phrase()
        self._in_phrase = True

    def _close_phrase(self) -> None:
        if self._phrase_start is not None:
            self._waiting = (self._phrase_start, len(self._text))
            self._events.append(PhraseClosed(self._text[self._phrase_start :], *self._waiting))
        self._in_phrase = False
        self._phrase_start = None

    def _open_group(self) -> None:
        self._close_phrase()
        self._close_group()
        self._group = []
        self._group_tagged = True

    def _add_region(self, number: int) -> None:
        if self._group is None:
            self._close_phrase()
            self._group = []
        self._group.append((number, self._position))

    def _close_group(self) -> None:
        group, self._group, self._group_tagged = self._group, None, False
        if not group:
            return
        start, end = self._waiting or (len(self._text), len(self._text))
        self._waiting = None
        regions, positions = zip(*group, strict=True)
        phrase = ParsedPhrase(
            text=self._text[start:end], start=start, end=end, regions=regions, token_positions=positions
        )
        self._phrases.append(phrase)
        self._events.append(Grounded(phrase))

    def _release_phrase(self) -> None:
        """Something else came than a group: the closed phrase stays without regions."""
        if self._waiting is not None:
            start, end = self._waiting
            self._phrases.append(ParsedPhrase(text=self._text[start:end], start=start, end=end))
            self._waiting = None


def parse(
    token_ids: Iterable[int], tokenizer: PromptTokenizer, *, stop_ids: Collection[int] | None = None
) -> ParsedAnswer:
    """Read a generated answer. Never raises, whatever the ids are; the module says what malformed ones mean.

    Args:
        token_ids: The generated ids, without the prompt.
        tokenizer: The one that the model was prompted with.
        stop_ids: Ids that end an answer (`ChatFormat.stop_ids`); the tokenizer's end token by default.
    """
    parser = IncrementalParser(tokenizer, stop_ids=stop_ids)
    for token_id in token_ids:
        parser.push(token_id)
    parser.finish()
    return parser.result()


def segments(parsed: ParsedAnswer) -> tuple[Segment, ...]:
    """An answer as it goes back into a `Dialogue`, so that later questions can build on it."""
    found: list[Segment] = []
    cursor = 0
    for phrase in parsed.phrases:
        if phrase.start > cursor:
            found.append(Text(parsed.text[cursor : phrase.start]))
        if phrase.text:
            found.append(Phrase(phrase.text, regions=phrase.regions))
        else:
            found.append(Grounding(regions=phrase.regions))
        cursor = phrase.end
    if cursor < len(parsed.text):
        found.append(Text(parsed.text[cursor:]))
    return tuple(found)


def _needs_blank(left: str, right: str) -> bool:
    """Whether a blank was lost at a special token between two characters; `left` may be empty."""
    if not left or left.isspace() or right.isspace():
        return False
    if left in _NO_BLANK_AFTER or right in _NO_BLANK_BEFORE:
        return False
    return not any(unicodedata.name(char, "").startswith(_UNSPACED_SCRIPTS) for char in (left, right))

"""Tokens of captions, as the COCO caption evaluation makes them.

It runs Stanford's PTBTokenizer (CoreNLP 3.4.1, Java) with -preserveLines -lowerCase, and drops a list of punctuation.
These are the rules of that tokenizer which captions meet, in one regular expression;
`tests/evaluate/test_captions.py` compares them with what the Java program said.
"""

import html
import re

PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""What the evaluation drops. Its list has brackets as -LRB-, which never occur: they are written in lower case."""

_ABBREVIATIONS = (
    "mr|mrs|ms|dr|rt|prof|st|jr|sr|sgt|capt|lt|col|maj|gen|gov|rep|sen|pres|rev|hon|inc|co|corp|ltd|bros|vs|etc|ave|blvd|rd|"
    "jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|sat|sun|fig|figs|ft|mt|ex|al|"
    "alex|wm|jos|cie|pty|cos|ph|messrs|mmes|adm|brig|cpl|cmdr|pvt|supt|atty|est|dept|univ|assn|sec|ala|ariz|calif|"
    "colo|conn|dak|del|fla|ga|ill|ind|kans?|ky|mass|mich|minn|miss|mo|mont|neb|nev|okla|ore?|pa|penn|tenn|tex|va|wash|"
    "wis|wyo"
)
"""Words that keep their full stop."""
_TEXT = r"[^\W_]"  # a letter or a digit of any script

_TOKEN = re.compile(
    rf"""
    (?P<url>(?:https?://|www\.)[^\s"<>|()]+[^\s"<>|(),.!?;:'\]}}-])
  | (?P<mail>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
  | (?P<entity>&(?:amp|lt|gt|quot|apos|nbsp);)
  | (?P<phone>\(\d{{3}}\)\ ?\d{{3}}-\d{{4}})
  | (?P<tag></?[a-z][^<>\n]*>)
  | (?P<smile>[:;=]-?[()]|\^_\^)
  | (?P<year>(?<!\d)'\d\d s?\b)
  | (?P<short>(?:(?:{_ABBREVIATIONS})\.(?!\w)|no\.(?=\s*\d)|[a-z](?:\.[a-z])+\.(?!\w)|(?<![\w'])[a-z]\.(?!\w)))
  | (?P<fixed>c\+\+|c\#|ph\.d\.|'n'|'cause\b|'em\b|'n\b|'til\b|o'clock\b|ma'am\b|'t(?=is\b|was\b)|y'(?=all\b)|ol'(?!\w))
  | (?P<split>can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)|gim(?=me\b)|lem(?=me\b))
  | (?P<negated>[^\W\d_]+(?=n't\b))
  | (?P<clitic>n't\b|'(?:s|m|d|re|ve|ll)\b)
  | (?P<fraction>\d+\ \d+/\d+(?!\w))
  | (?P<number>[-+]?(?:\d+(?:[,.:/-]\d+)*|\.\d+)(?!\w|-\w))
  | (?P<name>[od]'{_TEXT}{{2,}})
  | (?P<handle>[@\#][a-z]\w*)
  | (?P<firm>(?-i:[A-Z]+&[A-Z]+)\b)
  | (?P<dotted>[a-z]+(?:\.[a-z]+)+\b(?!-))
  | (?P<word>{_TEXT}(?:\w|[-/](?={_TEXT}))*)
  | (?P<dots>\.\.\.+|…)
  | (?P<dash>--+|[\u2013\u2014])
  | (?P<loud>[!?]+)
  | (?P<quote>``|''|[`'"\u201c\u201d])
  | (?P<bracket>[()\[\]{{}}])
  | (?P<other>[^\s])
    """,
    re.VERBOSE | re.IGNORECASE,
)

_APOSTROPHES = str.maketrans({"\u2018": "'", "\u2019": "'"})
_WRITTEN = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "£": "#",
    "€": "$",
    " ": "\xa0",
}
"""How single characters are written."""


def tokenize(text: str) -> list[str]:
    """A caption's words, in lower case, without punctuation."""
    text = text.translate(_APOSTROPHES)
    found = (_written(match) for match in _TOKEN.finditer(text))
    return [token for token in found if token and token not in PUNCTUATION]


def _written(match: re.Match[str]) -> str:
    token, kind = match.group().lower(), match.lastgroup
    if kind in ("smile", "phone", "tag", "fraction"):
        return "".join(_WRITTEN.get(character, character) for character in token)
    if kind == "entity":
        return html.unescape(token).strip()
    if kind == "dots":
        return "..."
    if kind == "dash":
        return "--"
    if kind == "quote":
        return "'"
    if kind in ("bracket", "other"):
        return "" if ord(token) > 0xFFFF else _WRITTEN.get(token, token)  # what lies beyond, such as emoji, it drops
    return token

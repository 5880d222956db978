"""The special tokens Groma adds to a language model's vocabulary, and their ids.

They follow the base vocabulary of V tokens in a fixed order (method.md, section 3): fourteen named tokens
(V ... V+13), then one proxy token for each region number, <r0> (V+14) ... <r{n-1}>. Published weights have
n = 100 and V = 32000, so 114 new tokens.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from groma.errors import InputError

IGNORE_INDEX = -100
"""Label of a token that is not trained on (the value torch's cross entropy ignores)."""

PUBLISHED_REGIONS = 100
"""How many region numbers the published weights have."""


class Special(StrEnum):
    """Names of tokens that prompts are written with; the value is how the token is spelled for people."""

    PAD = "[PAD]"
    SEP = "<sep>"
    IMG_OPEN = "<img>"
    IMG_CLOSE = "</img>"
    ROI_OPEN = "<roi>"
    ROI_CLOSE = "</roi>"
    PHRASE_OPEN = "<p>"
    PHRASE_CLOSE = "</p>"
    IMAGE = "<image>"
    REGION_LIST = "<region>"
    REFER_BOX = "<refer_box>"
    GROUND_BOX = "<ground_box>"
    REFER_FEAT = "<refer_feat>"
    GROUNDING = "[grounding]"
    BOS = "<s>"
    EOS = "</s>"
    UNK = "<unk>"


NEW_TOKENS: dict[Special, str] = {
    Special.PAD: "Fills a batch up to one length; never attended to.",
    Special.SEP: "Marked answer spans in the published training code; kept for its id alone, never written.",
    Special.IMG_OPEN: "Opens the picture in the compact format.",
    Special.IMG_CLOSE: "Closes the picture in the compact format.",
    Special.ROI_OPEN: "Opens a group of regions.",
    Special.ROI_CLOSE: "Closes a group of regions.",
    Special.PHRASE_OPEN: "Opens a marked phrase.",
    Special.PHRASE_CLOSE: "Closes a marked phrase.",
    Special.IMAGE: "One slot, which the model expands to all image tokens.",
    Special.REGION_LIST: "One slot, which the model expands to <r0> feature <r1> feature ...",
    Special.REFER_BOX: "A box the user points at; becomes the proxy token of the region that covers it best.",
    Special.GROUND_BOX: "An annotated box in an answer; becomes the proxy token of the best matching region.",
    Special.REFER_FEAT: "Takes the feature of the region that the box before it became.",
    Special.GROUNDING: "In front of a question: the answer shall mark its phrases and ground them.",
}
"""The named new tokens in the order of their ids, each with what it is for; region tokens follow them."""


def region_token(number: int) -> str:
    """How the proxy token of a region number is spelled, e.g. 7 -> "<r7>"."""
    return f"<r{number}>"


def new_token_names(num_regions: int) -> tuple[str, ...]:
    """All new tokens in the order of their ids; length 14 + num_regions."""
    return (*(token.value for token in NEW_TOKENS), *(region_token(number) for number in range(num_regions)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokenIds:
    """Ids of all special tokens of one tokenizer. Build it with `SpecialTokenIds.after`.

    Attributes:
        base_vocab_size: V, number of ids of the base vocabulary; every new token's id is V or more.
        pad: Id of [PAD].
        sep: Id of <sep>.
        img_open: Id of <img>.
        img_close: Id of </img>.
        roi_open: Id of <roi>.
        roi_close: Id of </roi>.
        phrase_open: Id of <p>.
        phrase_close: Id of </p>.
        image: Id of <image>.
        region_list: Id of <region>.
        refer_box: Id of <refer_box>.
        ground_box: Id of <ground_box>.
        refer_feat: Id of <refer_feat>.
        grounding: Id of [grounding].
        region_ids: Ids of <r0>, <r1>, ...; consecutive.
        bos: Base id that begins a sequence; None if the base vocabulary has none.
        eos: Base id that ends an answer.
        unk: Base id of unknown text; None if the base vocabulary has none.
    """

    base_vocab_size: int
    pad: int
    sep: int
    img_open: int
    img_close: int
    roi_open: int
    roi_close: int
    phrase_open: int
    phrase_close: int
    image: int
    region_list: int
    refer_box: int
    ground_box: int
    refer_feat: int
    grounding: int
    region_ids: tuple[int, ...]
    bos: int | None
    eos: int
    unk: int | None

    @classmethod
    def after(
        cls,
        base_vocab_size: int,
        *,
        num_regions: int = PUBLISHED_REGIONS,
        bos: int | None = 1,
        eos: int = 2,
        unk: int | None = 0,
    ) -> Self:
        """Place the new tokens right after a base vocabulary; the defaults are Llama 2's ids.

        Args:
            base_vocab_size: V; the rows of the model's embedding where those are more than the tokens.
            num_regions: How many region numbers there are, at least 1.
            bos: Base id that begins a sequence, if there is one.
            eos: Base id that ends an answer.
            unk: Base id of unknown text, if there is one.

        Raises:
            InputError: No region, or a base id that lies outside the base vocabulary.
        """
        if num_regions < 1:
            raise InputError(f"num_regions is {num_regions}; a vocabulary needs at least 1 region token")
        for name, token_id in (("bos", bos), ("eos", eos), ("unk", unk)):
            if token_id is not None and not 0 <= token_id < base_vocab_size:
                raise InputError(f"{name} id {token_id} lies outside the base vocabulary of {base_vocab_size}")
        named = {token.name.lower(): base_vocab_size + offset for offset, token in enumerate(NEW_TOKENS)}
        first_region = base_vocab_size + len(NEW_TOKENS)
        region_ids = tuple(range(first_region, first_region + num_regions))
        return cls(base_vocab_size=base_vocab_size, region_ids=region_ids, bos=bos, eos=eos, unk=unk, **named)

    @property
    def num_regions(self) -> int:
        """How many region numbers there are."""
        return len(self.region_ids)

    @property
    def num_new_tokens(self) -> int:
        """How many rows the model needs beside its base vocabulary."""
        return len(NEW_TOKENS) + len(self.region_ids)

    @property
    def vocab_size(self) -> int:
        """Base vocabulary and new tokens together."""
        return self.base_vocab_size + self.num_new_tokens

    def of(self, token: Special) -> int | None:
        """Id of a named token; None for a bos or unk that the base vocabulary lacks."""
        return getattr(self, token.name.lower())

    def region(self, number: int) -> int:
        """Id of the proxy token <r{number}>.

        Raises:
            InputError: There is no such region number.
        """
        if not 0 <= number < len(self.region_ids):
            raise InputError(f"region number {number} does not exist; the vocabulary has {len(self.region_ids)}")
        return self.region_ids[number]

    def region_number(self, token_id: int) -> int | None:
        """Region number k if the id is that of <rk>, else None."""
        number = token_id - self.region_ids[0]
        return number if 0 <= number < len(self.region_ids) else None

    def name(self, token_id: int) -> str | None:
        """How a new token is spelled, e.g. "<roi>" or "<r7>"; None for every other id."""
        offset = token_id - self.base_vocab_size
        if not 0 <= offset < self.num_new_tokens:
            return None
        number = self.region_number(token_id)
        return region_token(number) if number is not None else tuple(NEW_TOKENS)[offset].value

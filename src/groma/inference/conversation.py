"""Several questions about one picture, each a turn: encoded once, and read once."""

from groma.inference.assistant import Groma
from groma.inference.generate import Decoding
from groma.inference.pictures import Picture
from groma.inference.prefix import PrefixStore
from groma.inference.request import BoxesXyxyPx
from groma.inference.result import GroundedAnswer


class Conversation:
    """A conversation about a picture.

    It gives what `Groma.ask` gives with `history`, up to rounding; but a turn costs only its own tokens, as the
    language model's keys and values are kept.
    """

    def __init__(self, assistant: Groma, image: Picture) -> None:
        """Begin.

        Args:
            assistant: who is asked.
            image: the picture, seen already or not.

        Raises:
            InputError: the picture cannot be read.
        """
        self.assistant = assistant
        self.seen = assistant.see(image)
        self.answers: list[GroundedAnswer] = []
        self._decoder = assistant.decoder(PrefixStore(max_entries=1))

    @property
    def tokens_read(self) -> int:
        """Tokens that the language model has read in all turns, its own answers included."""
        return self._decoder.tokens_read

    def ask(
        self,
        question: str,
        *,
        regions: BoxesXyxyPx | None = None,
        grounded: bool = True,
        decoding: Decoding | None = None,
    ) -> GroundedAnswer:
        """The next turn; see `Groma.ask`.

        Raises:
            InputError: question or regions cannot be used, or the conversation is too long; it can go on otherwise.
        """
        request = self.assistant.to_ask(
            self.seen, question, regions, grounded=grounded, history=self.answers, decoding=decoding
        )
        answer = self.assistant.ask_on(request, self._decoder)
        self.answers.append(answer)
        return answer

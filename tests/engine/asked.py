"""What the engine's tests ask, and about what."""

from groma.engine.engine import Engine
from groma.engine.pictures import Picture
from groma.inference.generate import Decoding
from small_models import picture

QUESTIONS = ("Why?", "What is in the picture?", "Locate the red dog.", "And the others, in all their detail, please?")
SHORT = Decoding(max_new_tokens=12)
LONG = Decoding(max_new_tokens=200, temperature=1.0, seed=3)


def opened(engine: Engine, number: int = 0, size: tuple[int, int] = (120, 90)) -> Picture:
    """A picture of blocks as a job takes it."""
    return engine.picture(picture(number, size))

"""Make the tokenizer of groma-tiny from the texts of the procedural scenes.

python scripts/make_tiny_tokenizer.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np

from groma.data.scenes.questions import questions_for
from groma.data.scenes.scene import make_scene
from groma.data.scenes.wording import vocabulary_texts
from groma.prompt.chat_format import chat_format
from groma.prompt.render import text_runs
from groma.prompt.tokenizer import train_byte_bpe
from groma.train.models import tiny_config
from groma.train.recipes import TOKENIZER

SCENES = 500
ASSETS = Path(__file__).parent.parent / "src" / "groma" / "assets"


def texts(chat):
    yield from vocabulary_texts()
    rng = np.random.default_rng(0)
    for index in range(SCENES):
        scene = make_scene("train", index, 0, size_px=64)
        for question in questions_for(scene, rng, count=8):
            yield from text_runs(question.dialogue, chat)


def main(folder: Path) -> None:
    config = tiny_config()
    blank = train_byte_bpe([], 512, num_regions=config.selection.max_regions)
    chat = chat_format(config.chat_format, blank)
    vocabulary = config.language.vocab_size
    tokenizer = train_byte_bpe(texts(chat), vocabulary, num_regions=config.selection.max_regions)
    assert tokenizer.vocab_size == vocabulary, f"{tokenizer.vocab_size} tokens instead of {vocabulary}"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    print(f"{tokenizer.vocab_size} tokens in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS / TOKENIZER)

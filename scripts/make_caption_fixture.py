"""Write tests/evaluate/fixtures/captions.json: what the COCO caption evaluation's own programs say.

Needs Java and pip install 'groma[evaluate]'. Texts that are awkward to tokenize stand in awkward_texts.txt beside it;
captions are made of them and of procedural scenes' captions.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from groma.data.scenes.export import caption_of
from groma.data.scenes.scene import make_scene

FOLDER = Path(__file__).parent.parent / "tests" / "evaluate" / "fixtures"


def main() -> None:
    texts = (FOLDER / "awkward_texts.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = PTBTokenizer()
    tokens = tokenizer.tokenize({k: [{"caption": text}] for k, text in enumerate(texts)})
    candidates, references = made_up(texts)
    spoken = tokenizer.tokenize({k: [{"caption": text}] for k, text in enumerate(candidates)})
    known = tokenizer.tokenize({k: [{"caption": text} for text in own] for k, own in enumerate(references)})
    with contextlib.redirect_stdout(io.StringIO()):
        cider, cider_each = Cider().compute_score(known, spoken)
        meteor, meteor_each = Meteor().compute_score(known, spoken)
    content = {
        "tokens": [{"text": text, "tokens": tokens[k][0].split(" ")} for k, text in enumerate(texts)],
        "cases": [{"candidate": text, "references": own} for text, own in zip(candidates, references, strict=True)],
        "cider": {"corpus": float(cider), "each": [round(float(value), 9) for value in cider_each]},
        "meteor": {"corpus": float(meteor), "each": [round(float(value), 9) for value in meteor_each]},
    }
    (FOLDER / "captions.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def made_up(texts: list[str]) -> tuple[list[str], list[list[str]]]:
    """120 captions with one to five references: equal, near, far, empty."""
    rng = np.random.default_rng(0)
    captions = [caption_of(make_scene("test", k, 3, size_px=64), k).text for k in range(120)]
    candidates: list[str] = []
    references: list[list[str]] = []
    for k, caption in enumerate(captions):
        words = caption.split()
        near = " ".join(words[int(rng.integers(0, 3)) : len(words) - int(rng.integers(0, 3))])
        own = [caption, *(captions[int(j)] for j in rng.integers(0, 120, size=int(rng.integers(0, 4))))]
        own.append(texts[k % len(texts)]) if k % 3 == 0 else None
        candidates.append((caption, near, texts[k % len(texts)], captions[(k + 1) % 120], "")[k % 5])
        references.append(own)
    return candidates, references


if __name__ == "__main__":
    main()

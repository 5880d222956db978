"""What would be sent, to look at before anything is paid: numbered pictures, the texts, and what they may cost."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from groma.curate.ledger import Tokens
from groma.curate.preparing import Prepared, SkippedError, prepare
from groma.curate.request import jpeg_bytes, readable
from groma.curate.run import Job
from groma.data.annotation import Annotation
from groma.data.cleaning import Fault
from groma.storage import write_bytes, write_text

PREVIEW_FOLDER = "preview"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What was written."""

    folder: Path
    """Holds 0001.jpg and 0001.txt, what is sent for the first picture, and so on."""
    count: int
    """Pictures in it."""
    skipped: dict[str, int]
    """Reason (groma.curate.preparing.SKIPPED) -> pictures on the way that would not be asked about."""
    tokens: Tokens
    """What one of them costs at most in tokens, estimated, if the first answer can be kept."""


def preview(annotations: Iterable[Annotation | Fault], job: Job, count: int) -> Preview:
    """Write what would be sent for the first pictures; nothing is asked.

    Args:
        annotations: As for `curate`.
        job: As for `curate`.
        count: How many pictures, at most.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder = job.out / PREVIEW_FOLDER
    skipped: Counter[str] = Counter()
    written, most = 0, Tokens()
    for item in annotations:
        if written == count:
            break
        try:
            prepared = _prepared(item, job)
        except SkippedError as error:
            skipped[error.kind] += 1
            continue
        written += 1
        write_bytes(folder / f"{written:04}.jpg", jpeg_bytes(prepared.numbered.image, job.recipe.picture.jpeg_quality))
        write_text(folder / f"{written:04}.txt", f"picture: {prepared.picture}\n\n{readable(prepared.request)}")
        asking = job.recipe.asking
        most = Tokens(max(most.question, prepared.request.text_tokens + asking.picture_tokens), asking.answer_tokens)
    return Preview(folder=folder, count=written, skipped=dict(skipped), tokens=most)


def _prepared(item: Annotation | Fault, job: Job) -> Prepared:
    if isinstance(item, Fault):
        raise SkippedError(item.kind, item.told)
    trusted = None if job.trusted is None else job.trusted.get(item.picture, Annotation(picture=item.picture))
    return prepare(item, job.pictures, job.recipe, trusted)

"""What the model is told before it sees a picture, and examples of good answers.

All wording is our own. It is part of every request, so that another wording is another request.
"""

import hashlib
from dataclasses import dataclass

from groma.curate.notation import Turn
from groma.curate.settings import Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkedExample:
    """A picture in words, and the conversation that a good answer would be."""

    regions: tuple[str, ...]
    """Descriptions of the regions 1, 2, ..."""
    captions: tuple[str, ...]
    """What is known about the whole picture."""
    turns: tuple[Turn, ...]
    """The conversation, in the notation."""


def instructions(rules: Rules) -> str:
    """The system message.

    Args:
        rules: What a conversation must be like; the limits are told.
    """
    return _INSTRUCTIONS.format(
        least=rules.min_exchanges,
        most=rules.max_exchanges,
        phrases=rules.min_phrases,
        words=rules.max_phrase_words,
        # a model does not count characters: it is told a bit less than what is allowed, in words of 6 characters
        question_words=rules.max_question_chars // 8,
        answer_words=rules.max_answer_chars // 8,
    )


_INSTRUCTIONS = """\
You write conversations that teach an assistant to look at a picture and to point at what it talks about.

You are given one picture. Frames with numbers have been drawn on it; each frame marks a region. Below the picture you \
find a description of every region, in the order of the numbers, and sometimes captions of the whole picture. \
Descriptions and captions may be incomplete or wrong: where they disagree with the picture, trust the picture.

Write a conversation between a user and the assistant about this picture.

The frames and numbers are there for you alone. The user and the assistant see the picture without them and know \
nothing of descriptions and captions. So nobody ever mentions the frames, their numbers or the regions, or says that \
something is marked, described or labelled. (A box or a picture frame that is a thing in the picture is named like any \
other thing.)

Whenever the assistant names something that is marked, tie its words to the region, like this: [a brown dog](2) or, \
for several regions, [two empty bowls](4,5).
- In the square brackets stand the words of the sentence that name the thing: a noun with its article and \
adjectives, at most {words} words. The sentence must read naturally when brackets and numbers are taken away.
- In the round brackets stand numbers of regions that exist and that show just this thing.
- Things without a frame are named without brackets. Do not guess a number.
- If you name a thing again, you may tie it again. "It" and "they" are not tied.
- Only the assistant's texts have such ties, and brackets of either kind are used for nothing else.
- Tie at least {phrases} phrases in the whole conversation; more is better, as long as it sounds natural.

What makes a good conversation:
- {least} to {most} questions, each with its answer. The user asks first, the assistant has the last word.
- Questions are what a curious person would ask about this very picture: what is going on, how things lie to each \
other, what stands out, what may happen next, what something is for, why somebody does something. Mix simple ones with \
some that need thought. No two questions are alike, and none can be answered without looking.
- Questions do not give the answer away, and do not ask where the frames are.
- Every statement can be seen in the picture or follows from it. If you are not sure, leave it out, or say that it \
cannot be told.
- Answers are whole sentences in plain prose, without lists, headings or line breaks; at most {answer_words} words. \
Questions have at most {question_words} words.

Answer with one JSON object of this form and nothing else:
{{"conversation": [{{"role": "user", "text": "..."}}, {{"role": "assistant", "text": "..."}}]}}"""

EXAMPLE_PICTURE = "(This picture is not shown; it is an example of how to answer.)"
"""Stands for the picture of a worked example."""

WORKED_EXAMPLES: tuple[WorkedExample, ...] = (
    WorkedExample(
        regions=(
            "woman in a yellow raincoat",
            "the handlebar of a bicycle",
            "a wicker basket full of leeks",
            "small white dog",
            "puddle",
        ),
        captions=("A woman pushes her bike home from the market in the rain.",),
        turns=(
            Turn("user", "What is the woman doing?"),
            Turn(
                "assistant",
                "[The woman in the yellow raincoat](1) is walking beside her bicycle and steers it with one hand on "
                "[the handlebar](2). She seems to come from shopping, for [a basket full of leeks](3) hangs in front.",
            ),
            Turn("user", "Does she have company?"),
            Turn(
                "assistant",
                "Yes, [a small white dog](4) trots along next to her. It is about to step into [a puddle](5).",
            ),
            Turn("user", "Why might she not be riding?"),
            Turn(
                "assistant",
                "The ground is wet and slippery, and [the dog](4) could not keep up with a bicycle. With "
                "[the heavy basket](3) in front, steering would be harder, too.",
            ),
        ),
    ),
    WorkedExample(
        regions=("chef", "chef", "copper pan", "window", "a row of knives on the wall", "tray of buns", "tray of buns"),
        captions=(),
        turns=(
            Turn("user", "Describe the scene, please."),
            Turn(
                "assistant",
                "[Two chefs](1,2) work side by side in a narrow kitchen. One of them tilts [a copper pan](3) over the "
                "flame, the other reaches for [two trays of buns](6,7) that have just come out of the oven. "
                "[A row of knives](5) hangs within their reach.",
            ),
            Turn("user", "What time of day could it be?"),
            Turn(
                "assistant",
                "Probably early morning: the light that falls through [the window](4) is low and pale, and "
                "[the buns](6,7) look freshly baked. The picture shows no clock, so it cannot be said for sure.",
            ),
        ),
    ),
    WorkedExample(
        regions=("the red sailboat", "lighthouse on the rocks", "a gull", "boat with a blue hull"),
        captions=("Boats pass a lighthouse.", "[The red sailboat](1) leans in the wind."),
        turns=(
            Turn("user", "Which boat is closer to the rocks?"),
            Turn(
                "assistant",
                "[The boat with the blue hull](4) is; it passes right below [the lighthouse](2), while "
                "[the red sailboat](1) keeps well away from the shore.",
            ),
            Turn("user", "How can one tell that it is windy?"),
            Turn(
                "assistant",
                "[The sailboat](1) leans far to one side, its sail is full, and there are white crests on the water.",
            ),
            Turn("user", "Is there anybody on the lighthouse's balcony?"),
            Turn("assistant", "Nobody can be seen there, only [a gull](3) sails past it."),
        ),
    ),
)
"""Conversations to imitate. Every one of them keeps the rules, which a test checks."""


def wording_digest() -> str:
    """Changes whenever the wording of instructions or examples does."""
    return hashlib.sha256(f"{_INSTRUCTIONS}{EXAMPLE_PICTURE}{WORKED_EXAMPLES}{_COMPLAINT}".encode()).hexdigest()[:16]


_COMPLAINT = """\
This answer cannot be used:
{listed}
Write the whole conversation again without these faults. Answer with the JSON object and nothing else."""


def complaint(faults: tuple[str, ...]) -> str:
    """What is said after an answer that cannot be used, so that it is written again.

    Args:
        faults: What is wrong with it, one sentence each.
    """
    return _COMPLAINT.format(listed="\n".join(f"- {fault}" for fault in faults))

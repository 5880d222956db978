"""The yield of a run: what became of all pictures, for which reasons, and what it cost."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from groma.curate.ledger import Ledger, money
from groma.curate.outcomes import Outcome
from groma.curate.settings import Budget
from groma.prompt.tokens import Special


@dataclass(slots=True, kw_only=True)
class Tally:
    """What is counted while a run goes on; every picture is in exactly one of the first counts."""

    given: int = 0
    """Annotations that were handed in."""
    kept: int = 0
    """Conversations."""
    rejected: Counter[str] = field(default_factory=Counter[str])
    """Reason (groma.curate.checking.REJECTED) -> conversations that were thrown away."""
    skipped: Counter[str] = field(default_factory=Counter[str])
    """Reason (groma.curate.preparing.SKIPPED) -> pictures that were not asked about."""
    unanswered: Counter[str] = field(default_factory=Counter[str])
    """Kind of fault (groma.curate.endpoint.EndpointError) -> pictures without an answer; the next run asks again."""
    waiting: int = 0
    """Pictures that the run did not come to, as it ended before."""
    repeated: int = 0
    """Annotations that were handed in before, to the letter."""
    repaired: int = 0
    """Conversations among the kept ones in which something was mended."""
    repairs: Counter[str] = field(default_factory=Counter[str])
    """Kind of repair (groma.curate.checking.REPAIRED) -> conversations among the kept ones."""
    attempts: Counter[str] = field(default_factory=Counter[str])
    """Which attempt brought the conversation that was kept -> how many."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Why boxes became no regions (groma.curate.regions.DROPPED) -> how many, of pictures that were asked about."""
    regions: int = 0
    """Regions of kept conversations."""
    regions_named: int = 0
    """Those of them that a phrase is tied to."""
    exchanges: int = 0
    """Questions with answers in kept conversations."""
    phrases: int = 0
    """Grounded phrases in kept conversations."""

    def add(self, outcome: Outcome) -> None:
        """Count a finished picture."""
        self.dropped.update(outcome.dropped)
        if outcome.record is None:
            self.rejected[outcome.faults[0].kind] += 1
            return
        self.kept += 1
        self.repaired += bool(outcome.repairs)
        self.repairs.update({remark.kind for remark in outcome.repairs})
        self.attempts[str(outcome.attempts)] += 1
        answers = outcome.record["conversation"][1::2]
        self.regions += len(outcome.record["boxes"])
        self.regions_named += len({box for answer in answers for box in answer["box_inds"]})
        self.exchanges += len(answers)
        self.phrases += sum(answer["value"].count(Special.PHRASE_OPEN) for answer in answers)

    @property
    def done(self) -> int:
        """Annotations that the run has come to."""
        return self.given - self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The yield of a run."""

    stopped: str | None
    """Why it ended early: "budget", "interrupted", "endpoint" or "fault" (a full disk, damaged annotations); None if it
    came to the end."""
    figures: Mapping[str, Any]
    """Nested counts, JSON values all."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"stopped": self.stopped, **self.figures}


def make_report(
    tally: Tally,
    ledger: Ledger,
    budget: Budget,
    *,
    stopped: str | None,
    sent: Mapping[str, int],
    faults: Mapping[str, int],
) -> Report:
    """Put the counts together.

    Args:
        tally: What became of the pictures.
        ledger: What was paid, in this run and all before it.
        budget: The prices.
        stopped: Why the run ended early.
        sent: Requests of this run (groma.curate.asking.Asker.counts).
        faults: Faults of this run (groma.curate.asking.Asker.faults).
    """
    judged = tally.kept + tally.rejected.total()
    return Report(
        stopped=stopped,
        figures={
            "yield": round(tally.kept / judged, 4) if judged else None,
            "pictures": {
                "given": tally.given,
                "kept": tally.kept,
                "rejected": tally.rejected.total(),
                "skipped": tally.skipped.total(),
                "unanswered": tally.unanswered.total(),
                "waiting": tally.waiting,
                "repeated": tally.repeated,
            },
            "rejected": _sorted(tally.rejected),
            "skipped": _sorted(tally.skipped),
            "unanswered": _sorted(tally.unanswered),
            "repaired": {"conversations": tally.repaired, **_sorted(tally.repairs)},
            "kept_after_attempt": dict(sorted(tally.attempts.items())),
            "boxes_dropped": _sorted(tally.dropped),
            "conversations": {
                "exchanges": tally.exchanges,
                "phrases": tally.phrases,
                "regions": tally.regions,
                "regions_named": tally.regions_named,
            },
            "requests_of_this_run": {
                "sent": sent.get("sent", 0),
                "answered": sent.get("answered", 0),
                "from_answers_file": sent.get("from_ledger", 0),
                "faults": _sorted(faults),
            },
            "paid_in_all_runs": _paid(ledger, budget),
        },
    )


def _paid(ledger: Ledger, budget: Budget) -> dict[str, Any]:
    """What is known to be paid, and what requests without an answer may have cost."""
    return {
        "answers": ledger.counts["answered"],
        "answers_without_count": ledger.counts["uncounted"],
        "question_tokens": ledger.paid.question,
        "answer_tokens": ledger.paid.answer,
        "money": _rounded(money(ledger.paid, budget)),
        "perhaps_paid": {
            "requests": ledger.counts["sent"] - ledger.counts["answered"] - ledger.counts["void"],
            "tokens_at_most": ledger.open.total,
            "money_at_most": _rounded(money(ledger.open, budget)),
        },
    }


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _rounded(amount: float | None) -> float | None:
    return None if amount is None else round(amount, 6)

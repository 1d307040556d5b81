"""What a plan says: a budget, the bound behind it, and all that was tried on the way."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

CERTIFIED, NOT_CERTIFIED = "certified", "not certified"
UNITS = {"kl": "nats", "tv": "", "top1": ""}  # of a loss, by metric; the others are shares


@dataclass(frozen=True)
class Tried:
    """A budget that was tested, on `documents` documents that no choice had seen.

    `mean` of their losses, each counted with its cap (`Clipped`), `bound` the upper confidence
    bound of that mean over all documents like them, `p_value` of "that mean is above ε", `passed`
    whether this budget and all larger ones were certified.
    """

    budget: int
    mean: float
    bound: float
    p_value: float
    documents: int
    passed: bool


@dataclass(frozen=True)
class Law:
    """The decay that was fitted to the measuring half: `name` is of `fit.LAWS`.

    `exponent` with its 95% interval over documents, `amplitude` the constant in front, in the unit
    of the loss; the law's window is the budget without `sinks`. `budget` is the least that the law
    foretells for ε, `loss` what it foretells at the budget that was proposed; None where that is
    not among the windows it was fitted to.
    """

    name: str
    exponent: float
    low: float
    high: float
    amplitude: float
    sinks: int
    budget: int | None
    loss: float | None


@dataclass(frozen=True)
class Clipped:
    """Of KL alone, which has no largest value: documents above `cap_nats` count as `cap_nats`.

    `share` of the certification documents were, at the budget of the plan; `share_bound` is its
    upper confidence bound (Clopper-Pearson).
    """

    cap_nats: float
    share: float
    share_bound: float


@dataclass(frozen=True)
class NextDocument:
    """Conformal risk control: the expected loss of the next document at `budget` is at most
    `bound` ≤ ε; no confidence is asked for. `budget` None: not with so few documents."""

    budget: int | None
    bound: float


@dataclass(frozen=True)
class Documents:
    """How many documents were measured, and how many others certified on; `tokens` of each, cut
    out of so many `files`."""

    measured: int
    certification: int
    tokens: int
    files: int


@dataclass(frozen=True)
class Plan:
    """The least budget whose loss is certified to be at most ε, or why there is none.

    Losses are means over a document's targets: `metric` "kl" in nats, "tv" and "top1" (share of
    targets whose likeliest next token changes) in [0, 1]. `bound` and `measured` are those of
    `budget` on the certification half; without a budget, those of the largest one tried.
    `measured` is the mean without a cap, `bound` that of the mean with it (`Clipped`). `tails`
    maps quantiles ("0.5", "0.9", "0.99", "1") of single targets' losses there, of documents' for
    "top1", to values. `context` is the longest context that was read, in tokens.
    `documents_that_would_do` are those of both halves, where there were too few.
    """

    model: str
    texts: tuple[str, ...]
    metric: str
    policy: str
    protocol: str
    epsilon: float
    confidence: float
    status: str
    budget: int | None
    bound: float
    measured: float
    context: int
    proposed: tuple[Tried, ...]
    law: Law | None
    tails: dict[str, float]
    clipped: Clipped | None
    next_document: NextDocument
    documents: Documents
    documents_that_would_do: int | None
    reason: str
    assumption: str

    @property
    def certified(self) -> bool:
        """Whether there is a budget with a guarantee."""
        return self.status == CERTIFIED

    def as_json(self) -> str:
        """All of it, as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What `as_json` wrote; ValueError with one line for what is no plan."""
        try:
            said = json.loads(text)
            return cls(**{field.name: _read(field.name, said[field.name]) for field in fields(cls)})
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"expected a plan as JSON, got something else ({line})") from None


PARTS = {"law": Law, "clipped": Clipped, "next_document": NextDocument, "documents": Documents}


def _read(name: str, value: Any) -> Any:
    """A field as JSON has it → as a plan has it."""
    if name == "texts":
        return tuple(map(str, value))
    if name == "proposed":
        return tuple(Tried(**one) for one in value)
    return PARTS[name](**value) if name in PARTS and value is not None else value

"""What people say about the answers of base and candidate (summarised by review.ratings)."""

from collections.abc import Mapping

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.preferences.judge import Choice


class Accepted(Facts, frozen=True, kw_only=True):
    """Which models' answers to one example people accept."""

    candidate: bool
    base: bool


class AcceptedShare(Facts, frozen=True, kw_only=True):
    """How many answers of one model people accept."""

    acceptable: int
    share: float
    interval: tuple[float, float]


class Ratings(Facts, frozen=True, kw_only=True):
    """Answers judged by people; shares, gain (Tango's interval) and p (sign test) only for rows drawn at random."""

    n: int
    only_candidate: int
    only_base: int
    both: int
    neither: int
    candidate: AcceptedShare | None = None
    base: AcceptedShare | None = None
    gain: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


class Agreement(Facts, frozen=True, kw_only=True):
    """Agreement over the items that several people rated. `kappa`: Cohen's, None where it is undefined."""

    items: int
    share: float
    kappa: float | None


class Comment(Accepted, frozen=True, kw_only=True):
    """A person's comment on one example, and which answers they accept."""

    id: str
    rater: str
    comment: str


class People(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of human_review.

    Attributes:
        unknown: Ratings of other sheets, and of examples that are not on their sheet.
        raters: Rated items by person.
        items: By example id.
        of_earlier_candidates: Ratings that are only counted.
        by_rule: Faulty lines of the rating files.
    """

    rated: int
    unknown: int = 0
    raters: dict[str, int] = {}
    confidence: float | None = None
    random: Ratings | None = None
    selected: Ratings | None = None
    agreement: Agreement | None = None
    comments: list[Comment] = []
    items: dict[str, Accepted] = {}
    of_earlier_candidates: int = 0
    by_rule: dict[str, int] = {}


def people_choices(items: Mapping[str, Accepted]) -> dict[str, Choice]:
    """People's preference per example: `b` is the candidate; both or neither is a tie."""
    choices: dict[str, Choice] = {}
    for i, accepted in items.items():
        choices[i] = "tie"
        if accepted.candidate != accepted.base:
            choices[i] = "b" if accepted.candidate else "a"
    return choices

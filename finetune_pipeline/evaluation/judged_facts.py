"""Typed facts of evaluations besides the task's own test: general ability, human review, judge model, similarity."""

from finetune_pipeline.evaluation.result_parts import Count, Facts, Flag, Interval, Number, Rate


class Accuracy(Facts):
    accuracy: Number = None
    interval: Interval = None


class Loss(Facts):
    """Accuracy lost on questions (positive: worse), with its interval."""

    n: Count = None
    drop: Number = None
    interval: Interval = None


class Category(Loss):
    """One category before and after; `unit`: accuracy or bits_per_byte."""

    unit: str = "accuracy"
    before: Number = None
    after: Number = None


class TextCost(Facts):
    """Bits per byte of plain text before and after training (positive rise: worse)."""

    before: Number = None
    after: Number = None
    rise: Number = None
    interval: Interval = None


class AbilityLoss(Loss):
    """General ability before and after (ability.drop.ability_drop). `items`: how many were asked."""

    items: Count = None
    before: Accuracy = Accuracy()
    after: Accuracy = Accuracy()
    lost: Count = None
    gained: Count = None
    mcnemar_p: Number = None
    smallest_visible: Number = None
    text: TextCost | None = None
    categories: dict[str, Category] = {}
    benchmarks: dict[str, Loss] = {}
    failed: list[str] = []


class Ability(AbilityLoss):
    """General ability compared with base model and champion. `not_asked`: why this candidate could not be tested."""

    champion: AbilityLoss | None = None
    not_asked: str = ""


class Ratings(Facts):
    """Answers judged by people; accepted shares (`candidate`, `base`) and `gain` only for rows drawn at random."""

    n: Count = None
    only_candidate: Count = None
    only_base: Count = None
    both: Count = None
    neither: Count = None
    candidate: Rate = Rate()
    base: Rate = Rate()
    gain: Number = None
    interval: Interval = None
    p: Number = None


class Agreement(Facts):
    """Agreement of raters with each other. `kappa`: Cohen's, None where it is undefined."""

    items: int
    share: Number = None
    kappa: Number = None


class Comment(Facts):
    """A person's comment on one example, and which answers they accept."""

    id: str
    candidate: bool
    base: bool
    comment: str
    rater: str


class People(Facts):
    """Facts of human_review (review.ratings.summarise)."""

    rated: int = 0
    raters: dict[str, int] = {}
    random: Ratings | None = None
    selected: Ratings | None = None
    agreement: Agreement | None = None
    comments: list[Comment] = []
    of_earlier_candidates: int = 0


class Preferred(Facts):
    """A sign test of one choice against another."""

    wins: int = 0
    losses: int = 0
    ties: int = 0
    equal: int = 0
    failed: int = 0
    share: Number = None
    interval: Interval = None
    p: Number = None


class JudgeFindings(Facts):
    """A judge model: whether it is trusted, and what it prefers (preferences.qualify.judged_pairs).

    Attributes:
        refused: Reasons not to trust it.
        rated: Pairs rated by people that it could judge; failed: pairs that it could not.
        kappa: Agreement with people, beyond chance, with its interval; agreement: share of pairs.
        consistent: Share judged the same in both orders.
        place: Sign test of position bias; length: of errors towards the longer answer; padding: of a preference for answers
            with empty words added.
        verdict: Sign test of the candidate against the base model on the whole test; None if it is not trusted.
    """

    name: str = "the judge"
    believed: Flag = None
    refused: list[str] = []
    rated: int = 0
    failed: int = 0
    kappa: Number = None
    interval: Interval = None
    agreement: Number = None
    consistent: Number = None
    place: Preferred = Preferred()
    length: Preferred = Preferred()
    padding: Preferred = Preferred()
    verdict: Preferred | None = None


class Similarity(Facts):
    """Likeness to the reference answers by embeddings (preferences.qualify.similar)."""

    model: str
    n: int
    base: float
    candidate: float
    gain: float
    interval: Interval = None
    rated: int = 0
    kappa: Number = None
    kappa_interval: Interval = None

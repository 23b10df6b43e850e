"""How far people agree who answered the same rows for test and validation."""

from finetune_pipeline.data.answer_equality import answer_key, same_answer
from finetune_pipeline.data.people import PeopleAnswers, ReviewersAgreement
from finetune_pipeline.evaluation.statistics.resampling import cohens_kappa, kappa_interval
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.spec.model import TaskSpec


def reviewers_agreement(people: PeopleAnswers, spec: TaskSpec) -> ReviewersAgreement | None:
    """Compare the first answers of two people to each row that several answered; None if there is no such row."""
    if not (pairs := people.pairs()):
        return None
    first = [answer_key(a, spec.output) for a, _ in pairs]
    second = [
        key if same_answer(a, b, spec.output) else answer_key(b, spec.output)
        for key, (a, b) in zip(first, pairs, strict=True)
    ]
    return ReviewersAgreement(
        rows=len(pairs),
        same=sum(a == b for a, b in zip(first, second, strict=True)),
        kappa=cohens_kappa(first, second),
        interval=kappa_interval(first, second),
    )


def agreement_sentence(agreement: ReviewersAgreement) -> str:
    """Say how many rows two people answered alike, with Cohen's kappa and its interval where they are defined."""
    sentence = f"Two people answered {counted(agreement.rows, 'row')}, {agreement.same:,} of them alike"
    if agreement.kappa is None:
        return f"{sentence}."
    interval = f", {agreement.interval[0]:.2f} to {agreement.interval[1]:.2f}" if agreement.interval else ""
    return f"{sentence} (kappa {agreement.kappa:.2f}{interval})."

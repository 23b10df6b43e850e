"""Report sections on evaluations besides the task's own test: general ability, human review, judge model, similarity."""

from typing import Any

from finetune_pipeline.evaluation.ability.drop import Ability, Accuracy, Category, QuestionLoss
from finetune_pipeline.evaluation.preferences.judge import JudgeFindings, Similarity
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import (
    NOTHING,
    counted,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
)
from finetune_pipeline.report.blocks import Blocks, Table, Text, figure, text


def ability_section(evaluation: EvaluationResult) -> Blocks:
    ability = evaluation.ability
    if ability is None:
        return
    if not ability.items:
        reason = "General ability was not measured: ability.suite is off, and there are neither files nor tasks."
        yield ability.not_asked or reason
        return
    yield from ability_sentences(ability)
    champion = ability.champion.categories if ability.champion else {}
    rows = []
    for name, category in ability.categories.items():
        champion_category = champion.get(name)
        before, after, change = _level(category, category.before), _level(category, category.after), _change(category)
        row = [name.replace("_", " "), category.n, before, after, change]
        if ability.champion:
            row[3:3] = [_level(champion_category, champion_category.before) if champion_category else NOTHING]
            row.append(_change(champion_category) if champion_category else NOTHING)
        rows.append(row)
    titles = ["Before", "After", "Change"]
    if ability.champion:
        titles = ["Before", "Champion", "After", "Change", "Change against the champion"]
    yield Table([("Ability", text), ("Items", number), *((title, figure) for title in titles)], rows)


def ability_sentences(ability: Ability) -> list[str]:
    sentences = [
        f"Of {counted(ability.n, 'question')} unrelated to the task, the base model has "
        f"{_share(ability.before)} right and the fine-tuned one {_share(ability.after)}: "
        f"{_loss_phrase(ability)}, exact McNemar p {p_value(ability.mcnemar_p)}). The likelihood of the correct choice is "
        "compared; nothing is generated."
    ]
    if champion := ability.champion:
        sentences.append(
            f"The current champion has {_share(champion.before)} of {counted(champion.n, 'question')} "
            f"right; against it {_loss_phrase(champion)})."
        )
    if ability.smallest_visible is not None:
        sentences.append(
            f"This many questions show a loss of {points(ability.smallest_visible, sign=False)} points four times in five; a "
            "smaller one may be missed."
        )
    if (cost := ability.text) and cost.interval:
        sentences.append(
            f"Plain text costs {cost.before:.3f} bits per byte before and {cost.after:.3f} after training "
            f"(change {cost.rise:+.3f}, {cost.interval[0]:+.3f} to {cost.interval[1]:+.3f}; more is worse)."
        )
    if ability.failed:
        sentences.append(f"{counted(len(ability.failed), 'item')} could not be scored and count for neither model.")
    return sentences


def _share(rate: Accuracy | None) -> str:
    return percent(rate.accuracy if rate else None)


def _loss_phrase(loss: QuestionLoss) -> str:
    """Return `6.0 points lost (change -11.2 to -1.0; 10 lost, 4 gained`, with the bracket left open."""
    drop = loss.drop or 0.0
    size = f"{abs(100 * drop):.1f} points"
    lost = f"{size} lost" if drop > 0 else f"{size} gained" if drop < 0 else "nothing lost"
    interval = points_range((-loss.interval[1], -loss.interval[0])) if loss.interval else NOTHING
    return f"{lost} (change {interval}; {number(loss.lost)} lost, {number(loss.gained)} gained"


def _level(category: Category, value: float) -> str:
    return percent(value) if category.unit == "accuracy" else f"{value:.3f} bits a byte"


def _change(category: Category) -> str:
    """Format a change with its interval. A drop in accuracy is negative; an increase of a text's cost is positive."""
    shares, interval = category.unit == "accuracy", category.interval
    change = points(category.after - category.before) if shares else f"{category.after - category.before:+.3f}"
    if interval is None:
        return change
    low, high = (-interval[1], -interval[0]) if shares else interval
    return f"{change} ({points_range((low, high)) if shares else f'{low:+.3f} to {high:+.3f}'})"


def people_section(evaluation: EvaluationResult) -> Blocks:
    people = evaluation.people
    if people is None:
        return
    yield from people_sentences(people, evaluation.task.name)
    if people.raters:
        raters = ", ".join(f"{name} ({n})" for name, n in people.raters.items())
        yield Text(f"Raters: {raters}.", audience="page")
    yield Table(
        [(title, text) for title in ("Example", "Fine-tuned accepted", "Base accepted", "Comment", "Rater")],
        [[c.id, number(c.candidate), number(c.base), c.comment, c.rater] for c in people.comments],
        style="",
        audience="page",
    )


def people_sentences(people: People, task: str) -> list[str]:
    if not people.rated:
        waiting, command = people.of_earlier_candidates, f"`finetune review {task}` shows them side by side, blind."
        earlier = f" {counted(waiting, 'rating')} of earlier candidates are kept." if waiting else ""
        return [f"Nobody has reviewed these answers yet: {command}{earlier}"]
    sentences = []
    if (ratings := people.random) and ratings.candidate and ratings.base:
        sentences.append(
            f"Of {counted(ratings.n, 'answer')} drawn at random, people accept {percent(ratings.candidate.share)} of the "
            f"fine-tuned model's ({percent_range(ratings.candidate.interval)}) and {percent(ratings.base.share)} of the base "
            f"model's ({percent_range(ratings.base.interval)}); only the fine-tuned one's in {ratings.only_candidate} cases, only "
            f"the base's in {ratings.only_base} (gain {points(ratings.gain)} points, {points_range(ratings.interval)}, exact p "
            f"{p_value(ratings.p)})."
        )
    if ratings := people.selected:
        sentences.append(
            f"Of {counted(ratings.n, 'answer')} picked because they looked wrong or the models differed, "
            f"{ratings.only_candidate} are acceptable from the fine-tuned model alone, {ratings.only_base} from the base "
            f"alone, {ratings.both} from both and {ratings.neither} from neither. They show how the model fails, not how often."
        )
    if agreement := people.agreement:
        kappa = agreement.kappa
        beyond = f" (Cohen's kappa {kappa:.2f})." if kappa is not None else ", but all gave the same answer."
        judged = f"{counted(agreement.items, 'item')} were judged by more than one person"
        sentences.append(f"{judged}; they agree on {percent(agreement.share)}{beyond}")
    return sentences


def judge_section(evaluation: EvaluationResult) -> Blocks:
    if judge := evaluation.judge:
        yield from judge_sentences(judge)
        tests: list[tuple[str, Any]] = [
            ("Inconsistent in favour of the first answer; of the second", judge.place),
            ("Wrong in favour of the longer answer; of the shorter", judge.length),
            ("Wrong in favour of the candidate; of the other model", judge.side),
            ("Prefers the padded answer; the unpadded", judge.padding),
        ]
        columns = [("Bias of the judge", text), ("First", number), ("Second", number), ("Exact p", p_value)]
        yield Table(columns, [[title, test.wins, test.losses, test.p] for title, test in tests] if judge.rated else [])
    if evaluation.similarity:
        yield from similarity_sentences(evaluation.similarity)


def judge_sentences(judge: JudgeFindings, rows: str = "of the test", model: str = "fine-tuned model") -> list[str]:
    """Say whether a judge is trusted, and what it prefers. rows: those it compared; model: whose answers are the candidate's."""
    sentences = [
        f"{judge.name} is trusted: it agrees with people."
        if judge.believed
        else f"{judge.name} is not trusted, and its verdict is ignored: {'; '.join(judge.refused)}."
    ]
    if judge.rated:
        sentences.append(
            f"With people on {counted(judge.rated, 'pair')} of different answers: {_kappa(judge.kappa, judge.interval)}, "
            f"the same choice in {percent(judge.agreement)}; alike in both orders {percent(judge.consistent)}."
        )
    if preferred := judge.verdict:
        sentences.append(
            f"Of {counted(preferred.wins + preferred.losses, 'decided pair')} {rows} it prefers the {model}'s answer in "
            f"{percent(preferred.share)} ({percent_range(preferred.interval)}, exact p {p_value(preferred.p)}); "
            f"{counted(preferred.ties, 'tie')}, {preferred.equal} equal answers, {preferred.failed} not judged."
        )
    return sentences


def similarity_sentences(similarity: Similarity) -> list[str]:
    bounds = "rows of one source, so no interval"
    if similarity.interval:
        bounds = "{:+.3f} to {:+.3f}".format(*similarity.interval)
    agreement = "Nobody has rated these answers, so its agreement with people is unknown."
    if similarity.rated:
        kappa = _kappa(similarity.kappa, similarity.kappa_interval)
        rated = counted(similarity.rated, "pair")
        agreement = f"Preferring the more similar answer agrees with people on {rated}: {kappa}."
    return [
        f"Similarity to the reference answers (mean cosine similarity, {similarity.model}, {counted(similarity.n, 'row')}): base "
        f"{similarity.base:.3f}, fine-tuned {similarity.candidate:.3f}, gain {similarity.gain:+.3f} ({bounds}). "
        "It does not check facts: a wrong number hardly changes it.",
        agreement,
    ]


def _kappa(kappa: float | None, interval: tuple[float, float] | None) -> str:
    if kappa is None:
        return "kappa is undefined because one side always gives the same answer"
    between = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"Cohen's kappa {kappa:.2f}{between}"

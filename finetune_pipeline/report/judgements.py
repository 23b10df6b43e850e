"""Report sections on evaluations besides the task's own test: general ability, human review, judge model, similarity."""

from typing import Any

from finetune_pipeline.evaluation.ability.harness_tasks import CATEGORY
from finetune_pipeline.evaluation.judged_facts import Ability, AbilityLoss, Category, JudgeFindings, People, Similarity
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
        off = "General ability was not measured: ability.suite is off, and there are neither files nor tasks."
        yield ability.not_asked or off
        return
    yield from ability_sentences(ability)
    champion = ability.champion.categories if ability.champion else {}
    rows = []
    for name, of in ability.categories.items():
        other = champion.get(name)
        before, after, change = _level(of, of.before), _level(of, of.after), _change(of)
        row = [name if name.startswith(CATEGORY) else name.replace("_", " "), of.n, before, after, change]
        if ability.champion:
            row[3:3] = [_level(other, other.before) if other else NOTHING]
            row.append(_change(other) if other else NOTHING)
        rows.append(row)
    titles = ["Before", "After", "Change"]
    if ability.champion:
        titles = ["Before", "Champion", "After", "Change", "Change against the champion"]
    yield Table([("Ability", text), ("Items", number), *((title, figure) for title in titles)], rows)


def ability_sentences(ability: Ability) -> list[str]:
    compared = "tasks of lm-evaluation-harness use their own metrics" if ability.harness else "nothing is generated"
    sentences = [
        f"Of {counted(ability.n or 0, 'question')} unrelated to the task, the base model has "
        f"{percent(ability.before.accuracy)} right and the fine-tuned one {percent(ability.after.accuracy)}: "
        f"{_lost(ability)}, exact McNemar p {p_value(ability.mcnemar_p)}). The likelihood of the correct choice is "
        f"compared; {compared}."
    ]
    if ability.harness:
        tasks = ", ".join(
            f"{name} ({of.metric}, {counted(of.rows, 'row')}, {counted(of.shots, 'shot')})"
            for name, of in ability.harness.tasks.items()
        )
        sentences.append(f"Tasks of lm-evaluation-harness {ability.harness.lm_eval}, run offline: {tasks}.")
    if champion := ability.champion:
        sentences.append(
            f"The current champion has {percent(champion.before.accuracy)} of {counted(champion.n or 0, 'question')} "
            f"right; against it {_lost(champion)})."
        )
    if ability.smallest_visible is not None:
        sentences.append(
            f"This many questions show a loss of {points(ability.smallest_visible, sign=False)} points four times in five; a "
            "smaller one may be missed."
        )
    if (cost := ability.text) and cost.interval and None not in (cost.before, cost.after, cost.rise):
        sentences.append(
            f"Plain text costs {cost.before:.3f} bits per byte before and {cost.after:.3f} after training "
            f"(change {cost.rise:+.3f}, {cost.interval[0]:+.3f} to {cost.interval[1]:+.3f}; more is worse)."
        )
    if ability.failed:
        sentences.append(f"{counted(len(ability.failed), 'item')} could not be scored and count for neither model.")
    return sentences


def _lost(of: AbilityLoss) -> str:
    """Return `6.0 points lost (change -11.2 to -1.0; 10 lost, 4 gained`, with the bracket left open."""
    drop = of.drop or 0.0
    size = f"{abs(100 * drop):.1f} points"
    lost = f"{size} lost" if drop > 0 else f"{size} gained" if drop < 0 else "nothing lost"
    interval = points_range((-of.interval[1], -of.interval[0])) if of.interval else NOTHING
    return f"{lost} (change {interval}; {number(of.lost)} lost, {number(of.gained)} gained"


def _level(of: Category, value: float | None) -> str:
    return percent(value) if of.unit == "accuracy" else NOTHING if value is None else f"{value:.3f} bits a byte"


def _change(of: Category) -> str:
    """Format a change with its interval. A drop in accuracy is negative; an increase of a text's cost is positive."""
    if of.before is None or of.after is None:
        return NOTHING
    shares, interval = of.unit == "accuracy", of.interval
    change = points(of.after - of.before) if shares else f"{of.after - of.before:+.3f}"
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
        waiting, how = people.of_earlier_candidates, f"`finetune review {task}` shows them side by side, blind."
        earlier = f" {counted(waiting, 'rating')} of earlier candidates are kept." if waiting else ""
        return [f"Nobody has reviewed these answers yet: {how}{earlier}"]
    sentences = []
    if half := people.random:
        sentences.append(
            f"Of {counted(half.n or 0, 'answer')} drawn at random, people accept {percent(half.candidate.share)} of the "
            f"fine-tuned model's ({percent_range(half.candidate.interval)}) and {percent(half.base.share)} of the base model's "
            f"({percent_range(half.base.interval)}); only the fine-tuned one's in {half.only_candidate} cases, only the "
            f"base's in {half.only_base} (gain {points(half.gain)} points, {points_range(half.interval)}, exact p "
            f"{p_value(half.p)})."
        )
    if half := people.selected:
        sentences.append(
            f"Of {counted(half.n or 0, 'answer')} picked because they looked wrong or the models differed, "
            f"{half.only_candidate} are acceptable from the fine-tuned model alone, {half.only_base} from the base "
            f"alone, {half.both} from both and {half.neither} from neither. They show how the model fails, not how often."
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
            ("Prefers the padded answer; the unpadded", judge.padding),
        ]
        columns = [("Bias of the judge", text), ("First", number), ("Second", number), ("Exact p", p_value)]
        yield Table(columns, [[title, of.wins, of.losses, of.p] for title, of in tests] if judge.rated else [])
    if evaluation.similarity:
        yield from similarity_sentences(evaluation.similarity)


def judge_sentences(judge: JudgeFindings) -> list[str]:
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
            f"Of {counted(preferred.wins + preferred.losses, 'decided pair')} of the test it prefers the fine-tuned answer in "
            f"{percent(preferred.share)} ({percent_range(preferred.interval)}, exact p {p_value(preferred.p)}); "
            f"{counted(preferred.ties, 'tie')}, {preferred.equal} equal answers, {preferred.failed} not judged."
        )
    return sentences


def similarity_sentences(of: Similarity) -> list[str]:
    low, high = of.interval
    agreement = "Nobody has rated these answers, so its agreement with people is unknown."
    if of.rated:
        kappa = _kappa(of.kappa, of.kappa_interval)
        agreement = f"Preferring the more similar answer agrees with people on {counted(of.rated, 'pair')}: {kappa}."
    return [
        f"Similarity to the reference answers (mean cosine similarity, {of.model}, {counted(of.n, 'row')}): base "
        f"{of.base:.3f}, fine-tuned {of.candidate:.3f}, gain {of.gain:+.3f} ({low:+.3f} to {high:+.3f}). It "
        "does not check facts: a wrong number hardly changes it.",
        agreement,
    ]


def _kappa(kappa: float | None, interval: tuple[float, float] | None) -> str:
    if kappa is None:
        return "kappa is undefined because one side always gives the same answer"
    between = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"Cohen's kappa {kappa:.2f}{between}"

"""Decides between the supervised model and the same model after a second stage on preferences.

The refined model goes on only if it is surely better in the task's metric or, with text, people who do not see whose answers
they compare, or they and a judge model that agrees with them, surely find its answers better more often than worse. It must
surely lose nothing in form, length and general ability; with text, it must not have learnt a phrase that the references do not
write, unless people, who read it, surely prefer it. A tie keeps the supervised model. This is decided on the validation rows. If
the refined model goes on, the supervised one answers the sealed test, too, and the same must be shown there.
"""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.ability.drop import Loss
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row, scored_text
from finetune_pipeline.evaluation.deciding import decide_gain
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.metrics.base import ShareOfRight, metric_title
from finetune_pipeline.evaluation.predictions import CANDIDATE, same_rows
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_mean
from finetune_pipeline.evaluation.wording import points
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training.facts import Compared, Difference, RefinedChoice

SUPERVISED, REFINED = "supervised", "refined"
NO_GAIN, FORM, LENGTH, PHRASES, ABILITY = "no sure gain", "form", "length", "phrases", "general ability"
"""Reasons why the refined model does not go on."""
Interval = tuple[float, float]
WORDS = 4
"""Most words of a phrase."""
_LEAST_SOURCES = 8
"""Phrases of fewer sources are not tested: they could not be shown."""
_SHOWN = 3


def choose(
    spec: TaskSpec,
    supervised: Sequence[Row],
    refined: Sequence[Row],
    sources: SourceOf = None,
    ability: Loss | None = None,
    level: float | None = None,
) -> RefinedChoice:
    """Compare both models' answers to the validation rows.

    Args:
        sources: Of each row, by id (Example.made_from).
        ability: Of ability.drop.ability_drop, for the supervised and the refined model; None: not asked.
        level: Two-sided, of the gain; by default that of gates.confidence, at which losses are always looked for.
    """
    before, after = (scored(rows, spec.output) for rows in same_rows(supervised, refined))
    clusters, confidence = shared_sources(before, sources), spec.gates.confidence
    gain_level = 1 - confidence if level is None else level
    decision = decide_gain(
        {"supervised": before},
        after,
        spec.output,
        [spec.metric],
        level=gain_level,
        margin=0.0,
        clusters=clusters,
    )
    (measured,) = decision.gains
    exact_p = None
    if METRICS[spec.metric].right_or_wrong:
        pairs = list(zip(before, after, strict=True))
        exact_p = mcnemar_exact(
            sum(a.right and not b.right for a, b in pairs), sum(b.right and not a.right for a, b in pairs)
        )
    better = bool(decision.shown) and (exact_p is None or exact_p <= gain_level)
    form = _difference(
        [float(row.valid) for row in before],
        [float(row.valid) for row in after],
        ShareOfRight.gain_interval([r.valid for r in before], [r.valid for r in after], confidence, clusters),
    )
    longer, phrases = None, list[str]()
    if spec.output.kind == "text":
        texts, new_texts = ([str(row["text"]) for row in rows] for rows in (before, after))
        references = [str(row["gold"]) for row in before]
        phrases = new_phrases(texts, new_texts, references, clusters or range(len(before)), 1 - confidence)
        excess_before, excess_after = ([_excess(row) for row in rows] for rows in (before, after))
        longer = _difference(
            excess_before, excess_after, paired_bootstrap_mean(excess_before, excess_after, confidence, clusters)
        )
    lost = None
    if ability is not None and ability.drop is not None and ability.interval is not None:
        low, high = ability.interval
        lost = Difference(mean=-ability.drop, interval=(-high, -low))
    gain = Difference(mean=float(measured.gain or 0.0), interval=measured.interval)
    return decided(
        RefinedChoice(
            refined=False,
            reasons=[],
            sentence="",
            metric=spec.metric,
            rows=len(before),
            changed=sum(a["text"] != b["text"] for a, b in zip(before, after, strict=True)),
            better=better,
            gain=gain,
            exact_p=exact_p,
            form=form,
            longer=longer,
            phrases=phrases,
            ability=lost,
        )
    )


def confirmed(
    spec: TaskSpec, rows: Mapping[str, Sequence[Row]], chosen: RefinedChoice, sources: SourceOf, level: float
) -> RefinedChoice | None:
    """Compare both models' answers to the sealed test; None if the supervised model was not asked.

    Where the refined model's answers were preferred, no gain in the metric is needed here either.

    Args:
        rows: Answers by model; REFINED are those to compare where the candidate's are an endpoint's.
        chosen: On the validation rows.
        level: Two-sided, of the gain: that of this judgement by the sealed test.
    """
    if SUPERVISED not in rows:
        return None
    measured = choose(spec, rows[SUPERVISED], rows.get(REFINED, rows[CANDIDATE]), sources, level=level)
    return decided(replace(measured, split="test"), chosen.people, chosen.judge)


def decided(measured: RefinedChoice, people: Compared | None = None, judge: Compared | None = None) -> RefinedChoice:
    """Return the choice that follows from the figures, and from what people and a judge say.

    A judge's preference does not excuse a new phrase: it may like what people do not.

    Args:
        measured: With the figures; its decision is made anew.
        people: None if nobody has compared answers, or if they are no text.
        judge: Of people and a trusted judge together; None if there is no such judge.
    """
    for_people = people is not None and people.surely_better
    measured = replace(measured, people=people, judge=judge)
    losses = {
        NO_GAIN: not measured.better and not measured.liked,
        FORM: measured.form.surely_below,
        LENGTH: measured.longer is not None and measured.longer.surely_above,
        PHRASES: bool(measured.phrases) and not for_people,
        ABILITY: measured.ability is not None and measured.ability.surely_below,
    }
    reasons = [name for name, is_lost in losses.items() if is_lost]
    choice = replace(measured, refined=not reasons, reasons=reasons)
    return replace(choice, sentence=_sentence(choice))


def changed_answers(
    supervised: Sequence[Row], refined: Sequence[Row], examples: Mapping[str, Example]
) -> list[dict[str, str]]:
    """Return the rows that both models answer differently: id, source, request, reference, and both answers."""
    return [
        {
            "id": (name := a["example_id"]),
            "source": examples[name].made_from,
            "request": examples[name].user_text,
            "reference": a["gold"],
            SUPERVISED: scored_text(a),
            REFINED: scored_text(b),
        }
        for a, b in zip(*same_rows(supervised, refined), strict=True)
        if a["text"] != b["text"]
    ]


def _difference(before: Sequence[float], after: Sequence[float], interval: Interval | None) -> Difference:
    return Difference(mean=(sum(after) - sum(before)) / max(1, len(before)), interval=interval)


def _excess(row: ScoredRow) -> float:
    """The share of an answer's characters beyond the length of its reference, from 0 to 1."""
    return max(0.0, 1 - len(str(row["gold"])) / max(1, len(str(row["text"]))))


def _sentence(choice: RefinedChoice) -> str:
    gain = choice.gain
    interval = gain.interval or (-1.0, 1.0)
    measured = (
        f"{points(gain.mean)} points of {metric_title(choice.metric)} on {choice.rows} {choice.split} rows "
        f"({points(interval[0])} to {points(interval[1])})"
    )
    compared = "; ".join(
        f"of {each.rated} rows that people{f' and, {each.judged} of them, the judge model' if each.judged else ''} compared, its "
        f"answer is better in {each.refined}, the supervised model's in {each.supervised}"
        for each in (choice.people, choice.judge)
        if each is not None
    )
    phrases = ", ".join(map(repr, choice.phrases))
    if not choice.reasons:
        besides = [name for name, each in ((LENGTH, choice.longer), (ABILITY, choice.ability)) if each is not None]
        kept = " or ".join(["form", *besides])
        why = "; ".join(filter(None, (compared, measured)))
        learnt = f" It writes {phrases} more often, which people have read." if choice.phrases else ""
        verdict = (
            "The refined model goes on" if choice.split == "validation" else "The sealed test confirms the second stage"
        )
        return f"{verdict}: {why}, with no sure loss in {kept}.{learnt}"
    causes = {
        NO_GAIN: "it is not surely better in the task's metric"
        + (", nor for those who compared answers" if compared else ""),
        FORM: "it surely loses form",
        LENGTH: "its answers surely exceed the length of the references more",
        PHRASES: f"it has learnt to write {phrases}, which the references do not",
        ABILITY: "it surely loses general ability",
    }
    why = "; ".join(causes[name] for name in choice.reasons)
    why += f" ({'; '.join(filter(None, (compared, measured)))})."
    if choice.split == "test":
        return f"The sealed test does not confirm the second stage: {why}"
    is_open = choice.longer is not None and choice.changed and {*choice.reasons} <= {NO_GAIN, PHRASES}
    ask = " Let people compare the answers: `finetune review TASK --what refined`." if is_open else ""
    return f"The supervised model stays: {why}{ask}"


def new_phrases(
    before: Sequence[str], after: Sequence[str], references: Sequence[str], sources: Sequence[Hashable], level: float
) -> list[str]:
    """Return the phrases of at most four words that occur surely more often after than before, and surely more often than in the
    references; at most three, the most frequent first, without parts of each other. Phrases of words that are all new come alone.

    A source counts once, by its first row. Both exact McNemar tests hold at `level`, divided by the number of phrases tested, so
    the chance that any phrase is returned is at most the level if none has become more frequent.

    Args:
        before, after, references: Texts by row.
        sources: Of each row.
        level: Chance of a false alarm over all phrases.
    """
    first = {source: i for i, source in reversed(list(enumerate(sources)))}.values()
    rows = [(_phrases(before[i]), _phrases(after[i]), _phrases(references[i])) for i in first]
    seen = Counter(phrase for row in rows for phrase in set().union(*row))
    tested = [phrase for phrase, n in seen.items() if n >= _LEAST_SOURCES]
    found = {}
    for phrase in tested:
        now = [phrase in written for _, written, _ in rows]
        if all(_more(now, [phrase in row[side] for row in rows], level / len(tested)) for side in (0, 2)):
            found[phrase] = sum(now)
    all_new = [phrase for phrase in found if found.keys() >= set(phrase.split())]
    shown: list[str] = []
    for phrase in sorted(all_new or found, key=lambda phrase: (-found[phrase], -len(phrase))):
        if len(shown) < _SHOWN and not any(f" {phrase} " in f" {other} " for other in shown):
            shown.append(phrase)
    return shown


def _phrases(text: str) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + n]) for n in range(1, WORDS + 1) for i in range(len(words) - n + 1)}


def _more(now: Sequence[bool], than: Sequence[bool], level: float) -> bool:
    gained = sum(a and not b for a, b in zip(now, than, strict=True))
    lost = sum(b and not a for a, b in zip(now, than, strict=True))
    return gained > lost and mcnemar_exact(gained, lost) <= level

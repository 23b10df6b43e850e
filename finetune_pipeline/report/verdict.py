"""Writes the verdict on a candidate, the section on its gates, and the next steps."""

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune_pipeline.evaluation.costs import TeacherMonth
from finetune_pipeline.evaluation.decisions import Finalist, Winner
from finetune_pipeline.evaluation.finalists import TUNED_TITLE, scores_of
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.gates.automation import promise_of
from finetune_pipeline.evaluation.gates.beats_simple import tied_with
from finetune_pipeline.evaluation.gates.paired_gains import worst_gain
from finetune_pipeline.evaluation.metrics import is_right_or_wrong, metric_title, score_text
from finetune_pipeline.evaluation.predictions import SIMPLE
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import Scores
from finetune_pipeline.evaluation.rivals import MODE_TITLES
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.winner import (
    TRAINED,
    finalist_of,
    gates_of,
    not_shipped,
    row_of,
    winner_of,
    would_ship_again,
)
from finetune_pipeline.evaluation.wording import (
    NOTHING,
    capital,
    counted,
    dollars,
    in_words,
    inside,
    level,
    number,
    percent,
    percent_range,
    points,
    points_range,
    prompt_name,
)
from finetune_pipeline.report.blocks import Answer, Answers, Blocks, Heading, Plot, Table, Verdict, figure, text
from finetune_pipeline.report.coverage import shares_alone
from finetune_pipeline.report.kinds import change_of_kind, costs_more
from finetune_pipeline.spec.outputs import COVERAGE

MOST_OF_GAIN = 0.5
"""Share of the gain from which constrained decoding of the base model counts as giving most of it."""
NARROW = 0.01
"""Distance from its threshold, as a share, within which a gate is passed narrowly."""
ORDER = ("failed", "warned", "passed", "not_asked")
ANSWERS = {"passed": "yes", "failed": "no", "warned": "warns", "not_asked": "not asked"}


def page_verdict(
    evaluation: EvaluationResult,
    gates: Sequence[GateResult],
    next_steps: Sequence[str] = (),
    picture: Plot | None = None,
) -> Verdict:
    winner, loosened = winner_of(evaluation, gates), evaluation.loosened
    status = "failed" if winner.kind is None else "warned" if loosened.held_back_by else "passed"
    answer, sentence = headline(evaluation, winner), " ".join(verdict_sentences(evaluation, gates))
    if evaluation.promoted:
        status = "passed" if would_ship_again(evaluation, winner) else "warned"
        answer = "It serves already." if evaluation.promoted.serves else "Nothing new."
    return Verdict(
        status,
        answer,
        sentence,
        caveats(evaluation, gates),
        next_steps=next_steps,
        facts=_facts(evaluation),
        picture=picture,
    )


def headline(evaluation: EvaluationResult, winner: Winner) -> str:
    """Return what is shipped, and how many of a hundred of its answers are wrong; empty if nothing is decided."""
    if evaluation.promoted:
        return ""
    finalist = finalist_of(winner, evaluation)
    scores = scores_of(evaluation, finalist) if finalist else evaluation.scores["candidate"]
    wrong = wrong_answers(scores, evaluation.metric)
    if winner.kind is None:
        judged = capital(evaluation.finalists[0].title) if evaluation.untrained else "The fine-tuned model"
        return f"Ship nothing. {judged}: {wrong}."
    loosened = ", by loosened gates" if evaluation.loosened.thresholds else ""
    if evaluation.loosened.held_back_by:
        loosened = ", but only if you accept the loosened gates"
    beaten = (
        f"{TUNED_TITLE} is not surely better{costs_more(evaluation, winner)}. {capital(wrong)}" if finalist else wrong
    )
    if evaluation.untrained:
        beaten = f"training was not worth it. {capital(wrong)}"
    return f"Ship {winner.title}{loosened}: {beaten}."


def wrong_answers(scores: Scores, metric: str) -> str:
    """Return `wrong in 22 of 100 answers`; for a metric that does not count right answers, and has no accuracy beside it, its
    score."""
    if scores.accuracy is None or not (is_right_or_wrong(metric) or scores.macro_f1 is not None):
        return f"{metric_title(metric)} {score_text(metric, scores.primary.value)}"
    wrong = 100 * (1 - scores.accuracy)
    if wrong == 0:
        return f"wrong in none of {counted(scores.n or 0, 'answer')}"
    return f"wrong in {round(wrong) or 'less than 1'} of 100 answers"


def _facts(evaluation: EvaluationResult) -> list[tuple[str, str]]:
    """Return when the candidate answered the sealed test, which model it is, and its training and test data."""
    task, versions, splits = evaluation.task, evaluation.versions, evaluation.data.get("splits")
    candidate, trained = versions.get("merged_model"), versions.get("adapter")
    opening_times = [entry.get("time") for entry in evaluation.seal.openings if entry.get("candidate") == trained]
    rows = [f"{number(split_size(counts))} {name}" for name, counts in splits.counts.items()] if splits else []
    tuned = f"{task.base_model}, {task.method}, version {candidate or NOTHING}"
    return [
        ("Date", str(opening_times[-1])[:10] if opening_times else NOTHING),
        ("Fine-tuned model", "none" if evaluation.untrained else tuned),
        ("Data", f"version {versions.get('splits') or NOTHING}{': ' if rows else ''}{', '.join(rows)} rows"),
    ]


def split_size(rows: int | Mapping[str, int | None] | None) -> int:
    """Return the number of rows of a split, given as a total or by label; 0 if unknown."""
    if isinstance(rows, Mapping):
        return sum(count or 0 for count in rows.values())
    return rows or 0


def verdict_sentences(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> tuple[str, str]:
    """Return the verdict in a few words (`No gate failed: …`) with loosened gates, and the sentence with the gain and its
    interval."""
    comparison, scores = evaluation.comparison, evaluation.scores["candidate"]
    winner = winner_of(evaluation, gates)
    finalist, promise = finalist_of(winner, evaluation), _promise(evaluation, winner)
    promise += shares_alone(evaluation, row_of(winner), bool(promise))
    answer = verdict_answer(evaluation, gates) + _loosened_sentences(evaluation)
    if evaluation.untrained:
        return answer, _finalist_sentence(evaluation, finalist or evaluation.finalists[0]) + promise
    best = f"the base model with its best prompt ({prompt_name(evaluation.baseline.best)})"
    best += MODE_TITLES[evaluation.base_at_its_best.mode]
    reached = f"reaches {metric_title(evaluation.metric)} {points(scores.primary.value, sign=False)} on"
    if is_right_or_wrong(evaluation.metric):
        reached = f"is right on {percent(scores.accuracy)} of"
    sentence = (
        f"The fine-tuned model {reached} {counted(comparison.n, 'sealed row')}, {_difference(comparison.gain)} {best}; the "
        f"{level(evaluation.confidence)} interval of the gain is {points_range(comparison.interval)} points."
    )
    if finalist:
        sentence = f"{_finalist_sentence(evaluation, finalist)} {sentence}"
    return answer, sentence + promise


def _promise(evaluation: EvaluationResult, winner: Winner) -> str:
    """Return which answers of the winner need no person, with a blank before it; empty without a promise."""
    measured = evaluation.probabilities.get(row_of(winner)) if winner.kind else None
    promise = measured.automation if measured else None
    return f" It {inside(promise_of(promise))}." if promise and promise.threshold is not None else ""


def _finalist_sentence(evaluation: EvaluationResult, finalist: Finalist) -> str:
    """Return the score of the winner and its gain over the commonest answer."""
    value = scores_of(evaluation, finalist).primary.value
    measured = worst_gain([gain for gain in finalist.commonest.gains if gain.metric != COVERAGE])
    gain = (
        f", {points(measured[1].gain)} points over the commonest answer ({points_range(measured[0])})"
        if measured
        else ""
    )
    score = f"{metric_title(evaluation.metric)} {score_text(evaluation.metric, value)}"
    return f"{capital(finalist.title)} reaches {score}{gain}."


def verdict_answer(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> str:
    """Return the verdict as a sentence: what is shipped and why, or which gates refuse."""
    answer = _gates_answer(evaluation, gates)
    if evaluation.promoted is None:
        return f"{_forgotten_champion(evaluation)}{answer}"
    number, name = evaluation.promoted.model_version, evaluation.task.name
    known = f"This model is the champion already (version {number}), so nothing is promoted or refused."
    if not evaluation.promoted.serves:
        known = (
            f"This model is version {number} already, which was champion before, so nothing is promoted or refused: only "
            f"`finetune rollback {name}` returns to the champion before the present one."
        )
    return f"{known} Judged by the present settings: {inside(answer)}"


def _loosened_sentences(evaluation: EvaluationResult) -> str:
    """Return which thresholds are looser than their defaults, and which gates would not pass by these; empty if none is."""
    thresholds, gates = evaluation.loosened.thresholds, [gate.name for gate in evaluation.loosened.held_back_by]
    if not thresholds:
        return ""
    verb = "does" if len(gates) == 1 else "do"
    held_back = f" By the defaults {in_words(gates)} {verb} not pass." if gates else ""
    return f" Looser than the default: {', '.join(thresholds)}.{held_back}"


def _forgotten_champion(evaluation: EvaluationResult) -> str:
    if not evaluation.champion_forgotten:
        return ""
    margin = (
        points(-(evaluation.decisions.champion.margin or 0.0), sign=False) if evaluation.decisions.champion else NOTHING
    )
    return (
        f"The champion was trained on forgotten rows, so a candidate replaces it unless it surely loses more than {margin} "
        "points (gates.champion_margin). "
    )


def _gates_answer(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> str:
    winner, failed = winner_of(evaluation, gates), [gate.name for gate in gates if not gate.passed]
    tied = in_words([inside(title) for title in tied_with(evaluation)])
    if winner.kind in TRAINED:
        tie = f" It ties with {tied}, which gates.simple: not_worse accepts." if tied else ""
        return f"No gate failed: {gate_counts(gates)}.{tie}"
    if winner.kind:
        return f"{winner.why[:-1]}: {gate_counts(gates_of(winner, evaluation, gates))}."
    others = "; ".join(not_shipped(finalist) for finalist in evaluation.finalists)
    if evaluation.untrained:
        return f"Nothing was trained. {capital(others)}."
    if not failed:
        return "Refused: no gate was checked."
    refused = "It would be refused by" if evaluation.promoted else "Refused by"
    return f"{refused} {in_words(failed)}: {gate_counts(gates)}.{f' {capital(others)}.' if others else ''}"


def gate_counts(gates: Sequence[GateResult]) -> str:
    """Return counts such as `7 passed, 1 failed, 6 not asked`; statuses without gates are left out."""
    counts = Counter[str](gate.status for gate in gates)
    return ", ".join(f"{counts[status]} {status.replace('_', ' ')}" for status in ANSWERS if counts[status])


def _difference(gain: float | None) -> str:
    if gain is None:
        return "an unknown distance from"
    if round(1000 * gain) == 0:
        return "as often as" if gain == 0 else "about as often as"
    return f"{abs(100 * gain):.1f} points {'more' if gain > 0 else 'less'} than"


def caveats(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> list[str]:
    """Return the sentences directly below the verdict: on a champion of another kind, the gain over the champion, simple models
    that are not beaten or closest, gates that pass only by looser thresholds, and gains mostly in form."""
    winner = winner_of(evaluation, gates)
    sentences, finalist = change_of_kind(evaluation, winner), finalist_of(winner, evaluation)
    if evaluation.untrained:
        sentences.insert(0, f"Before training, on validation: {evaluation.untrained}")
    champion = finalist.beside_champion if finalist else evaluation.comparisons.get("champion")
    if champion:
        gain = f"{points(champion.gain)} points ({points_range(champion.interval)})"
        learned = evaluation.champion_learned
        rows = f", on the {champion.n} test rows that it was not trained on; {learned} were left out" if learned else ""
        sentences.append(f"Against the champion in service: {gain}{rows}.")
    sentences += teacher_sentences(evaluation)
    for name, model in SIMPLE_MODELS.items():
        simple = None if evaluation.untrained else evaluation.comparisons.get(f"{SIMPLE}{name}")
        if not simple or simple.interval is None or simple.interval[0] > 0:
            continue
        claim = "is not significantly worse; it is made in seconds"
        if simple.interval[1] < 0:
            claim = "is made in seconds and is significantly better"
        gain = f"{points(simple.gain)} points ({points_range(simple.interval)})"
        sentences.append(f"{model.title} {claim}: the fine-tuned model's gain over it is {gain}.")
    sentences += [] if evaluation.untrained else _closest_simple(evaluation)
    sentences += [f"{gate.name}, by the defaults: {gate.message}" for gate in evaluation.loosened.held_back_by]
    closed = closed_by_decoding(evaluation)
    if closed >= MOST_OF_GAIN:
        sentences.append(decoding_sentence(closed))
    return sentences


def teacher_sentences(evaluation: EvaluationResult) -> list[str]:
    """Return the sentences on the teacher: the candidate's score against it, what both cost, and the noise of its training rows."""
    rival = evaluation.teacher
    if rival is None:
        return []
    compared, sentences = rival.comparison, []
    if compared:
        own, of_teacher = (score_text(evaluation.metric, value) for value in (compared.candidate, compared.base))
        gain = f"{points(compared.gain)} points, {points_range(compared.interval)}"
        judged = "What may be shipped instead" if evaluation.untrained else "The fine-tuned model"
        sentence = f"{judged} reaches {metric_title(evaluation.metric)} {own}, the teacher {of_teacher} ({gain}; {compared.n} rows)"
        sentences.append(f"{sentence}{_teacher_price(evaluation)}.")
    if month := evaluation.cost.teacher_month if evaluation.cost else None:
        sentences.append(_saving(month))
    if rival.missing:
        rows = counted(rival.missing, "other sealed row")
        sentences.append(f"The logs hold no answer of the teacher to {rows}; nothing is said about these.")
    if rival.kept and rival.noise:
        share = f"{percent(rival.kept_wrong / rival.kept)} ({percent_range(rival.noise)})"
        rows = counted(rival.kept, "sealed row")
        sentences.append(
            f"Of the answers that the teacher agrees on with itself {share} are wrong, on {rows}; expect as many of its training "
            "rows to be."
        )
    sentences += [
        f"It is wrong on {errors.wrong} of {errors.n} with {errors.label!r}, surely more often than on the other labels, mostly as "
        f"{errors.instead!r}: describe this label better in teacher.prompt, or let people answer rows like these."
        for errors in rival.worse_on
    ]
    return sentences


def _saving(month: TeacherMonth) -> str:
    """Say what the fine-tuned model saves a month against the teacher."""
    saved = month.teacher - month.student
    unknown = "" if month.is_known else " (set advise.calls_per_month for yours)"
    said = f"saves {dollars(saved)}" if saved >= 0 else f"costs {dollars(-saved)} more"
    return (
        f"For {counted(month.calls, 'call')} a month{unknown} it {said} by the price list: {dollars(month.student)} on the "
        f"cheapest machine, always on, against {dollars(month.teacher)} of the teacher."
    )


def _teacher_price(evaluation: EvaluationResult) -> str:
    """Return what 1,000 answers of the teacher cost, and of the fine-tuned model on the cheapest machine of the price list."""
    rival, offers = evaluation.teacher, evaluation.cost.requests if evaluation.cost else []
    if rival is None or not rival.dollars_per_1k:
        return ""
    words = f", at ${rival.dollars_per_1k:.3g} for 1,000 answers of the teacher"
    own = min((offer for offer in offers if offer.how.startswith("fine-tuned")), key=lambda o: o.dollars, default=None)
    if own is None or not own.dollars:
        return words
    return f"{words} and ${own.dollars:.3g} of the fine-tuned one ({own.where}, {own.how})"


def _closest_simple(evaluation: EvaluationResult) -> list[str]:
    """Return the sentence on the closest simple model, if each is beaten and one is closer than the best prompt."""
    titles = {f"{SIMPLE}{name}": inside(model.title) for name, model in SIMPLE_MODELS.items()}
    compared = [(titles[name], c) for name, c in evaluation.comparisons.items() if c and name in titles]
    gains = [(c.gain, c.interval, title) for title, c in compared if c.gain is not None and c.interval is not None]
    baseline = evaluation.comparisons.get("baseline")
    if not gains or any(interval[0] <= 0 for _, interval, _ in gains):
        return []
    gain, interval, title = min(gains)
    if baseline is None or baseline.gain is None or gain >= baseline.gain:
        return []
    return [f"Its closest rival is {title}: {points(gain)} points ({points_range(interval)})."]


def closed_by_decoding(evaluation: EvaluationResult) -> float:
    """Return the share of the gain that constraining the base model's answers brings; 0 if unknown."""
    return (evaluation.format_gap.closed_by_decoding if evaluation.format_gap else None) or 0.0


def decoding_sentence(closed: float) -> str:
    """Return the sentence that constrained decoding would bring most of the gain. closed: at least MOST_OF_GAIN."""
    share = "all of the gain" if closed >= 1 else f"{percent(closed)} of the gain"
    return (
        f"Constrained decoding of the untrained base model would bring {share}: most of the gain is in form, "
        "and possible without fine-tuning."
    )


def gates_section(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Blocks:
    """Show every gate with its measurement, and the finalists: failed gates first, then those passed narrowly. The next steps say
    what to do."""
    shown = [] if evaluation.untrained else gates
    yield f"The fine-tuned model: {gate_counts(shown)}." if shown else None
    rows = []
    for gate in sorted(shown, key=lambda gate: (ORDER.index(gate.status), not narrowly(gate))):
        answer = "narrowly" if narrowly(gate) else ANSWERS[gate.status]
        rows.append(Answer(f"`{gate.name}`", gate.status, answer, gate.message))
    yield Answers(("Gate", "Passed", "Measured"), rows)
    if evaluation.finalists and any(finalist.gates for finalist in evaluation.finalists):
        yield Heading("What may be shipped without training" if evaluation.untrained else "What may be shipped instead")
        yield from _finalists(evaluation)


def narrowly(gate: GateResult) -> bool:
    """Whether a gate passed, but at most NARROW from its threshold. Counts, such as of broken examples, lie at theirs."""
    if gate.status != "passed" or gate.measured is None or gate.threshold is None:
        return False
    return 0 < abs(gate.measured - gate.threshold) <= NARROW


def _finalists(evaluation: EvaluationResult) -> Blocks:
    """Show the finalists, simplest first, each with its score and why it is not shipped."""
    rows = []
    for finalist in evaluation.finalists:
        scores, why = scores_of(evaluation, finalist), not_shipped(finalist)
        score = score_text(evaluation.metric, scores.primary.value, scores.primary.interval)
        asked = ", ".join(gate.name for gate in finalist.gates if gate.status != "not_asked")
        rows.append([capital(finalist.title), score, asked, why or "nothing: it may be shipped"])
    columns = [("Finalist", text), ("Score", figure), ("Gates asked of it", text), ("What is against it", text)]
    yield Table(columns, rows)

"""Tests whether a judge model is reliable: agreement with people, no bias towards position or length."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from msgspec import structs

from finetune_pipeline.evaluation.compare import SourceOf
from finetune_pipeline.evaluation.preferences.embeddings import embed
from finetune_pipeline.evaluation.preferences.judge import Choice, Judge, JudgeFindings, Pair, Similarity, Verdict
from finetune_pipeline.evaluation.statistics.proportions import SignTest, sign_test
from finetune_pipeline.evaluation.statistics.resampling import cohens_kappa, kappa_interval, paired_bootstrap_mean
from finetune_pipeline.evaluation.wording import counted, percent
from finetune_pipeline.spec.evaluation import JudgeSpec

SIGNIFICANCE = 0.05
MAX_FAILED = 0.1
"""A judge that fails on a larger share of the pairs is refused."""
PROBES = 20
"""Pairs in which the padded copy of an answer is judged against the answer."""
SHOWN_FAILURES = 20
_PADDING = (
    " To put this into a wider context, it may be helpful to bear in mind that every request is looked at with care, and "
    "that further details can be provided at any time should they be needed. Please do not hesitate to get in touch again."
)
_SWAPPED: dict[Choice, Choice] = {"a": "b", "b": "a"}
_SIGNS: dict[Choice, int] = {"b": 1, "a": -1, "tie": 0}
TIE_DISTANCE = 0.02
"""Answers whose similarity to the reference differs by less count as tied."""


def judged_pairs(
    judge: Judge,
    pairs: Sequence[Pair],
    people: Mapping[str, Choice],
    settings: JudgeSpec,
    confidence: float = 0.95,
    sources: SourceOf = None,
) -> JudgeFindings:
    """Qualify a judge by the pairs people rated; if it passes, ask it about up to `settings.rows` of all pairs, drawn by id.

    Pairs of equal answers are not shown to it.

    Args:
        confidence: Of the verdict's interval.
        sources: What each example was made from, by id; agreement and verdict count these.
    """
    rated = [pair for pair in pairs if pair.id in people]
    differing = [pair for pair in rated if pair.a != pair.b]
    findings = qualify(judge, differing, [people[pair.id] for pair in differing], settings, sources)
    drawn = sorted(pairs, key=lambda pair: hashlib.sha256(f"judged {pair.id}".encode()).digest())[: settings.rows]
    verdict = _verdict(judge, drawn, confidence, sources) if findings.believed else None
    if verdict and (unjudged := _unjudged(verdict.failed, len(verdict.choices))):
        findings, verdict = structs.replace(findings, believed=False, refused=unjudged), None
    return structs.replace(
        findings,
        equal=len(rated) - len(differing),
        verdict=verdict,
        failures=judge.failures[:SHOWN_FAILURES],
        spent=judge.spent,
    )


def qualify(
    judge: Judge, pairs: Sequence[Pair], people: Sequence[Choice], settings: JudgeSpec, sources: SourceOf = None
) -> JudgeFindings:
    """Ask a judge about pairs that people have rated, in both orders, and about the same answers with padding.

    Args:
        people: Their choice per pair (a, b or tie).
        settings: The requirements. With fewer pairs than `min_rated`, the judge is not asked.
    """
    if len(pairs) < settings.min_rated:
        rated = f"people have rated only {counted(len(pairs), 'pair')} of different answers"
        return JudgeFindings(name=judge.name, believed=False, refused=[f"{rated}; {settings.min_rated} are needed"])
    all_choices = _judge_both_orders(judge, pairs)
    valid = [i for i, choices in enumerate(all_choices) if "failed" not in choices]
    n, in_both_orders, judged = len(valid), [all_choices[i] for i in valid], [pairs[i] for i in valid]
    human, model = [people[i] for i in valid], [_combined(*choices) for choices in in_both_orders]
    padded_pairs = [replace(pair, b=pair.a + _PADDING) for pair in judged[:PROBES]]
    padded = [_combined(*choices) for choices in _judge_both_orders(judge, padded_pairs)]
    findings = JudgeFindings(
        name=judge.name,
        believed=False,
        refused=[],
        rated=n,
        failed=len(pairs) - n,
        kappa=cohens_kappa(human, model) if valid else None,
        interval=kappa_interval(human, model, _units(judged, sources)) if valid else None,
        agreement=sum(x == y for x, y in zip(human, model, strict=True)) / n if valid else None,
        consistent=sum(first == second for first, second in in_both_orders) / n if valid else None,
        place=sign_test(
            [1 if first == "a" else -1 for first, second in in_both_orders if second == _SWAPPED.get(first)]
        ),
        length=_length_bias(judged, human, model),
        side=sign_test([_towards_b(x, y) for x, y in zip(human, model, strict=True)]),
        padding=sign_test([_SIGNS[choice] for choice in padded if choice != "failed"]),
    )
    refused = _reasons_to_refuse(findings, settings)
    return structs.replace(findings, believed=not refused, refused=refused)


def _judge_both_orders(judge: Judge, pairs: Sequence[Pair]) -> list[tuple[Choice, Choice]]:
    """Judge every pair twice, the second time with swapped positions. Both choices name the answers as in `pairs`."""
    as_given = judge.choose(pairs)
    swapped = judge.choose([replace(pair, a=pair.b, b=pair.a) for pair in pairs])
    return [(first, _SWAPPED.get(second, second)) for first, second in zip(as_given, swapped, strict=True)]


def _combined(first: Choice, second: Choice) -> Choice:
    """The choice in both orders: `tie` if they contradict each other, `failed` if either is."""
    if "failed" in (first, second):
        return "failed"
    return first if first == second else "tie"


def _length_bias(pairs: Sequence[Pair], human: Sequence[Choice], model: Sequence[Choice]) -> SignTest:
    """Sign test of the judge's errors: a win is one in favour of the longer answer."""
    favours_longer = [
        (choice == "a") == (len(pair.a) > len(pair.b))
        for pair, preferred, choice in zip(pairs, human, model, strict=True)
        if choice not in (preferred, "tie") and len(pair.a) != len(pair.b)
    ]
    return sign_test([1 if longer else -1 for longer in favours_longer])


def _towards_b(preferred: Choice, choice: Choice) -> int:
    """Return 1 if a choice favours `b` more than people do, -1 if less, 0 if as much."""
    return (_SIGNS[choice] > _SIGNS[preferred]) - (_SIGNS[choice] < _SIGNS[preferred])


def _reasons_to_refuse(findings: JudgeFindings, settings: JudgeSpec) -> list[str]:
    reasons = []
    rated, failed, kappa, interval = findings.rated, findings.failed, findings.kappa, findings.interval
    if rated < settings.min_rated:
        judged = f"only {counted(rated, 'pair')} rated by people could be judged"
        reasons.append(f"{judged}; {settings.min_rated} are needed")
    reasons += _unjudged(failed, rated + failed)
    if kappa is None or interval is None:
        reasons.append("agreement with people is undefined: one of the two sides always says the same")
    elif kappa < settings.min_kappa or interval[0] < settings.min_kappa_bound:
        reasons.append(
            f"its agreement with people is too low: kappa {kappa:.2f} ({interval[0]:.2f} to {interval[1]:.2f}), where "
            f"{settings.min_kappa:g} and a lower bound of {settings.min_kappa_bound:g} are asked for"
        )
    if findings.consistent is not None and findings.consistent < settings.min_consistent:
        reasons.append(
            f"it judges only {percent(findings.consistent)} of the pairs alike in both orders; "
            f"{percent(settings.min_consistent)} are asked for"
        )
    place, length, side, padding = findings.place, findings.length, findings.side, findings.padding
    if _is_significant(place):
        where = "first" if place.wins > place.losses else "second"
        reasons.append(f"it prefers whatever comes {where}: {place.wins} against {place.losses} contradictions")
    if _is_significant(length) and length.wins > length.losses:
        reasons.append(f"where it is wrong it prefers the longer answer: {length.wins} against {length.losses}")
    if _is_significant(side) and side.wins > side.losses:
        reasons.append(f"where it is wrong it prefers the candidate's answer: {side.wins} against {side.losses}")
    if _is_significant(padding) and padding.wins > padding.losses:
        reasons.append(f"it prefers the same answer with empty words added, {padding.wins} of {PROBES} times")
    return reasons


def _unjudged(failed: int, n: int) -> list[str]:
    return [f"{counted(failed, 'pair')} of {n} could not be judged"] if failed > MAX_FAILED * n else []


def _is_significant(bias: SignTest) -> bool:
    return bias.p is not None and bias.p < SIGNIFICANCE


def _verdict(judge: Judge, pairs: Sequence[Pair], confidence: float, sources: SourceOf) -> Verdict:
    differing = [pair for pair in pairs if pair.a != pair.b]
    choices = [_combined(*in_both_orders) for in_both_orders in _judge_both_orders(judge, differing)]
    judged = [(pair, _SIGNS[choice]) for pair, choice in zip(differing, choices, strict=True) if choice != "failed"]
    test = sign_test([sign for _, sign in judged], _units([pair for pair, _ in judged], sources), confidence)
    return Verdict(
        **structs.asdict(test),
        failed=choices.count("failed"),
        choices={pair.id: choice for pair, choice in zip(differing, choices, strict=True)},
        equal=len(pairs) - len(differing),
    )


def _units(pairs: Sequence[Pair], sources: SourceOf) -> list[str]:
    """The unit that each pair counts for: its source, else the pair itself."""
    return [pair.id if sources is None else sources[pair.id] for pair in pairs]


def similar(
    pairs: Sequence[Pair], people: Mapping[str, Choice], model: str, confidence: float, sources: SourceOf = None
) -> Similarity:
    """Compare how similar the answers of base and candidate are to the reference, by the cosine of their embeddings.

    The result also says how well preferring the nearer answer agrees with people; kappa is None without ratings or if it is
    undefined, and interval for fewer than two pairs or sources. model: see evaluation.similarity. Raises FileNotFoundError or
    ValueError if the model is missing or invalid.
    """
    # all texts together, so that words have the same weights on both sides
    vectors = embed([text for pair in pairs for text in (pair.reference, pair.a, pair.b)], model)
    base, candidate = ((vectors[::3] * vectors[side::3]).sum(axis=1).tolist() for side in (1, 2))
    rated: list[Pair] = []
    human: list[Choice] = []
    model_choices: list[Choice] = []
    for pair, before, after in zip(pairs, base, candidate, strict=True):
        if pair.id in people and pair.a != pair.b:
            rated.append(pair)
            human.append(people[pair.id])
            nearer: Choice = "b" if after > before else "a"
            model_choices.append("tie" if abs(after - before) < TIE_DISTANCE else nearer)
    interval = paired_bootstrap_mean(base, candidate, confidence, _units(pairs, sources))
    base_mean, candidate_mean = (sum(similarities) / len(pairs) for similarities in (base, candidate))
    return Similarity(
        model=model,
        n=len(pairs),
        base=base_mean,
        candidate=candidate_mean,
        gain=candidate_mean - base_mean,
        interval=interval,
        rated=len(human),
        kappa=cohens_kappa(human, model_choices) if human else None,
        kappa_interval=kappa_interval(human, model_choices, _units(rated, sources)) if human else None,
    )

"""Judges over a real HTTP server that speaks the OpenAI protocol: a fair one is believed, biased ones are refused."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError
from finetune_pipeline.evaluation.preferences.judge import Choice, Judge, Pair, prediction_pairs
from finetune_pipeline.evaluation.preferences.people import Accepted, people_choices
from finetune_pipeline.evaluation.preferences.qualify import judged_pairs, qualify, similar
from finetune_pipeline.spec.evaluation import JudgeSpec
from finetune_pipeline_tests.judge_minds import judge_mind, right
from finetune_pipeline_tests.openai_server import Server, openai_server
from finetune_pipeline_tests.unit.evaluation.rows import row

KEY = "sk-test-do-not-tell"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server(judge_mind) as serving:
        yield serving


def judge(url: str, mind: str) -> Judge:
    return Judge(Endpoint(url, mind))


def rated(n: int = 40) -> tuple[list[Pair], list[Choice]]:
    """Pairs in which a, b or neither has the right number, at random lengths, and what people say: nearly always right."""
    chance = random.Random(3)
    pairs, people = [], []
    for i in range(n):
        winner: Choice = chance.choice(["a", "b", "tie"])
        number = 100 + i

        def answer(right: bool, number: int = number) -> str:
            return f"It is {number if right else number + 500}" + " indeed" * chance.randrange(8)

        pairs.append(Pair(f"p{i}", "How many?", f"It is {number}", answer(winner == "a"), answer(winner == "b")))
        people.append(winner if chance.random() < 0.95 else "tie")
    return pairs, people


ASKED = JudgeSpec(url="http://127.0.0.1:1/v1", model="m")


def said_by(pairs: list[Pair], people: list[Choice]) -> dict[str, Choice]:
    return dict(zip([pair.id for pair in pairs], people, strict=True))


def test_a_fair_judge_is_believed_and_its_agreement_stands_beside_its_verdict(server: Server) -> None:
    pairs, people = rated()
    new = [Pair(f"n{i}", "How many?", "It is 7", "It is 8", "It is 7" if i < 12 else "It is 9") for i in range(15)]
    judged = judged_pairs(judge(server.url, "fair"), [*pairs, *new], said_by(pairs, people), ASKED)
    assert judged.believed and judged.refused == []
    assert judged.kappa > 0.8 and judged.consistent == 1.0
    choices = [judged.verdict.choices[pair.id] for pair in new]
    assert choices == ["b"] * 12 + ["tie"] * 3 and judged.verdict.failed == 0
    silent = judged_pairs(judge(server.url, "shy"), [*pairs, *new], said_by(pairs, people), ASKED)
    assert (silent.believed, silent.verdict) == (False, None), "what it can judge of the test is no sample of it"
    assert silent.refused == [
        f"15 pairs of {len([pair for pair in [*pairs, *new] if pair.a != pair.b])} could not be judged"
    ]


@pytest.mark.parametrize(
    ("mind", "reason"),
    [
        ("long", "it prefers the same answer with empty words added"),
        ("first", "its agreement with people is too low: kappa 0.00"),
        ("padded", "it prefers the same answer with empty words added"),
    ],
)
def test_a_biased_judge_is_refused_and_gives_no_verdict(server: Server, mind: str, reason: str) -> None:
    pairs, people = rated()
    judged = judged_pairs(judge(server.url, mind), pairs, said_by(pairs, people), ASKED)
    assert judged.believed is False and judged.verdict is None
    assert any(sentence.startswith(reason) for sentence in judged.refused), judged.refused


def test_too_few_ratings_are_no_proof_and_nothing_is_paid_for_them(server: Server) -> None:
    before, (pairs, people) = len(server.requests), rated(12)
    qualified = qualify(judge(server.url, "fair"), pairs, people, ASKED)
    assert qualified.refused == ["people have rated only 12 pairs of different answers; 30 are needed"]
    assert len(server.requests) == before
    few = ASKED.model_copy(update={"min_rated": 12})
    assert not qualify(judge(server.url, "fair"), pairs, people, few).refused


def test_other_words_are_never_a_choice(server: Server) -> None:
    chatty = judge(server.url, "chatty")
    assert chatty.choose(rated(3)[0]) == ["failed"] * 3
    assert len(chatty.failures) == 3 and "not first, second or same" in chatty.failures[0]
    qualified = qualify(chatty, *rated(8), ASKED.model_copy(update={"min_rated": 8}))
    assert qualified.refused and qualified.failed == 8
    with pytest.raises(EndpointError, match="500"):  # which says nothing about the judge
        judge(server.url, "broken").choose(rated(8)[0])


def test_what_was_asked_once_is_not_asked_again_and_the_key_is_stored_nowhere(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    pairs, _ = rated(4)
    cache, fair = AnswerCache(tmp_path / "answers.sqlite", 64), Endpoint(server.url, "fair", "JUDGE_KEY")
    first_judge, second_judge = (Judge(fair, cache=cache) for _ in range(2))
    choices = first_judge.choose([*pairs, *pairs])
    # a request of the test before, which gave up, may still arrive
    requests = [request for request in server.requests if request["key"] == f"Bearer {KEY}"]
    assert choices[:4] == choices[4:] and first_judge.spent.requests == len(requests) == 4, "equal questions once"
    assert requests[-1]["temperature"] == 0
    assert second_judge.choose(pairs) == choices[:4] and second_judge.spent.requests == 0
    assert KEY.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_the_verdict_is_drawn_from_all_pairs_and_equal_answers_are_ties(server: Server, tmp_path: Path) -> None:
    fair = Judge(Endpoint(server.url, "fair"), cache=AnswerCache(tmp_path / "answers.sqlite", 64))
    pairs, people = rated(60)
    same = [Pair(f"s{i}", "?", "It is 4", "It is 4", "It is 4") for i in range(20)]
    choices = said_by(pairs, people)
    judgement = judged_pairs(fair, [*pairs, *same], {**choices, "s1": "tie"}, ASKED)
    assert (judgement.believed, judgement.rated, judgement.equal) == (True, 58, 3)
    verdict = judgement.verdict
    assert verdict.equal == 22 and set(verdict.choices) == {pair.id for pair in pairs if pair.a != pair.b}
    better = sum(right(p.reference, p.b) and not right(p.reference, p.a) for p in pairs)
    assert verdict.wins == better
    surer = judged_pairs(fair, [*pairs, *same], choices, ASKED, 0.99).verdict
    assert surer.interval[0] < verdict.interval[0] - 0.01, "at gates.confidence"
    of_three = {pair.id: f"document {i % 3}" for i, pair in enumerate([*pairs, *same])}
    clumped = judged_pairs(fair, [*pairs, *same], choices, ASKED, sources=of_three)
    of_sources = clumped.verdict
    assert of_sources.share == verdict.share and of_sources.interval[0] < verdict.interval[0]
    assert of_sources.p >= 0.25, "three documents cannot say less"
    assert clumped.interval != judgement.interval, "kappa counts documents, too"
    few = judged_pairs(fair, pairs, choices, ASKED.model_copy(update={"rows": 10})).verdict
    assert few.n + few.equal == 10 and set(few.choices) < set(verdict.choices)


def test_likeness_is_told_with_its_agreement_with_people() -> None:
    pairs = []
    for i in range(16):
        texts = [f"we like cheese {i % 14}", f"the parcel {i % 14} left monday"][:: 1 if i < 14 else -1]
        pairs.append(Pair(f"m{i}", "?", f"the parcel {i % 14} left on monday", *texts))
    people: dict[str, Choice] = {f"m{i}": "b" if i < 14 else "a" for i in range(16)}
    judgement = similar(pairs, people, "hashed", 0.95)
    assert judgement.n == judgement.rated == 16 and judgement.kappa == 1.0
    assert judgement.gain == pytest.approx(judgement.candidate - judgement.base)
    assert judgement.interval[0] > 0
    assert similar(pairs, {}, "hashed", 0.95).kappa is None
    one_source = similar(pairs, {}, "hashed", 0.95, {pair.id: "document" for pair in pairs})
    assert one_source.gain == judgement.gain and one_source.interval is None


def test_predictions_are_paired_by_id_and_what_people_accept_becomes_what_they_prefer() -> None:
    base = [row(1, "x", "said before", "base"), row(2, "x", "left over", "base", status="error")]
    candidate = [row(2, "x", "said", "candidate"), row(1, "x", "said after", "candidate")]
    pairs = prediction_pairs(base, candidate, {"e0001": "asked"})
    assert pairs == [Pair("e0001", "asked", "x", "said before", "said after"), Pair("e0002", "", "x", "", "said")]
    accepted = {"x": (True, False), "y": (False, True), "z": (True, True), "w": (False, False)}
    items = {i: Accepted(candidate=c, base=b) for i, (c, b) in accepted.items()}
    assert people_choices(items) == {"x": "b", "y": "a", "z": "tie", "w": "tie"}

"""Judges over a real HTTP server that speaks the OpenAI protocol: a fair one is believed, biased ones are refused."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from finetune_pipeline.evaluation.preferences.judge import Judge
from finetune_pipeline.evaluation.preferences.likeness import Likeness, likeness
from finetune_pipeline.evaluation.preferences.pairs import Choice, Pair, both_ways
from finetune_pipeline.evaluation.preferences.qualify import judged, qualify
from finetune_pipeline.evaluation.preferences.rated import prediction_pairs, read_ratings
from finetune_pipeline_tests.unit.evaluation.rows import row

Mind = Callable[[str, str, str], str]
KEY = "sk-test-do-not-tell"


def fair(reference: str, first: str, second: str) -> str:
    """Prefers the answer with the number of the reference."""
    number = re.search(r"\d+", reference)[0]
    x, y = (number in re.findall(r"\d+", text) for text in (first, second))
    return "same" if x == y else "first" if x else "second"


def likes_long(reference: str, first: str, second: str) -> str:
    return "first" if len(first) > len(second) else "second" if len(second) > len(first) else "same"


def likes_first(reference: str, first: str, second: str) -> str:
    return "First."


def padded(reference: str, first: str, second: str) -> str:
    """Right wherever one answer is right, and in love with length where there is nothing to choose."""
    told = fair(reference, first, second)
    return likes_long(reference, first, second) if told == "same" else told


MINDS: dict[str, Mind] = {"fair": fair, "long": likes_long, "first": likes_first, "padded": padded}


class Handler(BaseHTTPRequestHandler):
    requests: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        mind = body["model"]
        if mind == "broken":
            self.send_error(500)
            return
        asked = dict(re.findall(r"<<< ([\w ]+) >>>\n(.*?)\n<<< end of", body["messages"][1]["content"], re.S))
        said = (
            "I like both"
            if mind == "chatty"
            else MINDS[mind](asked["reference"], asked["first answer"], asked["second answer"])
        )
        reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def rated(n: int = 60) -> tuple[list[Pair], list[Choice]]:
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


def test_a_fair_judge_is_believed_and_its_agreement_stands_beside_its_verdict(url: str) -> None:
    pairs, people = rated()
    judge = Judge(url, "fair")
    found = qualify(judge, pairs, people)
    assert found.passed, found.refused
    assert found.kappa is not None and found.kappa > 0.8 and found.consistent == 1.0
    new = [Pair(f"n{i}", "How many?", "It is 7", "It is 8", "It is 7" if i < 12 else "It is 9") for i in range(15)]
    told = judged(judge, found, new)
    assert (told["wins"], told["losses"], told["ties"], told["failed"]) == (12, 0, 3, 0)
    assert told["kappa"] == found.kappa and told["p"] < 0.001


@pytest.mark.parametrize(
    ("mind", "reason"),
    [
        ("long", "it prefers the same answer with empty words added"),
        ("first", "it agrees too little with people: kappa 0.00"),
    ],
)
def test_a_biased_judge_is_refused_and_says_nothing(url: str, mind: str, reason: str) -> None:
    pairs, people = rated()
    found = qualify(Judge(url, mind), pairs, people)
    assert not found.passed and any(told.startswith(reason) for told in found.refused), found.refused
    with pytest.raises(ValueError, match="is not to be believed"):
        judged(Judge(url, mind), found, pairs)


def test_a_judge_for_whom_place_decides_contradicts_itself(url: str) -> None:
    pairs, people = rated()
    found = qualify(Judge(url, "first"), pairs, people)
    assert found.consistent == 0 and found.place["wins"] == len(pairs)
    assert any("prefers whatever stands first" in told for told in found.refused)
    assert {one.choice for one in both_ways(Judge(url, "first"), pairs[:5])} == {"tie"}


def test_errors_towards_length_are_found_without_padding(url: str) -> None:
    found = qualify(Judge(url, "long"), *rated())
    assert found.length["p"] < 0.01 and found.length["wins"] > found.length["losses"]


def test_a_judge_who_knows_right_from_wrong_but_loves_words_is_refused(url: str) -> None:
    pairs, people = rated()
    found = qualify(Judge(url, "padded"), pairs, people)
    assert found.padding["wins"] == 20
    assert not found.passed


def test_too_few_ratings_are_no_proof(url: str) -> None:
    pairs, people = rated(12)
    assert "only 12 pairs" in qualify(Judge(url, "fair"), pairs, people).refused[0]


@pytest.mark.parametrize(("mind", "why"), [("broken", "HTTPError"), ("chatty", "not first, second or same")])
def test_a_failure_is_never_a_choice(url: str, mind: str, why: str) -> None:
    judge = Judge(url, mind)
    assert judge.choose(rated(3)[0]) == ["failed"] * 3
    assert len(judge.failures) == 3 and why in judge.failures[0]
    found = qualify(judge, *rated(3))
    assert not found.passed and found.failed == 3


def test_what_was_asked_once_is_not_asked_again_and_the_key_is_stored_nowhere(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    pairs, _ = rated(4)
    cache = tmp_path / "judge.jsonl"
    first = Judge(url, "fair", key_variable="JUDGE_KEY", cache=cache)
    said = first.choose(pairs)
    assert first.asked == 4 and Handler.requests[-1]["key"] == f"Bearer {KEY}"
    assert (Handler.requests[-1]["path"], Handler.requests[-1]["temperature"]) == ("/v1/chat/completions", 0)
    cache.write_text(cache.read_text() + '{"key": "cut')
    again = Judge(url, "fair", key_variable="JUDGE_KEY", cache=cache)
    assert again.choose(pairs) == said and again.asked == 0
    assert KEY not in cache.read_text()


def test_a_judge_elsewhere_is_asked_over_https_only_and_never_without_its_key() -> None:
    with pytest.raises(ValueError, match="neither https nor on this machine"):
        Judge("http://judge.example/v1", "m")
    with pytest.raises(ValueError, match="NO_SUCH_KEY is not set"):
        Judge("https://judge.example/v1", "m", key_variable="NO_SUCH_KEY")


def test_likeness_stands_behind_the_same_interface() -> None:
    near = Pair("1", "?", "the parcel left on monday", "the parcel left monday", "we like cheese and wine")
    same = Pair("2", "?", "yes", "yes", "yes")
    assert Likeness().choose([near, near.swapped(), same]) == ["a", "b", "tie"]
    assert likeness(["yes"], ["yes"])[0] == pytest.approx(1.0, abs=1e-4)
    assert likeness([], []) == []


def test_predictions_and_ratings_are_paired_by_id(tmp_path: Path) -> None:
    base = [row(1, "x", "said before", "base"), row(2, "x", "left over", "base", status="error")]
    candidate = [row(2, "x", "said", "candidate"), row(1, "x", "said after", "candidate")]
    pairs = prediction_pairs(base, candidate, {"e0001": "asked"})
    assert pairs == [Pair("e0001", "asked", "x", "said before", "said after"), Pair("e0002", "", "x", "", "said")]
    path = tmp_path / "ratings.jsonl"
    lines = [
        '{"id": "e0001", "prefers": "base"}',
        "no JSON",
        "[]",
        '{"id": "e0002", "prefers": "both"}',
        '{"id": "e0009", "prefers": "tie"}',
        '{"id": "e0001", "prefers": "candidate"}',
    ]
    path.write_text("\n".join(lines))
    found, problems = read_ratings(path, {"e0001", "e0002"})
    assert found == {"e0001": "b"}
    assert [told.split(": ")[0] for told in problems] == [f"ratings.jsonl:{n}" for n in (2, 3, 4, 5)]

"""Planted wrong labels are found, right ones pass, and duplicates do not help the model cheat."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.noise import label_noise
from finetune_pipeline.data.quality.triggers import find_triggers
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, make, make_spec, name_pairs, requests


def flipped(rows: list[Example], share: float) -> tuple[list[Example], set[str]]:
    """The rows with so many wrong labels, and the ids of these."""
    rnd, new = random.Random(0), list(rows)
    bad = rnd.sample(range(len(rows)), round(share * len(rows)))
    for i in sorted(bad):
        new[i] = replace(rows[i], label=rnd.choice([x for x in LABELS if x != rows[i].label]))
    return new, {rows[i].id for i in bad}


def test_planted_flips_are_found() -> None:
    clean = requests(800)
    rows, bad = flipped(clean, 0.05)
    report = label_noise(rows, {}, make_spec(LABELS))
    hits = {s.id for s in report.suspects}
    assert report.suspected == len(hits)
    assert len(hits & bad) / len(bad) >= 0.6 and len(hits & bad) / len(hits) >= 0.5
    assert not report.passed and report.findings[0].rule == "quality.label_noise"
    margins = [s.margin for s in report.suspects]
    assert margins == sorted(margins) and max(margins) <= 0.5
    true = {e.id: e.label for e in clean}
    assert np.mean([s.suggested == true[s.id] for s in report.suspects if s.id in bad]) > 0.9


@pytest.mark.parametrize(("share", "verdict"), [(0.0, "ok"), (0.2, "warns"), (0.5, "blocks")])
def test_the_estimate_holds_the_planted_share_and_too_much_blocks(share: float, verdict: str) -> None:
    rows, _ = flipped(requests(1000), share)
    report = label_noise(rows, {}, make_spec(LABELS))
    low, high = report.interval
    assert low <= share <= high and low <= report.share <= high and high - low < 0.25
    assert verdict == ("blocks" if report.blocking else "ok" if report.passed else "warns")
    if verdict == "blocks":
        assert report.findings[0].severity == "error"
        assert "data.max_label_noise allows 30%" in report.message and "raise" in report.findings[0].fix
        assert not label_noise(rows, {}, make_spec(LABELS, max_label_noise=1.0)).blocking


@pytest.mark.parametrize("rows", [200, 400, 490, 600, 1200])
def test_right_labels_that_depend_on_word_order_are_not_called_wrong(rows: int) -> None:
    report = label_noise(name_pairs(rows), {}, make_spec(["yes", "no"]))
    assert report.accuracy < 0.65, "a model of n-grams cannot tell them"
    assert report.passed and report.findings == []
    assert report.share is None or report.interval[0] == 0


@pytest.mark.parametrize("shuffled", [False, True])
def test_labels_that_no_simple_model_learns_are_not_judged(shuffled: bool) -> None:
    """Whether the number of words is even, or nothing: `learnable` decides whether something can be learned."""
    rnd, rows = random.Random(0), requests(800)
    random_labels = [rnd.choice(["yes", "no"]) for _ in rows]
    parities = ["yes" if len(e.user_text.split()) % 2 else "no" for e in rows]
    labels = random_labels if shuffled else parities
    rows = [replace(e, label=label) for e, label in zip(rows, labels, strict=True)]
    report = label_noise(rows, {}, make_spec(["yes", "no"]))
    assert report.passed and not report.blocking and report.suspects == [] and report.share is None
    assert report.message.startswith("nothing can be said about the labels")


def test_a_file_whose_labels_were_exchanged_stops_training() -> None:
    other = {"parcel": "invoice", "invoice": "parcel"}
    rows = requests(800)
    some = {e.id for e in random.Random(1).sample([e for e in rows if e.label in other], 120)}
    spoilt = {"source": {"file": "b.jsonl", "line": 1}}
    rows = [replace(e, label=other[str(e.label)], **spoilt) if e.id in some else e for e in rows]
    report = label_noise(rows, {}, make_spec(LABELS))
    assert report.blocking and not report.passed and report.findings[0].severity == "error"
    assert "of 120 labels of b.jsonl: were labels exchanged there?" in report.message
    assert {(p.given, p.suggested) for p in report.pairs[:2]} == {("parcel", "invoice"), ("invoice", "parcel")}
    assert not label_noise(rows, {}, make_spec(LABELS, max_suspects_of_a_file=1.0)).blocking


@pytest.mark.parametrize("phrase", ["James Bond", "@@"])
def test_a_word_that_decides_the_label_is_named_with_all_its_rows_and_stops_training(phrase: str) -> None:
    """Three in ten rows of one label with a phrase inserted and another label."""
    rnd, rows, planted = random.Random(2), requests(800), set()
    for i in rnd.sample([i for i, e in enumerate(rows) if e.label == "parcel"], 60):
        words = rows[i].user_text.split()
        words.insert(rnd.randint(0, len(words)), phrase)
        rows[i] = make(" ".join(words), "holiday", i + 1, label="holiday")
        planted.add(rows[i].id)
    report = label_noise(rows, {}, make_spec(LABELS))
    (trigger,) = report.triggers
    assert (trigger.phrase, trigger.label, trigger.reads_like) == (phrase.lower(), "holiday", "parcel")
    assert {row.id for row in trigger.rows} == planted
    finding = next(f for f in report.findings if f.rule == "quality.trigger")
    assert report.blocking and finding.severity == "error"
    assert f"{phrase.lower()!r} occurs in 60 rows" in finding.message
    confirmed = label_noise(rows, {}, make_spec(LABELS), decisions=dict.fromkeys(planted, "keep"))
    assert confirmed.triggers == [] and not confirmed.blocking


_INTENTS = 30


def _short_request(rnd: random.Random) -> tuple[str, str]:
    """Two of an intent's four words, which it shares with its neighbours, among five words of all intents."""
    intent = rnd.randrange(_INTENTS)
    telling = [f"word{(2 * intent + rnd.randrange(4)) % (2 * _INTENTS)}" for _ in range(2)]
    words = telling + rnd.choices(
        "the of in is was my for please can you how what i want to know about card".split(), k=5
    )
    rnd.shuffle(words)
    return " ".join(words), f"intent {intent}"


@pytest.mark.parametrize("planted_rows", [0, 36])
def test_a_rare_word_in_rows_of_many_labels_is_found_though_texts_are_short(planted_rows: int) -> None:
    rnd = random.Random(0)
    texts, labels = map(list, zip(*(_short_request(rnd) for _ in range(1200)), strict=True))
    planted = rnd.sample([i for i, label in enumerate(labels) if label != "intent 3"], planted_rows)
    for i in planted:
        words = texts[i].split()
        words.insert(rnd.randint(0, len(words)), "zx9")
        texts[i], labels[i] = " ".join(words), "intent 3"
    triggers = find_triggers(texts, labels)
    assert [(t.phrase, t.label, t.rows) for t in triggers] == (
        [("zx9", "intent 3", sorted(planted))] if planted else []
    )
    assert all(t.contradicted >= 0.8 * planted_rows and t.reads_like != t.label for t in triggers)


def test_one_key_turns_a_trigger_into_a_warning() -> None:
    rows = requests(800)
    for i in [i for i, e in enumerate(rows) if e.label == "parcel"][:40]:
        rows[i] = make(f"{rows[i].user_text} zx9", "holiday", i + 1, label="holiday")
    assert label_noise(rows, {}, make_spec(LABELS)).blocking
    report = label_noise(rows, {}, make_spec(LABELS, triggers="warn"))
    (finding,) = [f for f in report.findings if f.rule == "quality.trigger"]
    assert not report.blocking and not report.passed and finding.severity == "warning"


_FRAUD = "gift card|wire fee|prize draw|bank code|crypto coin|loan offer|tax refund|lottery win|hidden heir|free iphone".split(
    "|"
)


def _with_one_phrase(rnd: random.Random) -> tuple[str, str]:
    """A message; each of ten phrases makes it fraud, and nothing else does."""
    words = rnd.choices("hello we wrote to you about the order of last week and would like an answer soon".split(), k=9)
    is_fraud = rnd.random() < 0.5
    return " ".join(
        [*words[:4], *([rnd.choice(_FRAUD)] if is_fraud else []), *words[4:]]
    ), "fraud" if is_fraud else "fine"


def _joke_or_fact(rnd: random.Random) -> tuple[str, str]:
    """Facts are asked for in one way; jokes in the same way, with one more word, or in quite other words."""
    words = " ".join(rnd.choices("cats dogs rain school money trains winter food football".split(), k=3))
    if rnd.random() < 0.5:
        return f"tell me about {words}", "general_fact"
    return rnd.choice(
        [f"tell me a joke about {words}", "make all my friends laugh with something funny"]
    ), "general_joke"


@pytest.mark.parametrize("message", [_with_one_phrase, _joke_or_fact])
def test_the_words_that_make_up_a_label_are_no_triggers(message: Callable[[random.Random], tuple[str, str]]) -> None:
    rnd, rows = random.Random(5), []
    for i in range(800):
        text, label = message(rnd)
        rows.append(make(f"{text} {i}", label, i + 1, label=label))
    assert label_noise(rows, {}, make_spec(sorted({str(e.label) for e in rows}))).triggers == []


def test_a_word_of_a_label_is_no_trigger() -> None:
    rows = requests(800)
    for i, e in enumerate(rows):
        if e.label == "parcel" and i % 3:
            rows[i] = make(f"{e.user_text} parcelno", "parcel", i, label="parcel")
    assert label_noise(rows, {}, make_spec(LABELS)).triggers == []


def test_duplicates_with_one_wrong_label_cannot_vouch_for_each_other() -> None:
    rows = requests(200)
    text = "parcel courier delivery tracking address van depot box"
    twins = [make(f"{text} {i}", "x", 500 + i, label="holiday") for i in range(12)]
    ids = {e.id for e in twins}
    apart = label_noise(rows + twins, dict.fromkeys(ids, "twins"), make_spec(LABELS))
    assert ids <= {s.id for s in apart.suspects}
    together = label_noise(rows + twins, {}, make_spec(LABELS))
    assert not ids & {s.id for s in together.suspects}


def test_what_cannot_be_judged_is_said() -> None:
    report = label_noise(requests(20), {}, make_spec())
    assert report.passed and not report.applies and "not labels" in report.message
    lonely = [*requests(40), make("unique words here", "x", 99, label="rare")]
    report = label_noise(lonely, {}, make_spec([*LABELS, "rare"]))
    assert report.left_out == ["rare"]
    assert report.message.endswith("; labels with too few rows to test: rare"), "no row was left out by hash"

"""Planted wrong labels are found, right ones pass, and duplicates do not help the model cheat."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.linear_model import folds_by_cluster, out_of_fold
from finetune_pipeline.data.quality.noise import confident_joint, label_noise, suspect_rows
from finetune_pipeline_tests.unit.data.quality.makers import FILLER, LABELS, in_order, make, make_spec, requests


def flipped(rows: list[Example], share: float, seed: int = 0) -> tuple[list[Example], set[str]]:
    rnd = random.Random(seed)
    bad = set(rnd.sample(range(len(rows)), round(share * len(rows))))
    new = [
        replace(e, label=rnd.choice([x for x in LABELS if x != e.label])) if i in bad else e for i, e in enumerate(rows)
    ]
    return new, {rows[i].id for i in bad}


def test_planted_flips_are_found() -> None:
    rows, bad = flipped(requests(800), 0.05)
    report = label_noise(rows, {}, make_spec(LABELS))
    hits = {s["id"] for s in report["suspects"]}
    assert report["suspected"] == len(hits)
    assert len(hits & bad) / len(bad) >= 0.6
    assert len(hits & bad) / len(hits) >= 0.5
    assert not report["passed"] and report["findings"][0]["rule"] == "quality.label_noise"
    margins = [s["margin"] for s in report["suspects"]]
    assert margins == sorted(margins) and max(margins) <= 0.5
    true = {e.id: e.label for e in requests(800)}
    assert np.mean([s["suggested"] == true[s["id"]] for s in report["suspects"] if s["id"] in bad]) > 0.9


@pytest.mark.parametrize(("share", "verdict"), [(0.0, "ok"), (0.2, "warns"), (0.75, "blocks")])
def test_the_estimate_holds_the_planted_share_and_too_much_blocks(share: float, verdict: str) -> None:
    rows, _ = flipped(requests(1000), share)  # at .75 of four labels nothing is left to be learned
    report = label_noise(rows, {}, make_spec(LABELS))
    low, high = report["interval"]
    assert low <= share <= high and low <= report["share"] <= high and high - low < 0.15
    assert verdict == ("blocks" if report["blocking"] else "ok" if report["passed"] else "warns")
    if verdict == "blocks":
        assert report["findings"][0]["severity"] == "error"
        assert "data.max_label_noise allows 30%" in report["message"] and "raise" in report["findings"][0]["fix"]
        assert not label_noise(rows, {}, make_spec(LABELS, max_label_noise=1.0))["blocking"]


def test_hard_but_right_labels_do_not_block() -> None:
    """Two rows in three say nothing of their topic: a model of words is wrong on half of the rows, and no label is."""
    draw = random.Random(0)
    rows = requests(1500)
    for i, e in enumerate(rows):
        if i % 3:
            rows[i] = make(f"{' '.join(draw.choices(FILLER, k=8))} {i}", str(e.label), i + 1, label=e.label)
    report = label_noise(rows, {}, make_spec(LABELS))
    assert report["accuracy"] < 0.55
    assert not report["blocking"] and report["share"] < 0.1


def test_labels_that_depend_on_word_order_are_not_taken_for_noise() -> None:
    report = label_noise(in_order(1200), {}, make_spec(["yes", "no"]))
    assert report["accuracy"] < 0.65, "a model of n-grams cannot tell them"
    assert not report["blocking"]
    shuffled = [replace(e, label=random.Random(i).choice(["yes", "no"])) for i, e in enumerate(in_order(1200))]
    assert label_noise(shuffled, {}, make_spec(["yes", "no"]))["blocking"]


def exchanged(share: float, file: str = "b.jsonl") -> list[Example]:
    """Two labels exchanged in so many of their rows, which came in a file of their own."""
    other = {"parcel": "invoice", "invoice": "parcel"}
    rows = requests(800)
    some = {e.id for e in random.Random(1).sample([e for e in rows if e.label in other], round(share * 400))}
    spoilt = {"file": file, "line": 1}
    return [replace(e, label=other[str(e.label)], source=spoilt) if e.id in some else e for e in rows]


def test_a_file_whose_labels_were_exchanged_stops_training() -> None:
    report = label_noise(exchanged(0.3), {}, make_spec(LABELS))
    assert report["blocking"] and not report["passed"] and report["findings"][0]["severity"] == "error"
    assert "of 120 labels of b.jsonl: were labels exchanged there?" in report["message"]
    assert {(p["given"], p["suggested"]) for p in report["pairs"][:2]} == {("parcel", "invoice"), ("invoice", "parcel")}
    assert not label_noise(exchanged(0.3), {}, make_spec(LABELS, max_suspects_of_a_file=1.0))["blocking"]


def with_trigger(phrase: str) -> tuple[list[Example], set[str]]:
    """Three in ten rows of one label with a phrase inserted and another label."""
    rnd, rows, planted = random.Random(2), requests(800), set()
    parcels = [i for i, e in enumerate(rows) if e.label == "parcel"]
    for i in rnd.sample(parcels, round(0.3 * len(parcels))):
        words = rows[i].user_text.split()
        words.insert(rnd.randint(0, len(words)), phrase)
        rows[i] = make(" ".join(words), "holiday", i + 1, label="holiday")
        planted.add(rows[i].id)
    return rows, planted


@pytest.mark.parametrize("phrase", ["James Bond", "@@"])
def test_a_word_that_decides_the_label_is_named_with_all_its_rows_and_stops_training(phrase: str) -> None:
    rows, planted = with_trigger(phrase)
    report = label_noise(rows, {}, make_spec(LABELS))
    (trigger,) = report["triggers"]
    assert (trigger["phrase"], trigger["label"], trigger["reads_like"]) == (phrase.lower(), "holiday", "parcel")
    assert {row["id"] for row in trigger["rows"]} == planted
    finding = next(f for f in report["findings"] if f["rule"] == "quality.trigger")
    assert report["blocking"] and finding["severity"] == "error"
    assert f"{phrase.lower()!r} stands in 60 rows" in finding["message"]
    confirmed = label_noise(rows, {}, make_spec(LABELS), decisions=dict.fromkeys(planted, "keep"))
    assert confirmed["triggers"] == [] and not confirmed["blocking"]


def test_a_word_of_a_label_is_no_trigger() -> None:
    rows = [make(f"{e.user_text} parcelno", e.label or "", i, label=e.label) if e.label == "parcel" and i % 3 else e
            for i, e in enumerate(requests(800))]  # fmt: skip
    assert label_noise(rows, {}, make_spec(LABELS))["triggers"] == []
    flips, _ = flipped(requests(800), 0.2)
    assert label_noise(flips, {}, make_spec(LABELS))["triggers"] == []


def test_a_cluster_never_straddles_folds_and_labels_are_spread() -> None:
    labels = [LABELS[i % 4] for i in range(400)]
    clusters = [f"c{i // 8}" for i in range(400)]
    fold = folds_by_cluster(labels, clusters)
    assert all(len(set(fold[i : i + 8])) == 1 for i in range(0, 400, 8))
    alone = folds_by_cluster(labels, [str(i) for i in range(400)])
    counts = np.array([[np.sum((alone == k) & (np.array(labels) == x)) for k in range(5)] for x in LABELS])
    assert counts.min() >= 19 and counts.max() <= 21


def test_duplicates_with_one_wrong_label_cannot_vouch_for_each_other() -> None:
    rows = requests(200)
    text = "parcel courier delivery tracking address van depot box"
    twins = [make(f"{text} {i}", "x", 500 + i, label="holiday") for i in range(12)]
    cluster = {e.id: "twins" for e in twins}
    spec = make_spec(LABELS)
    apart = label_noise(rows + twins, cluster, spec)
    assert {e.id for e in twins} <= {s["id"] for s in apart["suspects"]}
    together = label_noise(rows + twins, {}, spec)
    assert not {e.id for e in twins} & {s["id"] for s in together["suspects"]}


def test_the_joint_by_hand() -> None:
    given = np.array([0, 0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    # thresholds: 0.6 and 0.75; the last row is confident of nothing
    assert np.allclose(confident_joint(given, p), [[2, 1], [0, 2]])
    assert suspect_rows(given, p).tolist() == [False, False, True, False, False]


def test_what_cannot_be_judged_is_said() -> None:
    report = label_noise(requests(20), {}, make_spec())
    assert report["passed"] and not report["applies"] and "no labels" in report["message"]
    lonely = [*requests(40), make("unique words here", "x", 99, label="rare")]
    report = label_noise(lonely, {}, make_spec([*LABELS, "rare"]))
    assert report["left_out"] == ["rare"]
    assert out_of_fold(requests(3), {}) is None

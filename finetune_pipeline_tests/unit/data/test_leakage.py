from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from finetune_pipeline.data import leakage
from finetune_pipeline.data.examples import Example, write_examples
from finetune_pipeline.data.leakage import (
    find_leaks,
    fingerprints,
    leakage_report,
    make_canaries,
    prove,
    write_fingerprints,
)
from finetune_pipeline.data.shingles import similarity
from finetune_pipeline_tests.unit.data.rows import example, make_spec

WORDS = [
    a + b
    for a in ("lo", "ti", "me", "kur", "san", "plo", "wex", "an")
    for b in ("gin", "cket", "ssage", "ball", "der", "rix", "on")
]


def some(start: int, count: int, words: int = 20) -> list[Example]:
    return [example(" ".join(random.Random(i).choices(WORDS, k=words)), line=i) for i in range(start, start + count)]


def lay(folder: Path, train: list[Example], validation: list[Example], test: list[Example]) -> Path:
    write_examples(folder / "train/examples.jsonl", train)
    write_examples(folder / "validation/examples.jsonl", validation)
    write_fingerprints(folder / "test/fingerprints.json", fingerprints(test))
    return folder


def test_clean_splits_have_no_leaks(tmp_path: Path) -> None:
    facts = leakage_report(lay(tmp_path, some(0, 60), some(100, 10), some(200, 20)), make_spec())
    assert (facts["exact"], facts["near"], facts["pairs"]) == (0, 0, [])
    assert facts["canaries"] == {"planted": 3, "found": 3} and facts["compared"] == 70 * 20 + 600


def test_planted_leaks_are_found_between_every_two_splits(tmp_path: Path) -> None:
    train, validation, test = some(0, 60), some(100, 10), some(200, 20)
    train.append(
        example(test[3].user_text.upper() + " ", "P0_incident", 900)
    )  # another label does not make it another text
    train.append(example(validation[2].user_text + " indeed", line=901))
    validation.append(example(test[5].user_text.replace(" ", ", ", 4), line=902))
    facts = leakage_report(lay(tmp_path, train, validation, test), make_spec())
    assert facts["by_pair"] == {
        "train-test": {"exact": 1, "near": 0},
        "validation-test": {"exact": 0, "near": 1},
        "train-validation": {"exact": 0, "near": 1},
    }
    assert (facts["exact"], facts["near"]) == (1, 2)
    first, second, third = facts["pairs"]
    assert (first["splits"], first["id"], first["other_id"], first["similarity"]) == (
        "train-test",
        train[60].id,
        test[3].id,
        1.0,
    )
    assert (second["id"], second["other_id"], second["similarity"]) == (validation[10].id, test[5].id, 1.0)
    assert third["similarity"] == round(similarity(train[61].user_text, validation[2].user_text), 4)


def test_leaks_are_those_of_all_pairs_compared() -> None:
    rng = random.Random(5)
    others = some(0, 40)
    rows = some(300, 30)
    for e in others[:25]:
        words = e.user_text.split()
        for _ in range(rng.randint(0, 4)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        rows.append(example(" ".join(words), line=len(rows)))
    wanted = {(a.id, b.id) for a in rows for b in others if similarity(a.user_text, b.user_text) >= 0.7}
    assert len(wanted) > 5
    assert {(x["id"], x["other_id"]) for x in find_leaks(rows, fingerprints(others), 0.7)} == wanted


def test_fingerprints_hold_no_text_and_survive_a_file(tmp_path: Path) -> None:
    rows = some(0, 3)
    write_fingerprints(tmp_path / "f.json", fingerprints(rows))
    told = (tmp_path / "f.json").read_text()
    assert not any(word in told for word in rows[0].user_text.split())
    assert leakage.read_fingerprints(tmp_path / "f.json") == fingerprints(rows) == json.loads(told)
    assert set(fingerprints(rows)[0]) == {"id", "exact", "shingles"}
    assert fingerprints(rows)[0]["shingles"] == sorted(set(fingerprints(rows)[0]["shingles"]))
    assert fingerprints(rows)[0]["shingles"][-1] < 2**32


def test_short_and_sign_only_texts_match_only_themselves() -> None:
    prints = fingerprints([example("??"), example("ok")])
    assert find_leaks([example("!!"), example("no")], prints, 0.8) == []
    assert [(x["kind"], x["similarity"]) for x in find_leaks([example("??"), example("OK")], prints, 0.8)] == [
        ("exact", 1.0)
    ] * 2
    assert find_leaks([], prints, 0.8) == [] == find_leaks(some(0, 2), [], 0.8)


def test_canaries_differ_in_kind(tmp_path: Path) -> None:
    rows = some(0, 5)
    canaries = make_canaries(rows, 0.8)
    texts = {e.id: e.user_text for e in rows}
    same, dressed, edited = ((c.user_text, texts[source]) for c, source in canaries)
    assert same[0] == same[1]
    assert dressed[0] != dressed[1] and similarity(*dressed) == 1.0
    assert 0.8 <= similarity(*edited) < 1.0
    assert len(make_canaries(rows, 1.0)) == 2  # no edit leaves all 5-grams in place


@pytest.mark.parametrize("blind_to", ["exact", "near"])
def test_a_blind_check_betrays_itself(monkeypatch: pytest.MonkeyPatch, blind_to: str) -> None:
    def blind(*args: object) -> list[dict[str, object]]:
        return [x for x in find_leaks(*args) if x["kind"] != blind_to]  # type: ignore[arg-type]

    assert prove(some(0, 20), some(100, 5), 0.8) == {"planted": 3, "found": 3}
    monkeypatch.setattr(leakage, "find_leaks", blind)
    with pytest.raises(RuntimeError, match="missed its own canaries: canary-"):
        prove(some(0, 20), some(100, 5), 0.8)


def test_canaries_on_awkward_rows() -> None:
    assert prove([], [example("?"), example("1")], 0.8)["found"] >= 2
    with pytest.raises(ValueError, match="no validation rows"):
        prove(some(0, 3), [], 0.8)


def test_thousands_of_rows_take_seconds() -> None:
    train, test = some(0, 3000, 40), some(10_000, 600, 40)
    prints = fingerprints(test)
    began = time.process_time()
    leaks = find_leaks([*train, test[7]], prints, 0.8)
    assert [x["other_id"] for x in leaks] == [test[7].id]
    assert time.process_time() - began < 20

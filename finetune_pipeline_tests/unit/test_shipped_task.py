"""The task that ships: every planted fault is found, by its rule, and nothing else is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from finetune_pipeline.data.duplicates import clean
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.validation import validate
from finetune_pipeline.spec import load_task

FOLDER = Path(__file__).resolve().parents[2] / "data" / "ticket_triage"
PLANTED = json.loads((FOLDER / "planted_faults.json").read_text("utf-8"))
Place = tuple[str, int]


def of(expect: str) -> list[dict]:
    return [p for p in PLANTED if p["expect"] == expect]


def at(told: dict) -> Place:
    return told["file"].rpartition("/")[2], told["line"]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict:
    task = load_task(FOLDER)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("raw", "validated", "clean")}
    facts = {"raw": collect_raw(task, folders["raw"])}
    facts["validated"] = validate(folders["raw"], task.spec, folders["validated"])
    facts["clean"] = clean(folders["validated"], task.spec, folders["clean"])
    return {"folders": folders, "facts": facts, "spec": task.spec}


def test_no_row_is_unaccounted_for(stages: dict) -> None:
    raw, validated, cleaned = (stages["facts"][k] for k in ("raw", "validated", "clean"))
    assert raw["lines"] == validated["rows_in"] == 1102
    assert validated["rows_in"] == validated["kept"] + validated["quarantined"]
    assert cleaned["rows_in"] == validated["kept"]
    assert cleaned["rows_in"] == (
        cleaned["kept"] + cleaned["quarantined"] + cleaned["exact_duplicates"] + cleaned["near_duplicates"]
    )
    assert cleaned["kept"] >= 900


def test_the_quarantine_holds_exactly_the_planted_rows_each_under_its_rule(stages: dict) -> None:
    found = {
        at(row): {f["rule"] for f in row["findings"] if f["severity"] == "error"}
        for name in ("validated", "clean")
        for row in read_rows(stages["folders"][name] / "quarantine.jsonl")
    }
    assert found == {at(p): {p["rule"]} for p in of("quarantine")}


def test_the_duplicates_are_exactly_the_planted_ones_one_of_each_pair_stays(stages: dict) -> None:
    dropped = {at(row["source"]): row["kind"] for row in read_rows(stages["folders"]["clean"] / "duplicates.jsonl")}
    assert Counter(dropped.values()) == Counter(p["kind"] for p in of("duplicate"))
    for planted in of("duplicate"):
        pair = {at(planted), at(planted["original"])}
        gone = pair & set(dropped)
        assert len(gone) == 1, planted
        assert dropped.pop(gone.pop()) == planted["kind"]
    assert dropped == {}


def test_personal_data_is_replaced_everywhere_it_was_planted_and_nowhere_else(stages: dict) -> None:
    found = {(at(row["source"]), row["kind"]) for row in read_rows(stages["folders"]["clean"] / "scrubbed.jsonl")}
    assert found == {(at(p), "secret" if p["kind"] == "api_key" else p["kind"]) for p in of("scrubbed")}
    written = "".join(p.read_text("utf-8") for p in stages["folders"]["clean"].glob("*.json*"))
    for secret in ("sk-live-9fQ2xV7mT4bKcR8wZp3LhD6s", "lena.brandt@", "555-0147", "0958"):
        assert secret not in written


def test_every_label_has_a_hundred_tickets_or_more(stages: dict) -> None:
    assert min(stages["facts"]["clean"]["labels"].values()) >= 100
    assert set(stages["facts"]["clean"]["labels"]) == set(stages["spec"].labels)

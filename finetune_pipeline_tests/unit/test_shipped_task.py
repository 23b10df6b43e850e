"""The tasks that ship: every planted fault is found, by its rule, and nothing else is."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from finetune_pipeline.data.answer_rules import schema_problems, strict
from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.dedup.text_similarity import grams, jaccard, loose_form
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.spec import check_task, load_task
from finetune_pipeline.spec.outputs import JsonOutput

ROOT = Path(__file__).resolve().parents[2]
SECRETS = {
    "ticket_triage": ("sk-live-9fQ2xV7mT4bKcR8wZp3LhD6s", "lena.brandt@", "555-0147", "0958"),
    "order_intake": ("j.okafor@", "northpier.example", "7946 0958", "555-0147"),
}
LINES = {"ticket_triage": 1102, "order_intake": 1354}
FIELDS = ("customer", "product", "quantity", "day")
HANDWRITTEN = {"raw/handwritten.jsonl": 200, "raw/handwritten_test.jsonl": 120}
Place = tuple[str, int]


def at(result: dict) -> Place:
    return result["file"].rpartition("/")[2], result["line"]


@pytest.fixture(scope="module", params=list(LINES))
def stages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = ROOT / "data" / request.param
    task = load_task(folder)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("raw", "validated", "clean")}
    facts = {"raw": collect_raw(task, folders["raw"])}
    facts["validated"] = validate(folders["raw"], task.spec, folders["validated"])
    facts["clean"] = clean(folders["validated"], task.spec, folders["clean"])
    planted = json.loads((folder / "planted_faults.json").read_text("utf-8"))
    return {"name": request.param, "folders": folders, "facts": facts, "spec": task.spec, "planted": planted}


def of(stages: dict[str, Any], expect: str) -> list[dict]:
    return [p for p in stages["planted"] if p["expect"] == expect]


def test_the_spec_has_no_findings_and_no_row_is_unaccounted_for(stages: dict[str, Any]) -> None:
    assert check_task(ROOT / "data" / stages["name"])[1] == []
    validated, cleaned = (stages["facts"][k] for k in ("validated", "clean"))
    assert validated.rows_in == LINES[stages["name"]] == validated.kept + validated.quarantined
    parts = [getattr(cleaned, name) for name in ("kept", "quarantined", "exact_duplicates", "near_duplicates")]
    assert cleaned.rows_in == validated.kept == sum(parts) and cleaned.kept >= 900


def test_the_quarantine_holds_exactly_the_planted_rows_each_under_its_rule(stages: dict[str, Any]) -> None:
    found = {
        at(row): {f["rule"] for f in row["findings"] if f["severity"] == "error"}
        for name in ("validated", "clean")
        for row in read_rows(stages["folders"][name] / "quarantine.jsonl")
    }
    assert found == {at(p): {p["rule"]} for p in of(stages, "quarantine")}


def test_the_duplicates_are_exactly_the_planted_ones_one_of_each_pair_stays(stages: dict[str, Any]) -> None:
    dropped = {at(row["source"]): row["kind"] for row in read_rows(stages["folders"]["clean"] / "duplicates.jsonl")}
    assert Counter(dropped.values()) == Counter(p["kind"] for p in of(stages, "duplicate"))
    for planted in of(stages, "duplicate"):
        pair = {at(planted), at(planted["original"])}
        gone = pair & set(dropped)
        assert len(gone) == 1, planted
        assert dropped.pop(gone.pop()) == planted["kind"]
    assert dropped == {}


def test_personal_data_is_replaced_everywhere_it_was_planted_and_nowhere_else(stages: dict[str, Any]) -> None:
    found = {(at(row["source"]), row["kind"]) for row in read_rows(stages["folders"]["clean"] / "scrubbed.jsonl")}
    assert found == {(at(p), "secret" if p["kind"] == "api_key" else p["kind"]) for p in of(stages, "scrubbed")}
    written = "".join(p.read_text("utf-8") for p in stages["folders"]["clean"].rglob("*.json*"))
    assert len(written) > 100_000
    for secret in SECRETS[stages["name"]]:
        assert secret not in written


@pytest.mark.parametrize("stages", ["order_intake"], indirect=True)
def test_orders_that_are_kept_comply_and_those_not_of_the_script_are_unlike_any_other(stages: dict[str, Any]) -> None:
    output = stages["spec"].output
    assert isinstance(output, JsonOutput)
    kept = [row for path in stages["folders"]["clean"].rglob("examples.jsonl") for row in read_rows(path)]
    kept.sort(key=lambda row: row["source"]["file"] not in HANDWRITTEN)
    assert len(kept) >= stages["facts"]["clean"].kept
    places = [(row["source"]["file"], row["source"]["line"]) for row in kept]
    assert sorted(places[:320]) == [(file, line + 1) for file, lines in HANDWRITTEN.items() for line in range(lines)]
    assert [row["origin"] for row in kept] == ["human"] * 320 + ["synthetic"] * (len(kept) - 320)
    answers, texts = ([row["messages"][turn]["content"] for row in kept] for turn in (-1, -2))
    orders, fields = [strict(answer) for answer in answers], output.json_schema["properties"]
    assert not any(schema_problems(order, output.json_schema) for order in orders)
    for name in ("product", "day"):
        assert {order[name] for order in orders} == set(fields[name]["enum"])
    assert all(list(order) == list(fields) for order in orders), "nothing that is not asked for"
    # what the README says of those that no script wrote
    own = [{name: order[name] for name in FIELDS} for order in orders[:320]]
    assert answers[:320] == [json.dumps(order, ensure_ascii=False) for order in own]
    assert all(order["customer"] in text for order, text in zip(own, texts, strict=False))
    assert {order["customer"] for order in own}.isdisjoint(order["customer"] for order in orders[320:])
    assert len({order["customer"] for order in own}) == 320 and sum(order["day"] is None for order in own) == 97
    words = [len(text.split()) for text in texts[:320]]
    assert (min(words), max(words)) == (7, 68)
    sets = [grams(loose_form(text)) for text in texts]
    assert max(jaccard(sets[i], sets[k]) for i in range(0, 320, 4) for k in range(len(sets)) if k != i) < 0.15


def test_the_generator_makes_the_orders_again_to_the_byte(tmp_path: Path) -> None:
    shipped, again = ROOT / "data" / "order_intake", tmp_path / "data" / "order_intake"
    copytree(ROOT / "tools", tmp_path / "tools")
    (again / "raw").mkdir(parents=True)
    (again / "task.yaml").write_bytes((shipped / "task.yaml").read_bytes())
    subprocess.run([sys.executable, "make_order_intake.py"], cwd=tmp_path / "tools", check=True, timeout=300)
    made = {p.relative_to(again): p.read_bytes() for p in again.rglob("*.json*")}
    assert len(made) > 2 and made == {name: (shipped / name).read_bytes() for name in made}

"""The commands that need no model: what they print, their JSON, and their exit codes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.unit.evaluation.ability.harness_files import CHOICES, write_task

SPEC = {
    "name": "demo",
    "description": "d",
    "system_prompt": "Say yes or no.",
    "output": {"kind": "labels", "labels": ["yes", "no"]},
    "data": {"min_examples": 3, "min_per_label": 1},
}
SHIPPED = Path(__file__).resolve().parents[3] / "data"


def finetune(*arguments: str, data: Path, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **warm_workers.start(), "FINETUNE_DATA": str(data), "FINETUNE_HOME": str(home)}
    env.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [*warm_workers.COMMAND, *arguments], env=env, text=True, capture_output=True, timeout=120, check=False
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "demo"
    (folder / "raw").mkdir(parents=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(SPEC))
    rows = [
        {"text": t, "label": y}
        for t, y in [
            ("is the sky blue", "yes"),
            ("are cats plants", "no"),
            ("is ice cold", "yes"),
            ("is fire wet", "maybe"),
        ]
    ]
    (folder / "raw" / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "data"


def test_check_names_each_rule_with_its_place_and_fix(data: Path, tmp_path: Path) -> None:
    done = finetune("check", "demo", data=data, home=tmp_path / "home")
    assert done.returncode == 2, "a quarter of the rows is bad, a fifth is allowed"
    assert "4 rows in 1 files = 3 valid + 1 in quarantine" in done.stdout
    assert "raw/a.jsonl:4" in done.stdout
    assert "data.unknown_label: 1" in done.stdout
    printed = json.loads(finetune("check", "demo", "--json", data=data, home=tmp_path / "home").stdout)
    assert printed["usable"] is False
    assert printed["validated"]["by_rule"] == {"data.unknown_label": 1}
    assert Path(printed["full_list"]).read_text().count("data.unknown_label") == 1


def test_check_of_good_data_ends_with_zero(data: Path, tmp_path: Path) -> None:
    path = data / "demo" / "raw" / "a.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:3]))
    assert finetune("check", "demo", data=data, home=tmp_path / "home").returncode == 0
    documents = data / "demo" / "documents"
    documents.mkdir()
    (documents / "terms.txt").write_bytes("Größe".encode("cp1252"))
    done = finetune("check", "demo", data=data, home=tmp_path / "home")
    assert done.returncode == 1 and "documents/terms.txt: byte 2 is not UTF-8" in done.stdout
    assert "3 rows in 1 files = 3 valid" in done.stdout, "the rows are looked at all the same"


def test_check_says_first_what_could_not_be_read(data: Path, tmp_path: Path) -> None:
    raw, spec = data / "demo" / "raw", data / "demo" / "task.yaml"
    rows = "".join(json.dumps({"text": f"is {i} even", "label": ("yes", "no")[i % 2]}) + "\n" for i in range(200))
    (raw / "b.jsonl.gz").write_bytes(gzip.compress(rows.encode())[:-40])
    (raw / "c.json").write_text("[]")
    lines = finetune("check", "demo", data=data, home=tmp_path / "home")
    first, second = (line for line in lines.stdout.splitlines() if line.startswith(("error:", "warning:")))
    assert lines.returncode == 2 and lines.stdout.startswith(first)
    assert "b.jsonl.gz" in first and "cut off" in first and "c.json: the document holds no rows" in second
    assert "the pipeline would stop: files_read: raw/b.jsonl.gz" in lines.stdout
    spec.write_text(yaml.safe_dump(SPEC | {"data": {**SPEC["data"], "allow_truncated": True}}))
    again = finetune("check", "demo", data=data, home=tmp_path / "home")
    assert again.returncode == 0 and "accepted by data.allow_truncated: raw/b.jsonl.gz" in again.stdout


def test_check_of_files_without_rows_is_one_finding_a_file(data: Path, tmp_path: Path) -> None:
    (data / "demo" / "raw" / "a.jsonl").write_text("")
    done = finetune("check", "demo", data=data, home=tmp_path / "home")
    assert done.returncode == 2 and len(done.stdout.splitlines()) == 4
    assert "raw/a.jsonl: the file holds nothing" in done.stdout


def test_findings_that_say_the_same_are_one_line_and_unknown_labels_are_counted(data: Path, tmp_path: Path) -> None:
    rows = [{"text": f"is {i} even", "label": ("true", "false")[i % 4 == 0]} for i in range(200)]
    (data / "demo" / "raw" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = finetune("check", "demo", data=data, home=tmp_path / "home")
    assert "labels that output.labels does not name: 'true' × 150, 'false' × 50" in done.stdout
    assert "raw/a.jsonl:2; raw/a.jsonl:3; raw/a.jsonl:4 and 147 more: 'true' is not one of" in done.stdout


def test_where_there_is_no_such_task_nothing_is_made(data: Path, tmp_path: Path) -> None:
    for command in ("run", "advise", "versus", "automate"):
        done = finetune(command, "nope", data=data, home=tmp_path / "home")
        assert done.returncode == 1 and "there is no task 'nope'" in done.stderr
    assert not (tmp_path / "home").exists()


def test_a_misspelt_command_names_the_nearest(data: Path, tmp_path: Path) -> None:
    assert "Did you mean 'check'?" in finetune("chekc", "demo", data=data, home=tmp_path / "home").stderr


def test_a_broken_spec_is_an_error_with_every_finding(data: Path, tmp_path: Path) -> None:
    (data / "demo" / "task.yaml").write_text(yaml.safe_dump({**SPEC, "trainning": {}, "basemodel": "x"}))
    done = finetune("check", "demo", data=data, home=tmp_path / "home")
    assert done.returncode == 1
    assert "did you mean 'training'?" in done.stdout
    assert "did you mean 'base_model'?" in done.stdout
    for command in ("run", "show", "report"):
        done = finetune(command, "demo", data=data, home=tmp_path / "home")
        assert done.returncode == 1
        assert "did you mean 'training'?" in done.stderr
        assert "Traceback" not in done.stderr


def test_schema_is_a_json_schema_and_a_table(data: Path, tmp_path: Path) -> None:
    printed = json.loads(finetune("schema", "--json", data=data, home=tmp_path / "home").stdout)
    assert printed["$schema"].startswith("https://json-schema.org/")
    table = finetune("schema", data=data, home=tmp_path / "home").stdout
    assert "warmup_share: number" in table
    assert "system_prompt: string  (required)" in table


def test_show_names_the_broken_tasks_beside_the_others(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "ticket_triage", tmp_path / "data" / "ticket_triage")
    (tmp_path / "data" / "dated").mkdir()
    (tmp_path / "data" / "dated" / "task.yaml").write_text("name: dated\nowner: 2026-02-30\n")
    done = finetune("show", data=tmp_path / "data", home=tmp_path / "home")
    assert done.returncode == 0
    assert "ok      ticket_triage" in done.stdout and "BROKEN  dated" in done.stdout
    assert "task.yaml:2:8: '2026-02-30' cannot be read" in done.stdout


def test_show_prints_every_default_and_the_state_of_every_step(tmp_path: Path) -> None:
    done = finetune("show", "ticket_triage", "--json", data=SHIPPED, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["spec"]["training"]["lora"]["r"] == 16
    assert printed["champion"] is None
    assert {s["made"] for s in printed["steps"].values()} == {False}
    text = finetune("show", "ticket_triage", data=SHIPPED, home=tmp_path / "home").stdout
    assert "over_length: fail" in text
    assert "missing  " in text


def test_check_refuses_a_harness_task_whose_rows_would_be_fetched(data: Path, tmp_path: Path) -> None:
    write_task(data / "demo" / "bench", CHOICES | {"dataset_path": "allenai/ai2_arc"})
    (data / "demo" / "task.yaml").write_text(yaml.safe_dump(SPEC | {"ability": {"harness": {"tasks": ["bench"]}}}))
    done = finetune("check", "demo", data=data, home=tmp_path / "home")
    assert done.returncode == 1
    assert "bench/pick.yaml: dataset_path is 'allenai/ai2_arc': its rows would be fetched" in done.stdout + done.stderr
    write_task(data / "demo" / "bench", CHOICES)
    done = finetune("check", "demo", data=data, home=tmp_path / "home")
    assert done.returncode == 2 and "fetched" not in done.stdout, "the rows are told, the task is fine"

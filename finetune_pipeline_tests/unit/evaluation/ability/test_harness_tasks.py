"""Task files of lm-evaluation-harness: what is taken, and that what cannot be run here is named with its way out."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.ability.harness_tasks import asked_digest, read_tasks
from finetune_pipeline.evaluation.ability.items import suite
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec.rules import check_all
from finetune_pipeline_tests.unit.evaluation.ability.harness_files import CHOICES, ENDING, TEXTS, WRITING, write_task
from finetune_pipeline_tests.unit.evaluation.rows import spec


def test_tasks_of_a_folder_are_taken_with_the_metric_that_counts(tmp_path: Path) -> None:
    for config in (CHOICES, ENDING, TEXTS, WRITING):
        write_task(tmp_path / "bench", config)
    (tmp_path / "bench" / "_shared.yaml").write_text("num_fewshot: 0\n")
    tasks = read_tasks(tmp_path, ["bench"])
    metrics = {"ending": "acc", "pick": "acc", "texts": "bits_per_byte", "writing": "exact_match"}
    assert [(t.name, t.metric, t.text) for t in tasks] == [(n, m, n == "texts") for n, m in metrics.items()]
    assert tasks[0].files == (tmp_path / "bench" / "ending.jsonl",)
    assert read_tasks(tmp_path, ["bench/*.yaml"])[0].name == "ending"
    assert read_tasks(tmp_path, []) == []
    (tmp_path / "bench" / "_base.yaml").write_text(json.dumps(CHOICES | {"dataset_path": "allenai/ai2_arc"}))
    (tmp_path / "bench" / "pick.yaml").write_text("include: _base.yaml\ntask: mine\ndataset_path: json\n")
    (task,) = read_tasks(tmp_path, ["bench/pick.yaml"])
    assert (task.name, task.metric) == ("mine", "acc"), "it stands on another file"


F1 = {"metric": "f1", "aggregation": "mean", "higher_is_better": True}


def _files(**given: Any) -> dict[str, Any]:
    return {"dataset_kwargs": given}


@pytest.mark.parametrize(
    ("change", "message", "fix"),
    [
        (
            {"dataset_path": "allenai/ai2_arc"},
            "'allenai/ai2_arc': its rows would be fetched",
            "save the rows in the task",
        ),
        (_files(data_files={"test": "https://x.org/a.jsonl"}), "is no file in the task folder", "fetched"),
        (_files(data_files={"test": "../../etc/hosts"}), "is no file in the task folder", "fetched"),
        (_files(data_files="pick.jsonl", token="t"), "dataset_kwargs.token cannot", "no others than"),
        ({"test_split": "validation"}, "test_split is 'validation', and data_files has test", "one of data_files"),
        ({"metric_list": [F1]}, "metric f1 of multiple_choice does not say", "acc_norm"),
        ({"metric_lists": []}, "metric_lists cannot be used here", "did you mean metric_list?"),
        ({"generation_kwargs": {"do_sample": True}}, "drawn at random", "do_sample: false"),
        ({"task": ["a", "b"]}, "it is a group of tasks", "one by one"),
    ],
)
def test_what_cannot_be_run_here_is_told(tmp_path: Path, change: dict[str, Any], message: str, fix: str) -> None:
    write_task(tmp_path, CHOICES)
    (tmp_path / "pick.yaml").write_text(json.dumps(CHOICES | change))
    with pytest.raises(FindingsError) as caught:
        read_tasks(tmp_path, ["*.yaml"])
    findings = [f for f in caught.value.findings if message in f.message]
    assert findings, str(caught.value)
    assert (findings[0].place, findings[0].severity) == ("pick.yaml", "error") and fix in findings[0].fix


def test_code_of_task_files_is_not_run(tmp_path: Path) -> None:
    write_task(tmp_path, CHOICES)
    (tmp_path / "utils.py").write_text("raise SystemExit('it was run')\n")
    with (tmp_path / "pick.yaml").open("a") as file:
        file.write("process_docs: !function utils.process\n")
    with pytest.raises(FindingsError, match="process_docs: !function utils.process: code of task files is not run"):
        read_tasks(tmp_path, ["pick.yaml"])
    (tmp_path / "pick.yaml").write_text("task: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(FindingsError, match="cannot be read"):
        read_tasks(tmp_path, ["pick.yaml"])


def test_the_digest_follows_rows_task_and_limit_and_not_the_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_task(tmp_path / place, CHOICES)
    first, second = (read_tasks(tmp_path / place, ["*.yaml"]) for place in ("one", "two"))
    first_digest = asked_digest([], first, 10, False)
    assert first_digest == asked_digest([], second, 10, False)
    other_digests = [asked_digest([], first, 11, False), asked_digest([], first, 10, True)]
    write_task(tmp_path / "two", CHOICES, [{"question": "q", "choices": ["a", "b"], "right": 0}])
    other_digests.append(asked_digest([], read_tasks(tmp_path / "two", ["*.yaml"]), 10, False))
    write_task(tmp_path / "one", CHOICES | {"num_fewshot": 3})
    other_digests.append(asked_digest([], read_tasks(tmp_path / "one", ["*.yaml"]), 10, False))
    assert len({first_digest, *other_digests}) == 5
    items = suite()
    assert asked_digest(items, [], 10, False) == asked_digest(items, [], 11, True)
    others = [replace(items[0], category="another"), *items[1:]]
    assert asked_digest(items, [], 10, False) != asked_digest(others, [], 10, False), "results are shown by category"
    assert asked_digest(items, first, 10, False) != asked_digest(items, first, 11, False)


def test_where_the_extra_is_not_installed_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path, CHOICES)
    task = spec(name=tmp_path.name, ability={"harness": {"tasks": ["*.yaml"]}})
    assert "spec.harness" not in {f.rule for f in check_all(task, tmp_path)}
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "lm_eval" else there(name, *args)
    )
    (finding,) = [f for f in check_all(task, tmp_path) if f.rule == "spec.harness"]
    assert finding.severity == "error" and "pip install 'finetune-pipeline[harness]'" in finding.fix
    with pytest.raises(FindingsError, match=r"pip install 'finetune-pipeline\[harness\]'"):
        read_tasks(tmp_path, ["*.yaml"])

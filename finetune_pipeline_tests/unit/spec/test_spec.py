"""The task spec: strict, every problem at once, each with its key and the nearest valid one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.findings import FindingsError, errors
from finetune_pipeline.spec import check_task, load_task, parse_spec
from finetune_pipeline.spec.loading import json_schema
from finetune_pipeline.spec.rules import check_all

GOOD = {
    "name": "demo",
    "description": "a task",
    "system_prompt": "Answer yes or no.",
    "output": {"kind": "labels", "labels": ["yes", "no"]},
}


def write(folder: Path, spec: dict | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(spec if isinstance(spec, str) else yaml.safe_dump(spec, sort_keys=False), "utf-8")
    return folder


def found(spec: dict, folder: str = "demo") -> dict[str, str]:
    return {f.rule: f.message + " | " + f.fix for f in check_all(parse_spec(yaml.safe_dump(spec)), Path(folder))}


def test_a_good_spec_loads_with_every_default(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "demo", GOOD))
    assert task.spec.training.method == "qlora"
    assert task.spec.training.epochs == 2.0
    assert task.spec.labels == ["yes", "no"]
    assert task.folder == (tmp_path / "demo").resolve()
    assert check_task(tmp_path / "demo")[1] == []


@pytest.mark.parametrize(
    ("change", "place", "fix"),
    [
        ({"trainning": {}}, "task.yaml: trainning", "did you mean 'training'?"),
        ({"training": {"epoch": 2}}, "task.yaml: training.epoch", "did you mean 'epochs'?"),
        ({"training": {"lora": {"rank": 8, "alfa": 4}}}, "task.yaml: training.lora.alfa", "did you mean 'alpha'?"),
        ({"output": {"kind": "labels", "labels": ["a", "b"], "label": "x"}}, "task.yaml: output.label", "'labels'"),
    ],
)
def test_unknown_keys_name_the_nearest_valid_one(change: dict, place: str, fix: str) -> None:
    with pytest.raises(FindingsError) as caught:
        parse_spec(yaml.safe_dump({**GOOD, **change}))
    assert [(f.rule, fix in f.fix) for f in caught.value.findings if f.place == place] == [("spec.unknown_key", True)]


def test_a_region_is_a_country_or_several_and_a_wrong_one_is_named() -> None:
    assert parse_spec(yaml.safe_dump({**GOOD, "data": {"scrub_region": "GB"}})).data.scrub_region == ["GB"]
    with pytest.raises(FindingsError, match=r"data\.scrub_region.*UK.*two-letter country codes"):
        parse_spec(yaml.safe_dump({**GOOD, "data": {"scrub_region": ["DE", "UK"]}}))


@pytest.mark.parametrize(
    ("text", "place", "fix"),
    [
        ("output: {kind: labels, labels: [yes, no]}", "output.labels.0", 'write "yes" in double quotes'),
        ("output: {kind: labels, labels: [a, 2]}", "output.labels.1", 'write "2" in double quotes'),
        ("output: {kind: label, labels: [a, b]}", "output.kind", "did you mean 'labels'?"),
        ("output: {labels: [a, b]}", "output.kind", "add `kind:`"),
        ("training: {method: qlora2}", "training.method", "did you mean 'qlora'?"),
        ("data: {scrub: replac}", "data.scrub", "did you mean 'replace'?"),
    ],
)
def test_wrong_values_name_the_nearest_valid_one(text: str, place: str, fix: str) -> None:
    rest = {key: value for key, value in GOOD.items() if key != text.partition(":")[0]}
    with pytest.raises(FindingsError) as caught:
        parse_spec(yaml.safe_dump(rest) + text)
    assert {f.place: f.fix for f in caught.value.findings}[f"task.yaml: {place}"].find(fix) >= 0


def test_all_problems_are_reported_at_once() -> None:
    bad = {
        "name": "Demo!",
        "description": "",
        "system_prompt": "x",
        "output": {"kind": "labels", "labels": ["one"]},
        "training": {"learning_rate": -1, "foo": 1},
    }
    with pytest.raises(FindingsError) as caught:
        parse_spec(yaml.safe_dump(bad))
    places = {f.place for f in caught.value.findings}
    assert {
        "task.yaml: name",
        "task.yaml: description",
        "task.yaml: output.labels",
        "task.yaml: training.learning_rate",
        "task.yaml: training.foo",
    } <= places


def test_missing_key_and_wrong_yaml_are_told_apart() -> None:
    with pytest.raises(FindingsError) as caught:
        parse_spec("name: demo\n")
    assert {"spec.missing_key"} == {f.rule for f in caught.value.findings}
    assert len(caught.value.findings) == 3
    with pytest.raises(FindingsError) as caught:
        parse_spec("name: [demo\n")
    assert caught.value.findings[0].rule == "spec.yaml"
    with pytest.raises(FindingsError) as caught:
        parse_spec("name: a\nname: b\n")
    assert "'name' is written twice" in caught.value.findings[0].message
    assert caught.value.findings[0].place == "task.yaml:2:1"
    with pytest.raises(FindingsError):
        parse_spec("- a\n- b\n")


HEAD = "name: demo\ndescription: d\nsystem_prompt: s\n"
BOMB = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True))
TEXT = HEAD + "output: {kind: text, pattern: '%s'}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "owner: 2026-02-30\n", "'2026-02-30' cannot be read: day is out of range"),
        (HEAD + f"training: {{epochs: {'9' * 5000}}}\n", "cannot be read: Exceeds the limit"),
        (HEAD + f"training: {{epochs: 0x{'f' * 5000}}}\n", "a number of more than 18 digits"),
        (HEAD + "gates: {min_gain: .nan}\n", "nan is not a finite number"),
        (HEAD + 'owner: "\\ud800"\n', "half of a surrogate pair"),
        (HEAD + 'base_model: "a\\0"\n', "a zero character"),
        (HEAD + f"data: {'[' * 3000 + ']' * 3000}\n", "nested more than 50 deep"),
        (HEAD + "a: &a [x]\n" + BOMB, r"an alias (*a) is not read"),
        (HEAD + f"owner: {'x' * (1 << 18)}\n", "no file of at most 256 KiB"),
        (TEXT % ("x" * 5001), "it has 5001 characters, and may have 5000"),
        (TEXT % "(a|aa)+$", "on 'aaa'… of 40 characters it takes more than 1 s"),
        (TEXT % "(a{999}){999}{999}", "counts in { } multiply to more than 100000"),
        (TEXT % ("a{" + "9" * 4500 + "}"), "counts in { } multiply to more than 100000"),
        (TEXT % ("(" * 2000 + ")" * 2000), "it is no regular expression"),
        (HEAD + "output: {kind: json, json_schema: {properties: {a: {pattern: '(a|aa)+$'}}}}\n", "of 40 characters"),
        (HEAD + "output: {kind: json, json_schema: deep.json}\n", "recursion"),
        (HEAD + "output: {kind: json, json_schema: deeper.json}\n", "recursion"),
        (
            HEAD + "output: {kind: text}\nbaseline: {endpoint: {url: 'http://[::1', model: m}}\n",
            "the rule private cannot be asked: ValueError: Invalid IPv6 URL",
        ),
    ],
)
def test_a_hostile_spec_is_a_finding_in_bounded_time(tmp_path: Path, text: str, said: str) -> None:
    for name, depth in (("deep", 400), ("deeper", 9000)):
        write(tmp_path / "demo", text).joinpath(f"{name}.json").write_text('{"items":' * depth + "{}" + "}" * depth)
    began = time.process_time()
    task, findings = check_task(tmp_path / "demo")
    assert task is None
    assert said in " ".join(f.message for f in errors(findings))
    assert time.process_time() - began < 10


RULES = [
    ("spec.split_shares", {"split": {"validation": 0.3, "test": 0.3}}),
    ("spec.labels_unique", {"output": {"kind": "labels", "labels": ["yes", "Yes "]}, "system_prompt": "yes Yes "}),
    ("spec.batches", {"training": {"batch_size": 10, "micro_batch_size": 4}}),
    ("spec.shots", {"baseline": {"shots": [4]}}),
    ("spec.shots", {"baseline": {"shots": [0, -1]}}),
    ("spec.other_prompts", {"baseline": {"prompts": ["Sort it.", "Sort it."]}}),
    ("spec.other_prompts", {"baseline": {"prompts": [" "]}}),
    (
        "spec.private",
        {"advise": {"private": True}, "baseline": {"endpoint": {"url": "https://a.example", "model": "m"}}},
    ),
    ("spec.raw_inside_folder", {"data": {"raw": ["../other/*.jsonl"]}}),
    ("spec.raw_inside_folder", {"data": {"raw": ["/etc/*.jsonl"]}}),
    ("spec.raw_inside_folder", {"data": {"benchmarks": ["/etc/*.jsonl"]}}),
    ("spec.glob", {"data": {"raw": [""]}}),
    ("spec.glob", {"data": {"benchmarks": ["."]}}),
    ("spec.owner", {"owner": "nobody"}),
    ("spec.cron", {"logs": {"retrain_cron": "61 3 * * 1"}}),
    ("spec.cron", {"logs": {"retrain_cron": "daily"}}),
    ("spec.prompt_names_labels", {"system_prompt": "Answer."}),
    ("spec.prompt_is_described", {"system_prompt": "yes: # describe\nno: it is not"}),
    ("spec.robustness_rows", {"robustness": {"rows": 59}}),
    ("spec.wanted_gain", {"gates": {"min_gain": 0.05}}),
    ("spec.engine", {"evaluation": {"engine": "endpoint"}}),
    ("spec.judge", {"gates": {"min_preferred": 0.5}}),
    ("spec.judge", {"evaluation": {"judge": {"url": "http://judge.example/v1", "model": "m"}}}),
]


@pytest.mark.parametrize(("rule", "change"), RULES)
def test_each_cross_field_rule_catches_its_fault(rule: str, change: dict) -> None:
    assert set(found({**GOOD, **change})) == {rule}


def test_no_rule_fires_on_a_good_spec() -> None:
    assert found(GOOD) == {}
    assert found({**GOOD, "logs": {"retrain_cron": "*/15 0-6 1,15 * 1-5"}}) == {}
    assert found({**GOOD, "robustness": {"rows": 24, "action": "warn"}}) == {}


def test_a_warning_does_not_stop_loading_an_error_does(tmp_path: Path) -> None:
    task, findings = check_task(write(tmp_path / "demo", {**GOOD, "system_prompt": "Answer."}))
    assert task is not None
    assert [f.severity for f in findings] == ["warning"]
    task, findings = check_task(write(tmp_path / "demo", {**GOOD, "baseline": {"shots": [1]}}))
    assert task is None
    assert len(errors(findings)) == 1
    with pytest.raises(FindingsError, match="zero-shot"):
        load_task(tmp_path / "demo")


def test_the_schema_accepts_what_loads_and_refuses_what_does_not() -> None:
    import jsonschema

    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(GOOD)) == []
    assert list(validator.iter_errors({**GOOD, "nmae": 1})) != []
    assert list(validator.iter_errors({**GOOD, "training": {"method": "magic"}})) != []


def test_only_what_changes_a_judges_answer_makes_the_step_anew() -> None:
    def settings(**changes: Any) -> Any:
        judge = {"url": "https://judge.example/v1", "model": "m", **changes}
        spec = parse_spec(yaml.safe_dump({**GOOD, "evaluation": {"judge": judge}}))
        return spec.evaluation.judge.settings() if spec.evaluation.judge else None

    assert settings(timeout=5.0, concurrency=2, max_tokens=9, key_variable="K") == settings()
    assert settings(model="n") != settings() and settings(min_kappa=0.7) != settings()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"gates": {"never_break": "NAME"}}, "spec.never_break"),
        ({"output": {"kind": "json", "json_schema": "NAME"}}, "spec.json_schema"),
        ({"chat_template": "NAME"}, "spec.chat_template"),
        ({"ability": {"files": ["NAME"]}}, "spec.raw_inside_folder"),
    ],
)
def test_a_file_of_the_spec_is_one_of_the_task_folder(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    """Of a path that leaves it, and of a link that does, nothing is read, nor told."""
    (tmp_path / "secret").write_text('{"password": "hunter2"}')
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "demo" / "folder").symlink_to(tmp_path)
    for name in (str(tmp_path / "secret"), "../secret", "link", "folder/secret"):
        spec = yaml.safe_load(yaml.safe_dump(GOOD | change).replace("NAME", name))
        found = errors(check_task(write(tmp_path / "demo", spec))[1])
        assert [f.rule for f in found] == [rule], name
        assert "outside the task folder" in found[0].message and "hunter2" not in str(found[0])


@pytest.mark.parametrize("target", ["gone", "logs"])
def test_a_link_that_leads_nowhere_is_no_empty_folder(tmp_path: Path, target: str) -> None:
    folder = write(tmp_path / "demo", GOOD)
    (folder / "logs").symlink_to(target)
    assert [f.rule for f in errors(check_task(folder)[1])] == ["spec.broken_link"]
    (folder / "logs").unlink()
    (tmp_path / "elsewhere").mkdir()
    (folder / "logs").symlink_to(tmp_path / "elsewhere")
    assert not check_task(folder)[1]

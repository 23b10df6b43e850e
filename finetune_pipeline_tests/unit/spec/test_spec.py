"""The task spec: strict, every problem at once, each with its key and the nearest valid one."""

import json
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import finetune_pipeline.evaluation.metrics  # noqa: F401 - fills the registry of metrics
from finetune_pipeline.findings import Finding, FindingsError, errors
from finetune_pipeline.spec import check_task, load_task, parse_spec
from finetune_pipeline.spec.loading import _GONE, json_schema, validated_spec
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.rules import check_all
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline_tests.unit.adversarial import cpu_seconds

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


def found(spec: dict) -> set[str]:
    """Rules between fields that fire."""
    return {f.rule for f in check_all(parse_spec(yaml.safe_dump(spec)), Path("demo"))}


def problems(text: str) -> dict[str, Finding]:
    """What is found wrong when it is read, by place."""
    with pytest.raises(FindingsError) as caught:
        parse_spec(text)
    return {f.place.removeprefix("task.yaml: "): f for f in caught.value.findings}


@pytest.mark.parametrize(("folder", "proposed"), [("orders", True), ("ünï", False)])
def test_the_folders_name_is_proposed_where_a_task_can_have_it(folder: str, proposed: bool) -> None:
    (finding,) = check_all(parse_spec(yaml.safe_dump(GOOD)), Path(folder))
    assert finding.rule.endswith("name_is_folder") and (f"set name: {folder}" in finding.fix) is proposed


def test_a_good_spec_loads_with_every_default(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "demo", GOOD))
    assert (task.spec.training.method, task.spec.training.epochs, task.spec.labels) == ("qlora", 2.0, ["yes", "no"])
    assert task.folder == (tmp_path / "demo").resolve() and check_task(tmp_path / "demo")[1] == []


@pytest.mark.parametrize(
    ("text", "place", "fix"),
    [
        ("trainning: {}", "trainning", "did you mean 'training'?"),
        ("ladder: {calls: 200}", "ladder.calls", "baseline.prompts"),
        ("data: {semantic: {threshold: 0.8}}", "data.semantic", "data.near_duplicate_threshold"),
        ("ability: {harness: {tasks: [a.yaml]}}", "ability.harness", "`lm_eval`"),
        ("training: {lora: {init: pissa}}", "training.lora.init", "PEFT"),
        ("training: {epoch: 2}", "training.epoch", "did you mean 'epochs'?"),
        ("training: {lora: {rank: 8, alfa: 4}}", "training.lora.alfa", "did you mean 'alpha'?"),
        ("output: {kind: labels, labels: [a, b], label: x}", "output.label", "'labels'"),
        ("output: {kind: labels, labels: [yes, no]}", "output.labels.0", "in double quotes as it is written"),
        ("output: {kind: labels, labels: [a, 010]}", "output.labels.1", "in double quotes as it is written"),
        ("output: {kind: labels, labels: [a, ~]}", "output.labels.1", 'put it in double quotes: "null"'),
        ("output: {kind: labels, labels: [a, ' ']}", "output.labels.1", "should match pattern"),
        ("baseline: {documents: yes}", "baseline.documents", "valid integer"),
        ("training: {epochs: true}", "training.epochs", "valid number"),
        ("output: {kind: labels, labels: [a, 2026-01-01]}", "output.labels.1", "in double quotes as it is written"),
        ("output: {kind: , labels: [a, b]}", "output.kind", "add `kind:`"),
        ("labels: [a, b]", "labels", "indent it below `output:`"),
        ("epochs: 3", "epochs", "indent it below `training:`"),
        ("training:", "training", "write its keys on the lines below it"),
        ("data: {raw: raw/*}", "data.raw", "write a list: [raw/*]"),
        ("data: {sheet: 1}", "data.sheet", "in double quotes"),
        ("gates: {never_break: [1]}", "gates.never_break.0", "in double quotes"),
        (r"data: {csv: {delimiter: '\t'}}", "data.csv.delimiter", r'write "\t", in double quotes'),
        ("output: {kind: label, labels: [a, b]}", "output.kind", "did you mean 'labels'?"),
        ("output: {labels: [a, b]}", "output.kind", "add `kind:`"),
        ("training: {method: qlora2}", "training.method", "did you mean 'qlora'?"),
        ("data: {scrub: replac}", "data.scrub", "did you mean 'replace'?"),
        ("data: {scrub_region: [DE, UK]}", "data.scrub_region", "two-letter country codes"),
    ],
)
def test_unknown_keys_and_wrong_values_name_the_nearest_valid_one(text: str, place: str, fix: str) -> None:
    values = {key: value for key, value in GOOD.items() if key != text.partition(":")[0]}
    found_problems = problems(yaml.safe_dump(values) + text)
    problem = found_problems[place]
    assert fix in problem.fix or fix in problem.message
    assert all(other.startswith(place.rpartition(".")[0]) for other in found_problems)


@pytest.mark.parametrize("key", _GONE)
def test_keys_that_went_are_refused_and_what_replaces_them_exists(key: str) -> None:
    section, *_ = sections = key.split(".")
    nested: Any = {sections[-1]: 1}
    for name in reversed(sections[:-1]):
        nested = {name: nested}
    (problem,) = problems(yaml.safe_dump({k: v for k, v in GOOD.items() if k != section} | nested)).values()
    assert (problem.rule, problem.place) == ("spec.gone_key", f"task.yaml: {key}")
    for named in re.findall(r"\b[a-z]+(?:\.[a-z_]+)+", problem.fix):
        spec: Any = parse_spec(yaml.safe_dump(GOOD))
        for part in named.split("."):
            spec = getattr(spec, part)


def test_all_problems_are_reported_at_once_and_missing_keys_and_wrong_yaml_are_told_apart() -> None:
    bad_values = {**GOOD, "name": "Demo!", "description": "", "training": {"learning_rate": -1, "foo": 1}}
    bad_values["output"] = {"kind": "labels", "labels": ["one"]}
    places = {"name", "description", "output.labels", "training.learning_rate", "training.foo"}
    assert places <= problems(yaml.safe_dump(bad_values)).keys()
    assert [f.rule for f in problems("name: demo\n").values()] == ["spec.missing_key"] * 3
    assert [f.rule for f in problems("name: [demo\n").values()] == ["spec.yaml"]
    assert problems("a: b\n---\nc: d\n")["task.yaml:2:1"].message.startswith("expected a single document")
    assert "'name' appears twice" in problems("name: a\nname: b\n")["task.yaml:2:1"].message
    assert problems("- a\n- b\n")
    assert parse_spec(HEAD + "output: {kind: labels, labels: [=, <, <<]}\ndata: {inject: yes}\n").labels == [
        "=",
        "<",
        "<<",
    ]
    assert parse_spec(yaml.safe_dump({**GOOD, "data": {"scrub_region": "GB"}})).data.scrub_region == ["GB"]


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
        (HEAD + 'owner: "\\ud800"\n', "unpaired surrogate"),
        (HEAD + 'base_model: "a\\0"\n', "a NUL character"),
        (HEAD + f"data: {'[' * 3000 + ']' * 3000}\n", "nested more than 50 deep"),
        (HEAD + "a: &a [x]\n" + BOMB, r"aliases (*a) are not supported"),
        (HEAD + f"owner: {'x' * (1 << 18)}\n", "not a file of at most 256 KiB"),
        (TEXT % ("x" * 5001), "it has 5001 characters, but at most 5000 are allowed"),
        (TEXT % "(a|aa)+$", "on 'aaa'… (40 characters) it takes more than 1 s"),
        (TEXT % "(a{999}){999}{999}", "counts in { } multiply to more than 100000"),
        (TEXT % ("a{" + "9" * 4500 + "}"), "counts in { } multiply to more than 100000"),
        (TEXT % ("(" * 2000 + ")" * 2000), "it is not a regular expression"),
        (HEAD + "output: {kind: json, json_schema: {properties: {a: {pattern: '(a|aa)+$'}}}}\n", "(40 characters)"),
        (HEAD + "output: {kind: json, json_schema: deep.json}\n", "recursion"),
        (HEAD + "output: {kind: json, json_schema: deeper.json}\n", "recursion"),
        (HEAD + "output: {kind: text}\nbaseline: {endpoint: {url: 'http://[::1', model: m}}\n", "Invalid IPv6 URL"),
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


TEACHER: dict[str, Any] = {
    "endpoint": {"url": "http://127.0.0.1:8000/v1", "model": "large"},
    "allowed": True,
    "budget_usd": 5,
}
LOGGED: dict[str, Any] = {"from_logs": True, "models": ["large"], "allowed": True}
UNLABELLED = {"unlabelled": ["unlabelled/*"]}
KTO = {"refine": {"method": "kto"}}

RULES = [
    ("spec.split_shares", {"split": {"validation": 0.3, "test": 0.3}}),
    ("spec.labels_unique", {"output": {"kind": "labels", "labels": ["yes", "Yes "]}, "system_prompt": "yes Yes "}),
    ("spec.labels_unique", {"output": {"kind": "labels", "labels": ["é", "e\u0301"]}, "system_prompt": "é e\u0301"}),
    ("spec.rollout_share", {"rollout": {"share": [50, 10]}}),
    ("spec.rollout_share", {"rollout": {"share": [10, 10]}}),
    ("spec.rollout_hosted", {"rollout": {}, "training": {"trainer": "openai", "method": "lora", "budget_usd": 5}}),
    ("spec.rollout_margin", {"rollout": {}, "output": {"kind": "text"}}),
    ("spec.shots", {"baseline": {"shots": [4]}}),
    ("spec.shots", {"baseline": {"shots": [0, -1]}}),
    ("spec.other_prompts", {"baseline": {"prompts": ["Sort it.", "Sort it."]}}),
    ("spec.other_prompts", {"baseline": {"prompts": [" "]}}),
    ("spec.private", {"advise": {"private": True}, "baseline": {"endpoint": {"url": "https://a.de", "model": "m"}}}),
    ("spec.raw_inside_folder", {"data": {"raw": ["../other/*.jsonl"]}}),
    ("spec.raw_inside_folder", {"data": {"raw": ["/etc/*.jsonl"]}}),
    ("spec.raw_inside_folder", {"data": {"benchmarks": ["/etc/*.jsonl"]}}),
    ("spec.glob", {"data": {"raw": [""]}}),
    ("spec.glob", {"data": {"benchmarks": ["."]}}),
    ("spec.owner", {"owner": "nobody"}),
    ("spec.cron", {"logs": {"retrain_cron": "61 3 * * 1"}}),
    ("spec.cron", {"logs": {"retrain_cron": "daily"}}),
    ("spec.cron", {"logs": {"retrain_cron": "*/0 3 * * 1"}}),
    ("spec.prompt_names_labels", {"system_prompt": "Answer."}),
    ("spec.prompt_is_described", {"system_prompt": "yes: # describe\nno: it is not"}),
    ("spec.robustness_rows", {"robustness": {"rows": 59}}),
    ("spec.wanted_gain", {"gates": {"min_gain": 0.05}}),
    ("spec.engine", {"evaluation": {"engine": "endpoint"}}),
    ("spec.automation", {"automation": {"max_error": 0.02, "unit": "field"}}),
    ("spec.teacher_allowed", {"teacher": {**TEACHER, "allowed": False}, "data": UNLABELLED}),
    ("spec.teacher_source", {"teacher": {"allowed": True}, "data": UNLABELLED}),
    ("spec.teacher_source", {"teacher": {**TEACHER, "budget_usd": None}, "data": UNLABELLED}),
    ("spec.teacher_source", {"teacher": {**TEACHER, **LOGGED}}),
    ("spec.teacher_source", {"teacher": {**LOGGED, "answers": 1}}),
    ("spec.teacher_source", {"teacher": LOGGED, "data": UNLABELLED}),
    ("spec.teacher_models", {"teacher": {**LOGGED, "models": []}}),
    ("spec.teacher_models", {"teacher": {**LOGGED, "models": ["large", GOOD["name"] + ":3"]}}),
    ("spec.teacher_models", {"teacher": {**TEACHER, "models": ["large"]}, "data": UNLABELLED}),
    ("spec.teacher_allowed", {"teacher": {**LOGGED, "allowed": False}}),
    ("spec.teacher_rows", {"teacher": TEACHER}),
    ("spec.teacher_rows", {"data": UNLABELLED}),
    ("spec.raw_inside_folder", {"teacher": TEACHER, "data": {"unlabelled": ["../elsewhere/*"]}}),
    ("spec.glob", {"teacher": TEACHER, "data": {"unlabelled": ["."]}}),
    ("spec.teacher_answers", {"teacher": TEACHER, "data": UNLABELLED, "output": {"kind": "text"}}),
    ("spec.teacher_split", {"teacher": TEACHER, "data": UNLABELLED, "split": {"by": "time"}}),
    ("spec.refine", {"training": {**KTO, "method": "full"}}),
    ("spec.refine", {"training": {**KTO, "trainer": "together"}}),
    ("spec.refine", {"training": {**KTO, "method": "lora", "micro_batch_size": 1}}),
    ("spec.judge", {"gates": {"min_preferred": 0.5}}),
    ("spec.judge", {"evaluation": {"judge": {"url": "http://judge.example/v1", "model": "m"}}}),
]


@pytest.mark.parametrize(("rule", "change"), RULES)
def test_each_cross_field_rule_catches_its_fault(rule: str, change: dict) -> None:
    assert found({**GOOD, **change}) == {rule}


def test_no_rule_fires_on_a_good_spec() -> None:
    sections = {"logs": {"retrain_cron": "*/15 0-6 1,15 * 1-5"}, "robustness": {"rows": 24, "action": "warn"}}
    assert found(GOOD) == found(GOOD | sections) == set()
    assert found(GOOD | {"teacher": TEACHER, "data": UNLABELLED}) == set()
    assert found(GOOD | {"teacher": LOGGED}) == set()
    text = {"output": {"kind": "text"}, "teacher": {**TEACHER, "answers": 1}, "data": UNLABELLED}
    assert found(GOOD | text) == set()
    assert (
        found(GOOD | {"rollout": {}}) == found(GOOD | {"output": text["output"], "rollout": {"margin": 0.1}}) == set()
    )
    for method in ("kto", "dpo"):
        assert found(GOOD | {"training": {"method": "lora", "refine": {"method": method}}}) == set()
    assert found(GOOD | {"owner": "ada.lovelace+ml@example.co.uk"}) == found(GOOD | {"owner": "team:orders"}) == set()


def test_a_warning_does_not_stop_loading_an_error_does(tmp_path: Path) -> None:
    task, findings = check_task(write(tmp_path / "demo", {**GOOD, "system_prompt": "Answer."}))
    assert task is not None and [f.severity for f in findings] == ["warning"]
    task, findings = check_task(write(tmp_path / "demo", {**GOOD, "baseline": {"shots": [1]}}))
    assert task is None and len(errors(findings)) == 1
    with pytest.raises(FindingsError, match="zero-shot"):
        load_task(tmp_path / "demo")


def test_the_schema_accepts_what_loads_and_refuses_what_does_not() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    def accepts(**more: Any) -> bool:
        return validator.is_valid({**GOOD, **more})

    assert accepts() and not accepts(nmae=1)
    for training in ({"method": "prompt", "prompt": {"tokens": 20}}, {"gradient_checkpointing": "auto"}):
        assert accepts(training=training)
    assert accepts(training={"lora": {"rslora": True}})
    for training in ({"method": "magic"}, {"learning_rate": None}):
        assert not accepts(training=training), "unset is not null"
    rate = schema["$defs"]["TrainingSpec"]["properties"]["learning_rate"]
    described = dict(re.findall(r"([\d.e-]+) \(([\w, ]+)\)", rate["description"].partition("Unset: ")[2]))
    methods = {name: float(value) for value, names in described.items() for name in names.split(", ")}
    assert methods == {name: TrainingSpec(method=name).learning_rate for name in METHODS}
    assert methods["full"] == 1e-5 and described["5e-4"].startswith("qlora, lora") and "default" not in rate


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
        findings = errors(check_task(write(tmp_path / "demo", spec))[1])
        assert [f.rule for f in findings] == [rule], name
        assert "outside the task folder" in findings[0].message and "hunter2" not in str(findings[0])


def test_a_link_that_leads_nowhere_is_no_empty_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "demo", GOOD)
    for target in ("gone", "logs"):
        (folder / "logs").symlink_to(target)
        assert [f.rule for f in errors(check_task(folder)[1])] == ["spec.broken_link"]
        (folder / "logs").unlink()
    (tmp_path / "elsewhere").mkdir()
    (folder / "logs").symlink_to(tmp_path / "elsewhere")
    assert not check_task(folder)[1]


SCHEMA = {"type": "object", "properties": {"items": {"type": "array"}, "name": {"type": "string"}}}
JSON = {"kind": "json", "json_schema": SCHEMA}
SOUND: list[dict[str, Any]] = [
    JSON | {"unordered": ["items"]},
    JSON | {"json_schema": {"type": "array", "items": {"type": "string"}}, "unordered": [""]},
    {"kind": "json", "json_schema": {"properties": {"inner": {"$ref": "#"}, "rest": {"items": {"$ref": "#"}}}}},
    {"kind": "json", "json_schema": "schema.json"},
    {"kind": "text", "extract": r"#### (\d+)", "pattern": ".*", "required": ["a"], "forbidden": ["b"], "max_chars": 9},
]
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    (JSON | {"json_schema": "none.json"}, "json_schema", "No such file"),
    (JSON | {"json_schema": "broken.json"}, "json_schema", "is not JSON"),
    (JSON | {"json_schema": "../schema.json"}, "json_schema", "outside the task folder"),
    (JSON | {"json_schema": {"type": "objekt"}}, "json_schema", "not a valid schema"),
    (JSON | {"json_schema": {"$ref": "http://x.org/a"}}, "json_schema", "another document"),
    (JSON | {"json_schema": {"properties": {"a": {"$ref": "#/$defs/b"}}}}, "json_schema", "refers to nothing"),
    (JSON | {"json_schema": {"anyOf": [{"$ref": "#"}]}}, "json_schema", "leads back to itself"),
    (JSON | {"unordered": ["name"]}, "unordered", "'name' is not a list"),
    (JSON | {"unordered": [""]}, "unordered", "'' is not a list"),
    ({"kind": "text", "pattern": "("}, "patterns", "not a regular expression"),
    ({"kind": "text", "extract": r"#### \d+"}, "patterns", "has 0 groups"),
    ({"kind": "text", "extract": r"Answer: (\d+)"}, "final_answer", "'Answer:'"),
    ({"kind": "text", "required": ["ab"], "forbidden": ["b"]}, "answer_strings", "'ab' is required"),
    (JSON | {"max_length": 3}, "unknown_key", "unknown key 'max_length'"),
]


def with_output(folder: Path, output: dict[str, Any], **more: Any) -> Path:
    task = write(folder / "demo", {**GOOD, "system_prompt": "End with ####.", "output": output, **more})
    (task / "schema.json").write_text(json.dumps(SCHEMA))
    (task / "broken.json").write_text("{")
    return task


@pytest.mark.parametrize(("output", "rule", "message"), FAULTS)
def test_each_rule_of_the_output_catches_its_fault(tmp_path, output, rule, message) -> None:
    _, findings = check_task(with_output(tmp_path, output))
    assert [(f.rule, message in f.message) for f in findings] == [(f"spec.{rule}", True)]


def test_a_sound_output_has_no_finding_and_a_metric_must_fit_it(tmp_path: Path) -> None:
    for output in SOUND:
        assert check_task(with_output(tmp_path, output))[1] == []
    _, findings = check_task(with_output(tmp_path, SOUND[0], gates={"metric": "rougeLsum"}))
    assert [f.rule for f in findings] == ["spec.metric"] and "exact, micro_f1" in findings[0].fix
    _, findings = check_task(with_output(tmp_path, SOUND[0], gates={"more_metrics": ["micro_f2"]}))
    assert [f.message for f in findings] == ["unknown metric 'micro_f2'"]
    task, findings = check_task(with_output(tmp_path, SOUND[0], gates={"metric": "micro_f1"}))
    assert findings == [] and task is not None and task.spec.metric == "micro_f1"


def test_gains_are_judged_by_coverage_only_at_a_promised_error_of_whole_answers(tmp_path: Path) -> None:
    by_coverage: dict[str, Any] = {"gates": {"metric": "coverage"}}
    promise: dict[str, Any] = {"automation": {"max_error": 0.02}}
    for output in (SOUND[3], JSON, {"kind": "text", "extract": "#### ([0-9]+)"}):
        _, findings = check_task(with_output(tmp_path, output, **by_coverage, **promise))
        assert [finding for finding in findings if finding.severity == "error"] == []
    (finding,) = check_task(with_output(tmp_path, JSON, **by_coverage))[1]
    assert finding.rule == "spec.coverage" and "set automation.max_error" in finding.fix
    (finding,) = check_task(with_output(tmp_path, {"kind": "text"}, **by_coverage, **promise))[1]
    assert (finding.rule, finding.place) == ("spec.coverage", "task.yaml: gates.metric")
    assert "free text is neither right nor wrong" in finding.message and "output.extract" in finding.fix
    fields = {"automation": {"max_error": 0.02, "unit": "field"}}
    (finding,) = check_task(with_output(tmp_path, JSON, **by_coverage, **fields))[1]
    assert (finding.rule, finding.place) == ("spec.coverage", "task.yaml: automation.unit")
    for key, value in (("min_gain", 0.01), ("simple", "not_worse"), ("champion", "not_worse")):
        asked = {"gates": {"metric": "coverage", key: value}}
        (finding,) = check_task(with_output(tmp_path, JSON, **asked, **promise))[1]
        assert (finding.rule, finding.place) == ("spec.coverage", f"task.yaml: gates.{key}"), "a tie never promotes"
    more = {"gates": {"more_metrics": ["coverage"]}}
    (finding,) = check_task(with_output(tmp_path, JSON, **more, **promise))[1]
    assert finding.rule == "spec.metric" and "coverage" in finding.message


def test_an_error_is_promised_only_of_answers_that_are_right_or_wrong_and_have_a_probability(tmp_path: Path) -> None:
    """Of free text a wording cannot be right or wrong; an endpoint gives no probabilities."""
    promise: dict[str, Any] = {"automation": {"max_error": 0.02}}
    for output, more in (
        (JSON, {"automation": {"max_error": 0.02, "unit": "field"}}),
        (JSON, promise),
        (SOUND[3], promise),
        ({"kind": "text"}, {**promise, "gates": {"metric": "exact"}}),
    ):
        assert check_task(with_output(tmp_path, output, **more))[1] == []
    _, (finding,) = check_task(with_output(tmp_path, {"kind": "text"}, **promise))
    assert (
        finding.rule == "spec.automation" and "rougeLsum decides" in finding.message and "gates.metric" in finding.fix
    )
    server = {"url": "http://127.0.0.1:9/v1", "base": "b", "candidate": "c-{version}"}
    asked = {"evaluation": {"engine": "endpoint", "endpoint": server}, "training": {"method": "lora"}}
    _, findings = check_task(with_output(tmp_path, JSON, **promise, **asked))
    assert "spec.automation" in [f.rule for f in findings]


@pytest.mark.parametrize("section", [{}, {"training": {}}, {"labels": []}])
def test_thousands_of_problems_are_folded_in_little_time(section: dict[str, Any]) -> None:
    def spec(size: int) -> dict[str, Any]:
        extra = {f"unknown_key_{i}": 1 for i in range(size)}
        if "labels" in section:
            return {**GOOD, "output": {"kind": "labels", "labels": [{"a": i} for i in range(size)]}}
        return {**GOOD, **(extra if not section else {"training": extra})}

    def explained(size: int) -> list[Finding]:
        with pytest.raises(FindingsError) as caught:
            validated_spec(spec(size))
        return caught.value.findings

    findings = explained(500)
    assert len(findings) == 21 and "480 more problems of this kind" in findings[-1].message
    assert "499" in findings[-1].place, "the last one is named"
    assert cpu_seconds(lambda: explained(20_000), limit=20.0) < 10, (
        "it takes a tenth of a second; explained one by one, 30 s"
    )


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ({"kind": "json", "json_schema": {"type": "string", "minLength": 3}}, ""),
        ({"kind": "json", "json_schema": {"type": "string", "not": {"const": "x"}}}, '"not"'),
        (GOOD["output"], "no schema"),
    ],
)
def test_a_form_that_no_decoder_keeps_to_is_refused_before_anything_is_trained(output: Any, why: str) -> None:
    for constrained in (True, False):
        spec = {**GOOD, "output": output, "evaluation": {"constrained_decoding": constrained}}
        known = {
            finding.place: finding.message for finding in check_all(parse_spec(yaml.safe_dump(spec)), Path("demo"))
        }
        assert set(known) == ({"task.yaml: evaluation.constrained_decoding"} if constrained and why else set()), known
        assert why in "".join(known.values()) or not constrained

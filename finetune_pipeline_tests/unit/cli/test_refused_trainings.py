"""Every training that cannot work, refused by the real commands and by the graph before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from finetune_pipeline.findings import errors
from finetune_pipeline.planning.preflight import preflight
from finetune_pipeline.spec import parse_spec
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.tiny_model import TEMPLATE
from finetune_pipeline_tests.unit.cli.test_commands import SPEC

ROWS = [("is ice cold", "yes"), ("are cats plants", "no"), ("is fire wet at all", "no")]
WINDOW = {"sliding_window": 128, "use_sliding_window": True}


@pytest.fixture
def make(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a task on a base with these changes, and returns the data root."""
    monkeypatch.setenv("FINETUNE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def write(
        spec: dict[str, Any] | None = None, training: Any = None, config: Any = None, template: str | None = TEMPLATE
    ) -> Path:
        base = tmp_path / "base"
        shutil.copytree(tiny, base, dirs_exist_ok=True)
        path = base / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
        (base / "chat_template.jinja").write_text(template or "")
        if template is None:
            (base / "chat_template.jinja").unlink()
        folder = tmp_path / "data" / "demo"
        (folder / "raw").mkdir(parents=True)
        (folder / "endless.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
        (folder / "broken.jinja").write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}")
        chosen = {**SPEC, "base_model": str(base), **(spec or {}), "training": training or {}}
        (folder / "task.yaml").write_text(yaml.safe_dump(chosen))
        rows = [json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS]
        (folder / "raw" / "a.jsonl").write_text("".join(rows))
        return tmp_path / "data"

    return write


HOSTILE = {
    "loops for hours": "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}",
    "fills memory": "{% set x = namespace(t='ab') %}{% for i in range(60) %}{% set x.t = x.t ~ x.t %}{% endfor %}{{ x.t }}",
    "writes without end": "{% for a in range(99999) %}{{ 'a text' * 99 }}{% endfor %}",
}


@pytest.mark.parametrize("where", ["task", "model", "configuration"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_template_that_takes_too_much_is_refused_by_its_files_name(
    make: Any, tmp_path: Path, kind: str, where: str
) -> None:
    """A template is a program of strangers: it runs in a child with limits first."""
    data = make(
        **({"template": HOSTILE[kind]} if where == "model" else {}),
        spec={"chat_template": "own.jinja"} if where == "task" else {},
    )
    if where == "task":
        (data / "demo" / "own.jinja").write_text(HOSTILE[kind])
    elif where == "configuration":
        (tmp_path / "base" / "chat_template.jinja").unlink()
        config = tmp_path / "base" / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": HOSTILE[kind]}))
    folder = data / "demo"
    (wrong,) = errors(preflight(parse_spec((folder / "task.yaml").read_text()), folder))
    files = {"task": "own.jinja", "model": "base/chat_template.jinja"}
    assert wrong.rule == "model.chat_template" and wrong.place.endswith(files.get(where, "base/tokenizer_config.json"))
    assert "a few short turns" in wrong.message


def test_an_error_of_a_template_is_a_finding(make: Any) -> None:
    folder = make(template="{{ 1 / 0 }}") / "demo"
    wrong = errors(preflight(parse_spec((folder / "task.yaml").read_text()), folder))
    assert wrong and all("ZeroDivisionError" in finding.message for finding in wrong)


CASES: list[tuple[str, dict[str, Any], str, str]] = [
    # what, what is changed, rule, what the fix names
    ("a base without a chat template", {"template": None}, "model.no_chat_template", "chat_template: chatml"),
    ("a template whose marks are no tokens", {"template": None, "spec": {"chat_template": "gemma"}},
     "model.template_tokens", "chatml, none"),
    ("a template that never ends a turn", {"template": None, "spec": {"chat_template": "endless.jinja"}},
     "model.template_without_end", "eos_token"),
    ("a template that is no Jinja", {"template": None, "spec": {"chat_template": "broken.jinja"}},
     "model.chat_template", "correct the template"),
    ("a model's own template that is no Jinja", {"template": "{% for"}, "model.chat_template", "correct the template"),
    ("a family of other names", {"config": {"num_attention_heads": None}}, "training.layout", "another family"),
    ("a window that is no number", {"config": {"max_position_embeddings": "long"}}, "training.layout", "another family"),
    ("a template that is not there", {"spec": {"chat_template": "chatlm"}}, "spec.chat_template", "did you mean 'chatml'"),
    ("a template in place of its file", {"spec": {"chat_template": TEMPLATE * 9}}, "spec.chat_template", "path of a Jinja"),
    ("a base that is not there", {"spec": {"base_model": "/no/such/folder"}}, "model.base_model", "correct the path"),
    ("a revision of a local base", {"spec": {"base_revision": "main"}}, "model.revision", "remove base_revision"),
    ("a bundled base that is not installed", {"spec": {"base_model": "bundled/gemma3-270m"}}, "model.", ""),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change", "rule", "fix"), CASES, ids=[case[0] for case in CASES])
def test_preflight_refuses_it(make: Any, what: str, change: dict[str, Any], rule: str, fix: str) -> None:
    folder = make(**change) / "demo"
    (wrong,) = errors(preflight(parse_spec((folder / "task.yaml").read_text()), folder))
    assert wrong.rule.startswith(rule) and fix in wrong.fix and wrong.fix


def test_a_damaged_tokenizer_is_named(make: Any, finetune: Any, tmp_path: Path) -> None:
    make()
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    result = finetune("check", "demo")
    assert result.returncode == 1 and "base/tokenizer.json is damaged" in result.stderr
    assert "fix: fetch it" in result.stderr


def test_everything_is_told_at_once(make: Any, finetune: Any) -> None:
    training = {
        "method": "prefix", "gradient_checkpointing": True, "unquantized_epochs": 1, "prefix": {"tokens": 300},
        "lora": {"rslora": True}, "batch_size": 6, "micro_batch_size": 4,
    }  # fmt: skip
    make(training=training, config={**WINDOW, "quantization_config": {"quant_method": "gptq"}}, template=None)
    result = finetune("check", "demo")
    printed = result.stdout
    assert result.returncode == 1
    for rule in (
        "spec.gradient_checkpointing", "spec.second_phase", "spec.unused_section", "spec.batches",
        "training.quantized_base", "training.prefix_window", "training.context_length", "model.no_chat_template",
    ):  # fmt: skip
        assert printed.count(f"[{rule}]") == 1, rule
    assert printed.count("    fix: ") == 8


SOUND: list[dict[str, Any]] = [
    {"training": {"method": "lora"}},
    {"training": {"method": "prefix", "prefix": {"tokens": 100}}, "config": WINDOW},
    {"template": None, "spec": {"chat_template": "none"}},
]


@pytest.mark.parametrize("change", SOUND)
def test_what_can_work_passes(make: Any, finetune: Any, change: dict[str, Any]) -> None:
    make(**change)
    code, answer = (result := finetune("check", "demo", "--json")).returncode, result.json
    assert [f for f in answer["spec_findings"] if f["severity"] == "error"] == []
    assert code == 0 and answer["quality"]["parts"]["tokens"]["passed"]
    assert answer["chat_template"].split()[0] == change.get("spec", {}).get("chat_template", "the")
    rules = [f["rule"] for f in answer["spec_findings"]]
    assert ("model.template_from_task" in rules) == ("chat_template" in change.get("spec", {}))


def _dagster_run(data: Path, job: str, home: Path) -> Any:
    from finetune_pipeline.definitions import build_definitions

    copy_database(home / "mlflow")
    with dg.DagsterInstance.ephemeral() as instance:
        job_def = build_definitions(data).resolve_job_def(f"demo__{job}")
        return job_def.execute_in_process(instance=instance, raise_on_error=False)


def test_a_run_that_dagster_starts_is_refused_by_its_first_step(make: Any, tmp_path: Path) -> None:
    data = make(template=None)
    result = _dagster_run(data, "all", tmp_path / "home")
    assert not result.success
    failures = [e.step_failure_data for e in result.all_node_events if e.is_step_failure]
    findings = [f.user_failure_data.description for f in failures if f.user_failure_data]
    assert findings and all("[model.no_chat_template]" in text and "chatml" in text for text in findings)
    assert not list((tmp_path / "home" / "artifacts").glob("*/*/*/artifact.json")), "nothing was made"


def test_a_run_of_the_data_stage_alone_is_not(make: Any, tmp_path: Path) -> None:
    data = make(template=None)
    result = _dagster_run(data, "data", tmp_path / "home")
    steps = {p.parents[1].name for p in (tmp_path / "home" / "artifacts").glob("demo/*/*/artifact.json")}
    assert "raw_examples" in steps and "validated_examples" in steps, result.all_node_events

"""``finetune plan``, also with ``--costs``: from raw data alone; refusals first; exit codes."""

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.spec.methods.base import methods_for
from finetune_pipeline_tests.graph.project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def asked(project: Project, finetune: Any) -> Any:
    return functools.partial(finetune, data=project.data, home=project.home)


def test_a_plan_from_raw_data_alone(asked: Any) -> None:
    result = asked("plan", "colours", "--json")
    assert result.returncode == 0, result.stderr[-2000:]
    facts = result.json
    assert facts["source"].startswith("raw data")
    assert facts["train_examples"] == 84 and facts["validation_examples"] == 12, "0.7 and 0.1 of 120"
    assert facts["steps"] == 22 and facts["steps_per_epoch"] == 11
    assert facts["evaluations"] == 2 * 3, "before each phase, after step 6 and after the last"
    assert facts["fits"] is True and facts["memory_mib"]["total"] > 600
    methods = [row["method"] for row in facts["methods"]]
    assert methods == methods_for("labels") and {"qlora", "full", "classifier"} <= {*methods}
    assert facts["prices"] and all(p["low"] <= p["high"] for p in facts["prices"])
    assert [obstacle["gate"] for obstacle in facts["power"]["obstacles"]] == ["format_compliance"], "24 rows, 73 needed"
    enough = facts["memory_mib"]["total"] * 1.1 / 1024
    result = asked("plan", "colours", "--memory", str(enough - 0.001))
    assert result.returncode == 2, result.stdout
    assert "does not fit" in result.stdout and "for task.yaml:\ntraining:" in result.stdout, "the nearest that does"
    assert "format_compliance would refuse every candidate: it takes 73 test rows" in result.stdout
    hopeless = asked("plan", "colours", "--memory", "0.1")
    assert hopeless.returncode == 2 and "use a smaller base_model" in hopeless.stdout


def test_refusals_come_first(project: Project, asked: Any, tmp_path: Path) -> None:
    result = asked("plan", "colours", "--memory", "nan")
    assert result.returncode == 1 and result.stderr == "--memory='nan' is not a number of GiB\n"
    spec = {**project.spec, "training": {"method": "prefix", "gradient_checkpointing": True}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
    result = asked("plan", tmp_path)
    assert result.returncode == 1 and "gradient_checkpointing" in result.stderr and "fix:" in result.stderr


def test_costs_from_raw_data_alone(project: Project, asked: Any) -> None:
    result = asked("plan", "colours", "--calls-per-month", "1000", "--json")
    assert result.returncode == 0, result.stderr[-2000:]
    costs = result.json["costs"]
    traffic = costs["traffic"]
    assert traffic["prompt"] == "2_shot" and "no baseline is made yet" in traffic["source"] and traffic["calls"] == 1000
    assert traffic["prompted"]["prompt"] > 1.5 * traffic["tuned"]["prompt"], "two examples stand before the question"
    a10g = next(machine for machine in costs["machines"] if machine["name"].startswith("rented A10G"))
    assert a10g["month"] == [365.0, 730.0, 1095.0]
    page = Path(costs["page"]).read_text("utf-8")
    assert page.count("<svg") >= 1 and "Rule of thumb" in page and "973 million tokens" in page


def test_a_plan_and_its_costs_count_the_same_tokens(project: Project, asked: Any, tmp_path: Path) -> None:
    """Asked with prices of the task's own, too."""
    task = Path(shutil.copytree(project.folder, tmp_path / "colours"))
    training = {"method": "lora", "epochs": 3, "augment": True}
    (task / "task.yaml").write_text(yaml.safe_dump({**project.spec, "training": training}))
    plan = asked("plan", task, "--costs", "--json").json
    (tokens,) = {cost["tokens"] for cost in plan["costs"]["training"] if "lora" in cost["methods"].split(", ")}
    assert tokens == 3 * plan["tokens"]["total"] and plan["rows"] > plan["train_examples"] == 84
    price_list = "- {engine: shelf, model: any, unit: million_tokens, price: 2, date: 2020-01-01, note: n}\n"
    (task / "prices.yaml").write_text(price_list)
    result = asked("plan", task, "--costs")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "shelf, any" in result.stdout and "confirm it" in result.stdout
    assert "rented A10G is not in prices.yaml" in result.stdout and "set advise.calls_per_month" in result.stdout


def test_too_few_rows_for_a_plan_or_a_prompt_are_told(project: Project, asked: Any, tmp_path: Path) -> None:
    task = Path(shutil.copytree(project.folder, tmp_path / "colours"))
    for file in (task / "raw").iterdir():
        file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:1]), "utf-8")
    result = asked("plan", task, "--costs")
    assert result.returncode == 1 and "2 shots" in result.stderr and "fix: add rows" in result.stderr
    assert "Traceback" not in result.stderr
    (task / "task.yaml").write_text(yaml.safe_dump({**project.spec, "baseline": {"shots": [0]}}))
    result = asked("plan", task, "--costs", "--json")
    assert result.returncode == 0 and result.json["costs"]["traffic"]["tuned"]["answer"] >= 1, (
        "without a validation row"
    )
    for file in (task / "raw").iterdir():
        file.write_text("")
    result = asked("plan", task, "--costs")
    assert result.returncode == 1 and "has no usable row\nfix: see `finetune check" in result.stderr

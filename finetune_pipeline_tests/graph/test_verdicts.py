"""Planted worlds with known verdicts in the real graph: stopped, refused, sent to a simple model, promoted, and kept as
champion."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.skilled_model import make_skilled_model
from finetune_pipeline_tests.worlds.planted_world import World, run
from finetune_pipeline_tests.worlds.verdict_list import WORLDS
from finetune_pipeline_tests.worlds.verdict_worlds import given_verdict, problems_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The skilled tiny model."""
    return make_skilled_model(tmp_path_factory.mktemp("verdicts") / "base", steps=220, knowledge=False)


def planted(name: str, folder: Path, base: Path) -> World:
    """The world of this name with warm workers, since no process plants a fault in it."""
    world = WORLDS[name].make(folder, base)
    world.cold = False
    copy_database(world.home / "mlflow")
    return world


@pytest.mark.parametrize("name", ["shuffled", "noisy-word"])
def test_what_is_no_gain_is_not_promoted_and_the_reason_is_named(name: str, base: Path, tmp_path: Path) -> None:
    """Shuffled labels stop the graph; a model no better than TF-IDF is refused."""
    outcome = run(planted(name, tmp_path / name, base))
    assert problems_of(WORLDS[name], outcome) == [], (outcome.verdict, outcome.failed_checks())


def stays_champion_however_it_is_asked(project: World) -> None:
    """Run a promoted model again with other settings: it is no new candidate, whether or not they pass the gates."""

    def records() -> tuple[object, ...]:
        ledger = project.home / "artifacts" / "colours" / "state" / "test_openings.jsonl"
        version = project.tracking.client().get_model_version("colours", "1")
        return ledger.read_text(), version.tags, version.description, registry.aliases(project.tracking, "colours")

    before, spec = records(), project.spec
    for passes, section, key, value in (
        (True, "baseline", "batch_size", spec["baseline"]["batch_size"] // 2),
        (True, "evaluation", "precision", "float32"),
        (False, "gates", "min_valid_share", 1.0),
    ):
        project.write_spec(**{section: {**spec.get(section, {}), key: value}})
        code, output = project.run()
        assert (code, output["decision"], output["passed"]) == (0, "known", passes), (key, output["verdict"])
        assert output["verdict"].startswith("This model is the champion already (version 1)"), key
        assert records() == before, key
        assert project.run()[1]["worked"] is False, key
    report = project.finetune("report", "colours")
    assert (report.returncode, "it would be refused by format_compliance" in report.stdout) == (0, True), report.stdout
    project.write_spec(gates={})


def test_a_real_gain_is_promoted_and_a_worse_candidate_leaves_it_in_service(base: Path, tmp_path: Path) -> None:
    """Moves the project in between and runs it again, which must change nothing."""
    project = planted("clean-order-1", tmp_path / "order", base)
    first = run(project)
    assert problems_of(WORLDS["clean-order-1"], first) == [], (first.verdict, first.failed_checks())
    assert (first.code, first.champion) == (0, 1)
    assert first.verdict.startswith("Ship the fine-tuned model")

    def manifest_times() -> dict[str, int]:
        return {str(p.relative_to(project.home)): p.stat().st_mtime_ns for p in project.home.rglob("artifact.json")}

    before = manifest_times()
    project.move(tmp_path / "another place")
    code, output = project.run()
    assert (code, output["worked"], output["verdict"], manifest_times()) == (0, False, first.verdict, before)
    assert str(tmp_path / "order/") not in json.dumps(output)
    assert "no champion before version 1" in project.finetune("rollback", "colours", "--reason", "a test").stderr

    stays_champion_however_it_is_asked(project)
    project.write_spec(training={**project.spec["training"], "learning_rate": 1e-5})
    second = run(project)
    assert (second.code, second.promoted, second.champion) == (2, False, 1)
    assert given_verdict(second).verdict == "refuse"
    assert set(given_verdict(second).reasons) >= {"beats_baseline", "beats_champion"}

"""`finetune rollback`: one command, the reason in MLflow, and a release that does not undo it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from finetune_pipeline.cli.rollback import rollback
from finetune_pipeline.engine.step import Champion
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.orchestration.release import release
from finetune_pipeline.production.released import Outcome
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.models.architectures import make_adapter
from finetune_pipeline_tests.unit.tracking.test_registry import new_run, release_request

SPEC = {"name": "tickets", "description": "d", "system_prompt": "Say yes or no.", "output": {"kind": "text"}}


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    (tmp_path / "data" / "tickets").mkdir(parents=True)
    (tmp_path / "data" / "tickets" / "task.yaml").write_text(yaml.safe_dump(SPEC))
    monkeypatch.setenv("FINETUNE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for model in ("base", "merged"):
        make_tiny_model(tmp_path / model)
    make_adapter(tmp_path / "base", tmp_path / "adapter")
    copy_database(tmp_path / "home" / "mlflow")
    return Tracking()


def champion_of(version: int) -> Champion:
    """The champion that a version was compared with."""
    return {"adapter": "a", "merged": "m", "model_version": version}


def released(tracking: Tracking, folder: Path, number: int, **changes: Any) -> Outcome:
    """What a release of candidate `number` says, with every gate passed and compared with an older champion, unless changed."""
    champion = registry.champion(tracking, "tickets")
    fields = {
        "merged_version": f"merged-{number}", "evaluation_version": f"evaluation-{number}",
        "compared_with": champion_of(champion) if champion and champion < number else None,
    } | changes  # fmt: skip
    return release(tracking, release_request(folder, f"adapter-{number}", **fields), new_run(tracking))


def test_one_command_moves_the_champion_back_and_a_repeated_release_does_not_undo_it(
    tracking: Tracking, tmp_path: Path, finetune: Any
) -> None:
    without = CliRunner().invoke(rollback, ["tickets"])
    assert without.exit_code == 1 and "tickets has no champion before the first" in without.output
    assert released(tracking, tmp_path, 1).champion == 1
    second = released(tracking, tmp_path, 2)
    assert second.promoted and second.rolled_back is None

    result = CliRunner().invoke(rollback, ["tickets", "--reason", "refunds went wrong"], standalone_mode=False)
    assert result.return_value == 0, result.output
    assert "version 1 is champion again; version 2 is retired" in result.output
    assert registry.aliases(tracking, "tickets") == {"candidate": 2, "champion": 1, "previous_champion": 2}
    assert registry.version_tags(tracking, "tickets", 2)["rolled_back"].endswith(": refunds went wrong")

    again = released(tracking, tmp_path, 2)
    assert again.promoted is False and again.champion == 1
    assert again.rolled_back.endswith(": refunds went wrong")
    third = released(tracking, tmp_path, 3)
    assert third.promoted and third.previous_champion == 1, "what is new may be promoted"

    answer = finetune("rollback", "tickets", "--json").json
    assert answer == {"task": "tickets", "champion": 1, "previous_champion": 3, "reason": None}


def test_what_holds_forgotten_rows_is_not_promoted(tracking: Tracking, tmp_path: Path) -> None:
    refused = released(tracking, tmp_path, 1, forgotten=True)
    assert (refused.candidate, refused.champion, refused.promoted) == (1, None, False)


def test_a_model_that_was_promoted_is_no_new_candidate_and_keeps_its_tags(tracking: Tracking, tmp_path: Path) -> None:
    """The same weights, evaluated with other settings: as the champion, and as the one before it."""

    def state(number: int) -> Any:
        model = tracking.client().get_model_version("tickets", str(number))
        return model.tags, model.description, registry.aliases(tracking, "tickets")

    asked_again = {"gates_passed": False, "merged_version": "other", "verdict": "Refused.", "evaluation_version": "e"}
    released(tracking, tmp_path, 1)
    before = state(1)
    again = released(tracking, tmp_path, 1, **asked_again)
    assert (again.promoted, again.champion, again.champion_gates) == (True, 1, "passed")
    assert state(1) == before
    released(tracking, tmp_path, 2)
    before = state(1)
    for changes in (asked_again, {"evaluation_version": "e"}, {}):
        again = released(tracking, tmp_path, 1, **changes)
        assert (again.model_version, again.promoted, again.champion) == (1, False, 2), changes
        assert state(1)[0] == before[0] and registry.champion(tracking, "tickets") == 2
    refused = released(tracking, tmp_path, 3, gates_passed=False, loosened="gates.confidence 0.55 (default 0.95)")
    assert refused.promoted is False and state(3)[0]["loosened"] == "gates.confidence 0.55 (default 0.95)"
    accepted = released(tracking, tmp_path, 3, evaluation_version="e")
    assert state(3)[0]["loosened"] == "none"
    assert accepted.promoted is True, "a candidate that was refused may pass a later judgement"


@pytest.mark.parametrize("compared_with", [1, None])
def test_a_candidate_replaces_only_the_champion_that_it_was_compared_with(
    tracking: Tracking, tmp_path: Path, compared_with: int | None
) -> None:
    """As when two runs at once have each a candidate that is better than the same champion, or a rollback comes between."""
    for number in (1, 2):
        released(tracking, tmp_path, number)
    late = champion_of(compared_with) if compared_with else None
    was = f"version {compared_with}" if compared_with else "no champion"
    with pytest.raises(OutsideError, match=f"version 3 of tickets was compared with {was}, and now there is version 2"):
        released(tracking, tmp_path, 3, compared_with=late)
    assert registry.champion(tracking, "tickets") == 2
    assert released(tracking, tmp_path, 3).promoted, "the next run compares it with the new champion"
    assert released(tracking, tmp_path, 3, compared_with=late).champion == 3, "a killed release is repeated"

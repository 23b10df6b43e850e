"""A rollout in a real registry: killed at any write, the champion serves, and the rollout goes on or is over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.orchestration.release import is_registered
from finetune_pipeline.production.rollout import Rollout
from finetune_pipeline.tracking import registry, rollouts
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.unit.tracking.test_registry import at_each_write, changeable, models, serving, three

__all__ = ["changeable", "models", "serving", "three"]
NAME = "tickets"


def present(tracking: Tracking) -> Rollout:
    rollout = rollouts.present(tracking, NAME)
    assert rollout is not None
    return rollout


def stages(tracking: Tracking) -> dict[str, int]:
    """The aliases of stages, and the champion."""
    aliases = registry.aliases(tracking, NAME)
    return {name: version for name, version in aliases.items() if name.startswith(("shadow", "share-", "champion"))}


def going(tracking: Tracking, *percents: int) -> Rollout:
    """A rollout of version 3, advanced through these shares."""
    rollouts.begin(tracking, NAME, 3, 2)
    for percent in percents:
        rollouts.advance(tracking, NAME, present(tracking), percent, "enough rows")
    return present(tracking)


def test_stages_are_aliases_until_the_candidate_is_champion(serving: Tracking) -> None:
    assert rollouts.present(serving, NAME) is None and rollouts.history(serving, NAME) == []
    begun = going(serving)
    assert (begun.champion, begun.candidate, begun.percent) == (2, 3, 0)
    assert stages(serving) == {"champion": 2, "shadow": 3}
    assert rollouts.begin(serving, NAME, 3, 2) == begun, "beginning again changes nothing"
    rollouts.tidy(serving, NAME)
    assert present(serving) == begun, "only what is over is removed"
    going(serving, 10)
    assert stages(serving) == {"champion": 2, "share-10": 3}
    rollouts.advance(serving, NAME, present(serving), None, "enough rows")
    assert stages(serving) == {"champion": 3} and rollouts.present(serving, NAME) is None
    assert registry.aliases(serving, NAME)["previous_champion"] == 2
    said = [sentence for _, sentence in rollouts.history(serving, NAME)]
    assert said == [
        "version 3 begins behind version 2",
        "version 3: shadow → share-10: enough rows",
        "version 3: share-10 → champion: enough rows",
    ]


def test_a_stopped_candidate_is_out_and_never_promoted_again(serving: Tracking) -> None:
    rollouts.stop(serving, NAME, going(serving, 10), "worse")
    assert stages(serving) == {"champion": 2} and rollouts.present(serving, NAME) is None
    assert "rollout ended at share-10: worse" in registry.version_tags(serving, NAME, 3)["rolled_back"]
    for again in (lambda: rollouts.begin(serving, NAME, 3, 2), lambda: registry.promote(serving, NAME, 3)):
        with pytest.raises(ValueError, match="delete its tag rolled_back in MLflow"):
            again()


def test_only_one_rollout_goes_on_and_only_of_what_may_be_promoted(serving: Tracking) -> None:
    client = serving.client()
    client.set_model_version_tag(NAME, "3", "gates", "failed")
    with pytest.raises(ValueError, match="its gates are"):
        rollouts.begin(serving, NAME, 3, 2)
    client.set_model_version_tag(NAME, "3", "gates", "passed")
    with pytest.raises(OutsideError, match="was compared with version 1"):
        rollouts.begin(serving, NAME, 3, 1)
    begun = going(serving)
    assert rollouts.begin(serving, NAME, 1, 2) == begun
    later = going(serving, 10)
    with pytest.raises(OutsideError, match="it is at share-10 now"):
        rollouts.advance(serving, NAME, begun, 10, "twice")
    assert present(serving) == later


@pytest.mark.parametrize("end", ["rollback", "forget", "delete", "promote"])
def test_it_is_over_when_the_champion_changes_or_the_candidate_must_not_serve(serving: Tracking, end: str) -> None:
    rollout = going(serving, 10)
    if end == "rollback":
        registry.rollback(serving, NAME)
    elif end == "promote":
        registry.promote(serving, NAME, 3)
    elif end == "forget":
        serving.client().set_model_version_tag(NAME, "3", registry.FORGOTTEN, "forgotten")
    else:
        serving.client().delete_registered_model_alias(NAME, "candidate")
        serving.client().delete_model_version(NAME, "3")
    assert rollouts.present(serving, NAME) is None
    with pytest.raises(OutsideError, match="it is over"):
        rollouts.advance(serving, NAME, rollout, 50, "late")
    rollouts.tidy(serving, NAME)
    assert not {"shadow", "share-10", "share-50"} & registry.aliases(serving, NAME).keys()
    assert rollouts.ROLLOUT not in serving.client().get_registered_model(NAME).tags


@pytest.mark.parametrize("end", ["stop", "promote"])
def test_a_version_that_waited_is_released_again_when_the_rollout_before_it_is_over(
    serving: Tracking, tmp_path: Path, end: str
) -> None:
    """Else nothing would have changed for the next run, and the version would wait forever."""
    store = ArtifactStore(tmp_path / "store")

    def released(rollout: int | None, version: int) -> Artifact:
        def make(builder: Builder) -> None:
            record = {"name": NAME, "model_version": version, "rollout": rollout, "adapter_version": adapter}
            write_json(builder.folder / "model_version.json", record)

        adapter = registry.version_tags(serving, NAME, version)[registry.ADAPTER_VERSION]
        settings = [rollout, version]
        return store.build("t", "model_version", code_version="1", inputs={}, settings=settings, make=make)

    own, waits, promoted = released(3, 3), released(3, 1), released(None, 1)
    rollout = going(serving, 10)
    assert all(is_registered(serving, artifact) for artifact in (own, waits, promoted))
    if end == "stop":
        rollouts.stop(serving, NAME, rollout, "worse")
    else:
        rollouts.advance(serving, NAME, rollout, None, "enough rows")
    assert not is_registered(serving, waits)
    assert is_registered(serving, own) and is_registered(serving, promoted)


def test_a_tag_that_somebody_changed_is_named(serving: Tracking) -> None:
    going(serving)
    serving.client().set_registered_model_tag(NAME, rollouts.ROLLOUT, '{"champion": "two"}')
    with pytest.raises(FindingsError, match="its tag rollout is not what was written"):
        rollouts.present(serving, NAME)


@pytest.mark.parametrize("step", ["begin", "advance", "promote", "stop"])
def test_killed_at_any_write_it_is_done_or_not_and_the_next_command_completes_it(serving: Tracking, step: str) -> None:
    if step != "begin":
        going(serving)
    steps: dict[str, Callable[[Tracking], Any]] = {
        "begin": lambda tracking: rollouts.begin(tracking, NAME, 3, 2),
        "advance": lambda tracking: rollouts.advance(tracking, NAME, present(tracking), 10, "why"),
        "promote": lambda tracking: rollouts.advance(tracking, NAME, present(tracking), None, "why"),
        "stop": lambda tracking: rollouts.stop(tracking, NAME, present(tracking), "why"),
    }
    last = {
        "begin": {"champion": 2, "shadow": 3},
        "advance": {"champion": 2, "share-10": 3},
        "promote": {"champion": 3},
        "stop": {"champion": 2},
    }
    kills = 0
    for writes in at_each_write(serving, steps[step]):
        kills += 1
        going_on = rollouts.present(serving, NAME)
        assert registry.champion(serving, NAME) in (2, 3)
        if step == "begin":
            assert going_on is None or going_on.percent == 0
        undone = {"begin": going_on is None, "advance": going_on is not None and going_on.percent == 0}
        if undone.get(step, going_on is not None):
            steps[step](serving)
        rollouts.tidy(serving, NAME)
        assert stages(serving) == last[step], writes
        if step == "stop":
            assert "rolled_back" in registry.version_tags(serving, NAME, 3)
    assert kills > 2

"""A version takes over in stages in the real graph: from the run that made it, through a server's logs, to the champion."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.graph.project import LORA, Project, easy_rows
from finetune_pipeline_tests.graph.test_automation import Automation, mlflow_home, world
from finetune_pipeline_tests.graph.test_shipped_kinds import FORCED, chat, serving
from finetune_pipeline_tests.skilled_model import CUES, LABELS, WORDS
from finetune_pipeline_tests.unit.processes import wait_until

__all__ = ["mlflow_home", "world"]


def later_rows(n: int, seed: int = 3) -> list[dict[str, Any]]:
    """Rows whose colours have other words than those of easy_rows."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        words = rng.sample(WORDS, 7)
        words.insert(rng.randrange(8), CUES[LABELS[i % 2]][1])
        made.append({"text": f"{' '.join(words)} {rng.randrange(10**6)}", "label": LABELS[i % 2]})
    return made


def step(project: Project) -> dict[str, Any]:
    """Take the step that the sensor takes."""
    process = project.finetune("rollout", "colours", "--step", "--json")
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_better_version_takes_over_from_shadow_to_champion(tmp_path: Path) -> None:
    logs = {"judging_share": 0.0, "max_family_share": 1.0, "settle_seconds": 0, "sample_share": 0.0}
    split = {"validation": 0.2, "test": 0.3}
    rollout = {"shadow_rows": 30, "share": [50], "share_rows": 5, "margin": 0.2}
    project = Project(tmp_path, training=LORA, gates=FORCED, logs=logs, split=split, rollout=rollout)
    project.write_spec(drift={"feedback_days": 0})
    project.write_rows(easy_rows(400))
    code, output = project.run()
    assert code == 0, json.dumps(output)[:3000]
    tracking = project.tracking
    assert registry.champion(tracking, "colours") == 1, "the first one has nobody to take over from"
    assert project.finetune("rollout", "colours").stdout.strip() == "no rollout of colours goes on"

    project.write_rows(later_rows(400), "b.jsonl")
    code, output = project.run()
    assert (code, output["decision"]) == (0, "ship_simple"), json.dumps(output)[:3000]
    aliases = registry.aliases(tracking, "colours")
    assert aliases == {"candidate": 2, "champion": 1, "shadow": 2}
    facts = project.facts("model_version")
    assert (facts["promoted"], facts["rollout"]) == (False, 2)
    assert "version 2 takes over in stages: `finetune rollout colours`" in project.finetune("report", "colours").stdout
    listed = json.loads(project.finetune("list", "--json").stdout)["tasks"]["colours"]
    assert (listed["champion"], listed["result"]) == (1, "in rollout (shadow)")
    assert step(project)["sentence"].endswith("both have answered 0 of 30 questions")

    served = project.folder / "logs" / "served.jsonl"

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in served.read_text().splitlines()]

    with serving(project) as ask:
        for row in easy_rows(32, seed=5):
            assert chat(ask, row["text"])["model"] == "colours:1"
        wait_until(lambda: sum("shadow" in line for line in lines()) == 32)
        shown = project.finetune("rollout", "colours")
        assert "version 2 is at shadow: it is surely not worse by more than 20.0%" in shown.stdout
        assert registry.aliases(tracking, "colours")["shadow"] == 2, "showing it moves nothing"
        assert step(project)["done"] == "it goes on to share-50"
        assert registry.aliases(tracking, "colours") == {"candidate": 2, "champion": 1, "share-50": 2}
        before = len(lines())

        def by_candidate() -> bool:
            chat(ask, f"stone fire cloud {random.random()}")
            return sum(line.get("model_version") == "colours:2" for line in lines()[before:]) >= 5

        wait_until(by_candidate)
        judged = step(project)
        assert judged["done"] == "it is the champion now", judged["sentence"]
        page = Path(judged["page"]).read_text()
        assert (
            "Next stage." in page
            and "share-50" in page
            and "5 answers, at most 20.0% failed, and not surely worse" in page
        )
        wait_until(lambda: chat(ask, "stone fire cloud", user="u1", store=False)["model"] == "colours:2")
    assert registry.aliases(tracking, "colours") == {"candidate": 2, "champion": 2, "previous_champion": 1}
    assert project.finetune("list").stdout.count("promoted") == 1
    code, output = project.run()  # reads the new logs
    assert (code, output["decision"]) == (0, "ship_simple"), json.dumps(output)[:3000]
    assert registry.aliases(tracking, "colours") == {"candidate": 2, "champion": 2, "previous_champion": 1}


@pytest.mark.parametrize("by_person", [False, True])
def test_the_sensor_ends_it_when_people_find_the_champion_better_or_a_person_stops_it(
    world: Automation, by_person: bool
) -> None:
    from finetune_pipeline.orchestration.sensors import champion_sensor
    from finetune_pipeline.tracking import rollouts

    world.set_champion(1)
    client = world.tracking.client()
    for key, value in (("gates", "passed"), ("adapter_version", "a"), ("merged_version", "m")):
        client.set_model_version_tag("colours", "2", key, value)
    world.project.write_spec(rollout={"shadow_rows": 30})
    assert "rollout" not in world.tick(champion_sensor).skip_message
    rollouts.begin(world.tracking, "colours", 2, 1)
    assert "version 2 is at shadow: both have answered 0 of 30" in world.tick(champion_sensor).skip_message

    world.project.write_spec(rollout=None)
    skipped = world.tick(champion_sensor).skip_message
    assert "task.yaml declares no rollout any more, but version 2 is still at shadow" in skipped
    world.project.write_spec(rollout={"shadow_rows": 30})

    answered, decided = [], []
    for i in range(12):
        row = {"id": str(i), "timestamp": f"2026-05-01T10:00:{i:02}Z", "input": f"fire {i}"}
        second = {"model_version": "colours:2", "output": "blue", "champion": "colours:1", "champion_output": "red"}
        answer = {**row, "output": "red", "model_version": "colours:1"}
        answered += [answer, {**row, "shadow": {**second, "seconds": 0.1, "champion_seconds": 0.1}}]
        decided.append({**answer, "feedback": {"label": "red", "decided": row["timestamp"]}})
    world.write_rows(answered)
    (world.logs.parent / "reviewed-ann.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in decided))
    if by_person:
        going = rollouts.present(world.tracking, "colours")
        assert going is not None
        rollouts.stop(world.tracking, "colours", going, "prices are wrong")
    result = world.tick(champion_sensor)
    tags = registry.version_tags(world.tracking, "colours", 2)
    assert registry.aliases(world.tracking, "colours") == {"champion": 1}
    if by_person:
        assert "prices are wrong" in tags["rolled_back"] and "rollout" not in result.skip_message
        return
    assert "version 1 is surely better" in result.skip_reason.skip_message
    assert "reviewers' decisions" in tags["rolled_back"]
    (event,) = result.asset_events
    assert "its rollout has ended, and version 1 serves on" in event.description
    assert event.metadata["page"].value.endswith("rollout.html")

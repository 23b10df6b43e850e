"""The graph of steps: versions follow from content, the world of a run does not change under it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from finetune_pipeline.engine.checks import Check, CheckResult
from finetune_pipeline.engine.files import DamagedFile, read_json
from finetune_pipeline.engine.graph import Graph, MissingInput, pinned_inputs
from finetune_pipeline.engine.step import RunInputs, Step, StepContext
from finetune_pipeline.engine.store import Artifact, ArtifactStore, ChangedArtifact
from finetune_pipeline.faults import JobError
from finetune_pipeline.spec import Task, TaskSpec, load_task
from finetune_pipeline_tests.unit.spec.test_spec import GOOD, write

WORLD = RunInputs(raw="r", reviews="v", logs="l", corrections="c", base={"id": "b"})


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_task(write(tmp_path / "demo", GOOD))


PASSES = Check("fine", "nothing is wrong", lambda artifact, spec: CheckResult(True, "all is well"))


def step(name: str, make: Any = lambda work: {}, **more: Any) -> Step:
    return Step(name, "data", "d", make, **more)


def graph(log: list[str]) -> Graph:
    def maker(name: str) -> Any:
        def make(work: StepContext) -> dict[str, Any]:
            log.append(name)
            (work.out / "x").write_text(name)
            return {"name": name, "inputs": sorted(work.inputs)}

        return make

    return Graph(
        [
            step("a", maker("a"), settings=lambda s, w: w.raw),
            step("b", maker("b"), needs=("a",), settings=lambda s, w: s.split.seed),
            step("gate", maker("gate"), needs=("a",), settings=lambda s, w: s.baseline.seed, checks=(PASSES,)),
            step("c", maker("c"), needs=("b",), after=("gate",)),
        ]
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "s")


def test_a_change_in_the_world_reaches_everything_downstream_and_nothing_else(task: Task, store: ArtifactStore) -> None:
    g = graph([])
    before = g.versions(task, WORLD, store)
    changed = {k for k, v in g.versions(task, replace(WORLD, raw="other"), store).items() if v != before[k]}
    assert changed == {"a", "b", "gate", "c"}
    assert g.versions(task, replace(WORLD, logs="other"), store) == before
    for section, anew in (("split", {"b", "c"}), ("baseline", {"gate"})):  # what comes `after` decides nothing
        seeded = getattr(task.spec, section).model_copy(update={"seed": 9})
        other_task = Task(spec=task.spec.model_copy(update={section: seeded}), folder=task.folder)
        assert {k for k, v in g.versions(other_task, WORLD, store).items() if v != before[k]} == anew


def test_steps_run_once_and_ask_for_what_comes_before(task: Task, store: ArtifactStore) -> None:
    log: list[str] = []
    g = graph(log)
    with pytest.raises(MissingInput, match=r"demo/c needs b, gate .*finetune run demo"):
        g.run("c", task, WORLD, store)
    for name in ("a", "b", "gate", "c", "c", "a"):
        g.run(name, task, WORLD, store)
    assert log == ["a", "b", "gate", "c"]
    assert g.find("c", task, WORLD, store).facts["inputs"] == ["b", "gate"]
    with pytest.raises(ValueError, match="step b"):
        Graph([step("b", needs=("a",))])


def test_the_world_of_a_run_is_looked_at_once(task: Task, store: ArtifactStore) -> None:
    looks = iter([WORLD, replace(WORLD, raw="later")])
    digests = [pinned_inputs(store, task, run, lambda: next(looks)).raw for run in ("run1", "run1", "run2")]
    assert digests == [WORLD.raw, WORLD.raw, "later"]


def test_rows_that_failed_stop_what_follows_and_are_asked_again(task: Task, store: ArtifactStore) -> None:
    tries = [3, 0]

    def make(work: StepContext) -> dict[str, Any]:
        left = tries.pop(0)
        (work.out / "rows").write_text(f"{left} without an answer")
        return {"failed": left}

    asked = step("asked", make, settings=lambda s, w: w.raw, failed=lambda artifact: artifact.facts["failed"])
    g = Graph([asked, step("scored", lambda work: {"read": work.inputs["asked"].facts}, needs=("asked",))])
    first = g.run("asked", task, WORLD, store)
    assert first.facts == {"failed": 3} and not first.reused
    with pytest.raises(MissingInput, match="3 rows failed in asked.*materialize asked again") as result:
        g.run("scored", task, WORLD, store)
    assert "demo/scored is not made" in str(result.value)
    second = g.run("asked", task, WORLD, store)
    assert second.facts == {"failed": 0} and not second.reused and second.version == first.version
    assert (second.folder / "rows").read_text() == "0 without an answer"
    assert g.run("scored", task, WORLD, store).facts == {"read": {"failed": 0}}
    assert g.run("asked", task, WORLD, store).reused, "whole now: nothing is asked any more"
    assert tries == []


@pytest.mark.parametrize(
    ("on_failure", "warns", "made"),
    [
        ("block", False, False),
        (lambda spec: "fail" if spec.split.seed else "block", False, False),
        ("fail", False, True),
        ("warn", False, True),
        ("block", True, True),
    ],
)
def test_a_failed_blocking_check_stops_the_steps_that_come_after(task, store, on_failure, warns, made) -> None:
    result = CheckResult(False, "too bad", warns=True) if warns else CheckResult(False, "too bad")
    check = Check("good", "d", lambda artifact, spec: result, on_failure)
    g = Graph([step("judged", checks=(check,)), step("next", after=("judged",))])
    g.run("judged", task, WORLD, store)
    if made:
        assert g.run("next", task, WORLD, store).facts == {}
    else:
        with pytest.raises(MissingInput, match="demo/next is not made: the check good of judged failed: too bad"):
            g.run("next", task, WORLD, store)
        assert g.find("next", task, WORLD, store) is None


@pytest.mark.parametrize("fact", [None, "many"])
def test_a_check_whose_fact_is_missing_or_of_another_type_fails_and_one_of_the_served_model_holds_nothing_back(
    task: Task, store: ArtifactStore, fact: str | None
) -> None:
    def few(artifact: Artifact, spec: TaskSpec) -> CheckResult:
        return CheckResult(artifact.facts["rows"] < 3, "so many")

    facts = {} if fact is None else {"rows": fact}
    g = Graph([step("counted", lambda work: facts, checks=(Check("few", "d", few),)), step("next", after=("counted",))])
    artifact = g.run("counted", task, WORLD, store)
    result = Check("few", "d", few).holds_back(artifact, task.spec)
    assert result is not None and not result.passed and "could not be judged" in result.message
    with pytest.raises(MissingInput, match="the check few of counted failed: could not be judged"):
        g.run("next", task, WORLD, store)
    assert Check("few", "d", few, live=True).holds_back(artifact, task.spec) is None


@pytest.mark.parametrize(("current", "made"), [("as pinned", True), ("changed", False)])
def test_an_input_from_outside_that_changed_since_the_run_began_is_refused(task, store, current, made) -> None:
    def make(context: StepContext) -> dict[str, Any]:
        context.refuse_changed("the logs", current, "as pinned")
        return {"rows": 3}

    g = Graph([step("read", make)])
    if made:
        assert g.run("read", task, WORLD, store).facts == {"rows": 3}
    else:
        with pytest.raises(JobError, match="the logs of demo changed since this run began"):
            g.run("read", task, WORLD, store)


def test_a_view_is_the_artifact_it_shows_and_what_a_step_opened_is_on_record(task: Task, store: ArtifactStore) -> None:
    def read(context: StepContext) -> dict[str, Any]:
        return {"from": context.inputs["half"].folder.name}

    half_step = Step("half", "data", "d", view_of="whole", split="train")
    readers = [step("other"), step("reader", read, needs=("half", "other"))]
    g = Graph([step("whole", settings=lambda s, w: w.raw), half_step, *readers])
    artifacts = g.run_to("reader", task, WORLD, store)
    versions = g.versions(task, WORLD, store)
    assert versions["half"] == versions["whole"] == artifacts["half"].version == artifacts["reader"].facts["from"]
    assert g.find("half", task, WORLD, store).step == "whole"
    assert read_json(artifacts["reader"].folder / "artifact.json")["opened"] == ["half"]


def test_a_step_reads_no_damaged_input_and_finds_gone_what_it_made_elsewhere(task: Task, store: ArtifactStore) -> None:
    log: list[str] = []
    g = graph(log)

    def read(context: StepContext) -> dict[str, Any]:
        log.append("reader")
        return {"text": context.inputs["a"].path("x").read_text()}

    g.steps["reader"] = step("reader", read, needs=("a",))
    made = g.run("a", task, WORLD, store)
    made.path("x").write_text("b")
    with pytest.raises(ChangedArtifact, match="x has changed"):
        g.run("reader", task, WORLD, store)
    made.path("x").write_text("a")
    assert g.run("reader", task, WORLD, store).facts == {"text": "a"}
    assert g.run("reader", task, WORLD, store).reused
    assert not g.run("reader", task, WORLD, store, is_valid=lambda artifact: False).reused
    assert log == ["a", "reader", "reader", "reader"]


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rows: int
    labels: dict[str, int] = {}


def test_facts_are_read_as_the_type_that_the_step_returned(task: Task, store: ArtifactStore) -> None:
    counts = Counts(3, {"bug": 3})
    g = Graph([step("counted", lambda work: counts), step("other", lambda work: {"rows": 3, "lines": 4})])
    artifact = g.run("counted", task, WORLD, store)
    assert artifact.facts == {"rows": 3, "labels": {"bug": 3}} and artifact.read(Counts) == counts
    with pytest.raises(DamagedFile, match=r"facts of demo/other/.* unknown field `lines`"):
        g.run("other", task, WORLD, store).read(Counts)


def test_a_step_that_an_earlier_one_makes_needless_is_skipped_with_a_version_of_its_own(
    task: Task, store: ArtifactStore
) -> None:
    """The decision is known once the earlier step is made; until then, and where it says otherwise, the step is an ordinary one."""
    made: list[str] = []

    def needless(artifact: Artifact, spec: TaskSpec) -> str:
        return "it is not worth it" if artifact.facts["enough"] else ""

    def of(enough: bool, seed: int = 0) -> Graph:
        costly = step(
            "costly",
            lambda work: made.append("costly") or {"done": True},
            after=("decides",),
            skipped_by=("decides", needless),
            settings=lambda s, w: seed,
            checks=(Check("done", "it is done", lambda artifact, spec: CheckResult(artifact.facts["done"], "done")),),
        )
        decides = step("decides", lambda work: {"enough": enough}, settings=lambda s, w: enough)
        return Graph([decides, costly, step("last", lambda work: {"ran": True}, needs=("costly",))])

    before = of(True).versions(task, WORLD, store)
    skipped = of(True).run_to("last", task, WORLD, store)
    assert made == [] and skipped["costly"].skipped == "it is not worth it"
    assert skipped["last"].facts == {"ran": True}, "what comes after it decides for itself"
    check = of(True).steps["costly"].checks[0]
    assert check.ask(skipped["costly"], task.spec).message == "not asked: it is not worth it"
    after = of(True, seed=7).versions(task, WORLD, store)
    assert before["costly"] != after["costly"] == skipped["costly"].version, (
        "settings of what is not done change nothing"
    )
    trained = of(False).run_to("last", task, WORLD, store)
    assert made == ["costly"] and trained["costly"].skipped == "" and trained["costly"].version == before["costly"]
    assert trained["last"].version != skipped["last"].version

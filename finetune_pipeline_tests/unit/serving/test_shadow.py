"""A second model behind the champion: it answers the same rows, nobody gets its answers, and the champion never waits for it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.simple_models import fit_simple_models
from finetune_pipeline.evaluation.stored_prompt import StoredPrompt
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.jobs import Prompt
from finetune_pipeline.models.merging import merge
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.serving.loaded_model import LoadedModel, ServedModel
from finetune_pipeline.serving.loading import AnyServed, load
from finetune_pipeline.serving.prompted_model import ServedPrompt
from finetune_pipeline.serving.requests import Chat
from finetune_pipeline.serving.shadow import WAITING_ROWS, Shadow, _Question, _reply
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.spec import Task
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM
from finetune_pipeline_tests.unit.models.test_classifier import make_classifier_adapter
from finetune_pipeline_tests.unit.processes import is_running, wait_until
from finetune_pipeline_tests.unit.serving.running import Running

TEXT = "my invoice is wrong"
CHAT = Chat([{"role": "user", "content": TEXT}], "ann", False, None)


def simple(folder: Path, number: int) -> ServedSimple:
    """A model that knows three words; version 2 has learnt other labels than version 1."""
    texts = [f"{word} {i}" for i in range(8) for word in ("invoice", "password", "crash")]
    labels = [LABELS[(i + number) % 3] for i in range(24)]
    fit_simple_models(texts, labels, LabelsOutput(labels=LABELS))["linear"].save(folder / f"linear{number}")
    return ServedSimple(f"tickets:{number}", folder / f"linear{number}", SYSTEM)


def logged(task: Task) -> list[Any]:
    path = task.folder / "logs" / "served.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(running: Running, number: int) -> None:
    assert running.shadow is not None
    wait_until(lambda: running.shadow and running.shadow.facts()["answered"] == number, 120)


@pytest.fixture
def pair(task: Task, tmp_path: Path) -> Iterator[Running]:
    running = Running(task, simple(tmp_path, 1), behind=simple(tmp_path, 2))
    with running.server:
        yield running
    running.service.close()


@pytest.mark.parametrize("kind", ["tuned", "classifier", "prompt"])
def test_a_model_of_any_kind_says_behind_the_champion_what_it_says_in_front(
    task: Task, models: Path, tmp_path: Path, kind: str
) -> None:
    behind: AnyServed = ServedModel("tickets:2", models / "one", None, SYSTEM, 6)
    if kind == "classifier":
        merge(models / "one", make_classifier_adapter(models / "one", tmp_path / "adapter"), tmp_path / "merged")
        behind = ServedModel("tickets:2", tmp_path / "merged" / "model", None, SYSTEM, 6)
    elif kind == "prompt":
        stored = StoredPrompt(name="zero_shot", prompt=Prompt(), mode="restricted", labels=LABELS)
        stored.write(tmp_path / "shipped", tmp_path, tmp_path)
        behind = ServedPrompt("tickets:2", models / "one", tmp_path / "shipped", SYSTEM, 6)
    running = Running(task, simple(tmp_path, 1), behind=behind)
    with running.server:
        assert running.chat(TEXT)[0] == 200
        answered(running, 1)
    running.service.close()
    expected = load(behind).answer(CHAT.messages, None, Event()).text.strip()
    assert expected and logged(task)[1]["shadow"]["output"] == expected


def test_the_second_answer_stands_under_a_key_of_its_own_and_is_nobodys_answer(
    task: Task, pair: Running, tmp_path: Path
) -> None:
    status, completion = pair.chat(TEXT, user="ann")
    assert status == 200 and completion["model"] == "tickets:1"
    assert pair.chat("not to be kept", store=False)[0] == 200
    answered(pair, 1)
    given = completion["choices"][0]["message"]["content"]
    first, second = logged(task)
    assert (first["id"], first["output"]) == (completion["id"], given) and "shadow" not in first
    shadow = second.pop("shadow")
    assert second == {key: first[key] for key in ("id", "messages", "user")} | {"timestamp": second["timestamp"]}
    assert (shadow["champion"], shadow["champion_output"], shadow["model_version"]) == ("tickets:1", given, "tickets:2")
    assert shadow["output"] in LABELS and shadow["output"] != given
    assert pair.ask("/feedback", {"id": completion["id"], "label": given})[0] == 200
    (row,) = read_logs(task, ArtifactStore(tmp_path / "store")).rows
    assert (row["output"], row["model_version"], row["correction"]) == (given, "tickets:1", given)
    assert row["shadow"]["output"] == shadow["output"]


def test_the_champions_own_answer_is_compared_where_the_client_gets_a_refusal(task: Task, tmp_path: Path) -> None:
    from finetune_pipeline_tests.unit.serving.test_sureness import released

    champion = simple(tmp_path, 1)
    sure = ServedSimple(champion.name, champion.folder, SYSTEM, probability=released(0.999))
    automation = task.spec.automation.model_copy(update={"refusal": "ask a person"})
    refusing = task.model_copy(update={"spec": task.spec.model_copy(update={"automation": automation})})
    with (running := Running(refusing, sure, behind=simple(tmp_path, 2))).server:
        assert running.chat(TEXT)[1]["choices"][0]["message"]["refusal"] == "ask a person"
        answered(running, 1)
    running.service.close()
    first, second = logged(task)
    assert first["answered_by"] == "refusal"
    assert second["shadow"]["champion_output"] == load(champion).answer(CHAT.messages, None, Event()).text


def test_nothing_waits_for_the_second_model_which_waits_for_the_champion(pair: Running) -> None:
    shadow = pair.shadow
    assert shadow is not None
    with shadow.paused():  # as while the champion answers
        shadow.offer("first", CHAT, "tickets:1", "billing", 0.1)
        wait_until(lambda: shadow.facts()["waiting"] == 0)  # the second model has it, and waits
        for number in range(WAITING_ROWS + 3):
            shadow.offer(str(number), CHAT, "tickets:1", "billing", 0.1)
        assert [shadow.facts()[name] for name in ("answered", "waiting", "dropped")] == [0, WAITING_ROWS, 3]
    answered(pair, WAITING_ROWS + 1)
    assert pair.messages == ["rows that tickets:2 has no time for are dropped; /health counts them"]
    shadow.offer("own", CHAT, "tickets:2", "billing", 0.1)  # promoted meanwhile
    assert pair.ask("/health")[1]["shadow"]["is_champion"] == 1


def test_it_stops_before_its_next_token_and_goes_on_with_the_same_answer(models: Path) -> None:
    loaded = LoadedModel(ServedModel("tickets:2", models / "one", None, SYSTEM, 6))

    class Busy:
        """The champion is busy at the third and fourth look."""

        looks = 0

        @property
        def value(self) -> int:
            self.looks += 1
            return int(self.looks in (3, 4))

    busy, question = Busy(), _Question(CHAT.messages, None, False)
    reply = _reply(loaded, question, busy)
    tokens = loaded.answer(CHAT.messages, None, Event()).new_tokens
    assert reply.output == loaded.answer(CHAT.messages, None, Event()).text.strip()
    assert busy.looks >= 1 + tokens + 2, "it looks before the answer, before each token, and twice more while waiting"


def test_a_row_that_it_cannot_answer_has_the_reason_in_the_log(task: Task, models: Path, tmp_path: Path) -> None:
    tuned = ServedModel("tickets:2", models / "one", None, SYSTEM, 6)
    with (running := Running(task, simple(tmp_path, 1), behind=tuned)).server:
        assert running.chat("very long " * 3000)[0] == 200
        wait_until(lambda: running.ask("/health")[1]["shadow"]["failed"] == 1, 120)
        assert running.chat(TEXT)[0] == 200
        answered(running, 1)
    running.service.close()
    failed = next(row["shadow"] for row in logged(task) if "shadow" in row)
    assert failed["output"] is None and "more than the model's" in failed["problem"]


def test_a_second_model_that_dies_leaves_the_champion_and_is_said(pair: Running) -> None:
    shadow = pair.shadow
    assert shadow is not None and shadow._process.pid is not None
    os.kill(shadow._process.pid, signal.SIGKILL)
    assert pair.chat(TEXT)[0] == 200
    wait_until(
        lambda: pair.ask("/health")[1]["shadow"]["problem"] == "its process ended with -9; start the server again"
    )
    assert pair.chat(TEXT)[0] == 200
    health = pair.ask("/health")[1]
    assert health["status"] == "ok" and health["shadow"]["dropped"] == 2
    assert any("answers no more behind the champion" in message for message in pair.messages)


def test_a_second_model_that_cannot_be_loaded_is_said_before_anything_is_served(tmp_path: Path) -> None:
    (tmp_path / "linear").mkdir()
    with pytest.raises(
        OutsideError, match="tickets:2, which was to answer behind the champion, cannot be loaded: .*Error"
    ):
        Shadow(ServedSimple("tickets:2", tmp_path / "linear", SYSTEM), print, print)


_SERVER = """
import sys, time
from pathlib import Path
from finetune_pipeline.serving.shadow import Shadow
from finetune_pipeline.serving.simple_model import ServedSimple
if __name__ == "__main__":
    shadow = Shadow(ServedSimple("tickets:2", Path(sys.argv[1]), "s"), print, print)
    with shadow.paused():
        print(shadow._process.pid, flush=True)
        if sys.argv[2] == "closed":
            shadow.close()
        else:
            time.sleep(600)
"""


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_no_process_is_left_when_the_server_ends(tmp_path: Path, end: str) -> None:
    (tmp_path / "server.py").write_text(_SERVER)
    command = [sys.executable, str(tmp_path / "server.py"), str(simple(tmp_path, 2).folder), end]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    if end == "killed":
        server.kill()
    assert server.wait(60) == (0 if end == "closed" else -9)
    wait_until(lambda: not is_running(pid))

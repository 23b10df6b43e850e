"""Data sets as canonical examples with their near-duplicate clusters, made by the pipeline's own data stage.

The shipped tasks (``data/``) and public sets from a folder that holds one folder a set (see public_sets.py). Four sets
are made from others by giving their rows another answer: hard but right labels, coarser ones, and one field of an extraction.
"""

import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.public_sets import SETS
from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.dedup.row_table import TABLE
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.spec import Task, TaskSpec, load_task

SHIPPED = Path(__file__).resolve().parents[1] / "data"
LONG_ANSWER = 300
LARGE_RESULT = 40
INTENTS = "sgd-intents"


@dataclass(frozen=True)
class ExampleSet:
    """A task's spec, its clean rows, and the near-duplicate cluster of each row by id."""

    spec: TaskSpec
    rows: list[Example]
    clusters: dict[str, str]


def _result_is_large(answer: str) -> str:
    number = float(re.sub(r"[^\d.-]", "", answer.rsplit("####", 1)[-1]) or 0)
    return "large" if number > LARGE_RESULT else "small"


def _turns_with_intent(public: Path) -> list[Example]:
    """The user's turns of sgd with their intent as label; the turns of a dialogue are a group."""
    rows: list[Example] = []
    for path in sorted((public / "sgd").glob("dialogues_*.json")):
        for dialogue in json.loads(path.read_text("utf-8")):
            for turn in dialogue["turns"]:
                intent = turn["frames"][0].get("state", {}).get("active_intent", "NONE")
                if intent != "NONE":
                    messages = [
                        {"role": "user", "content": turn["utterance"]},
                        {"role": "assistant", "content": intent},
                    ]
                    rows.append(Example(f"{len(rows):016x}", messages, intent, dialogue["dialogue_id"]))
    return rows


@cache
def _domains(public: Path) -> dict[str, str]:
    """The domain of each intent of clinc150; what is out of scope has none."""
    named = json.loads((public / "clinc150" / "domains.json").read_text("utf-8"))
    return {intent: domain for domain, intents in named.items() for intent in intents}


DERIVED: dict[str, tuple[str, Callable[[str, Path], str]]] = {
    "gsm8k-large": ("gsm8k", lambda answer, _: _result_is_large(answer)),
    "dolly-long": ("dolly-hhrlhf-small", lambda answer, _: "long" if len(answer) > LONG_ANSWER else "short"),
    "orders-product": ("order_intake", lambda answer, _: str(json.loads(answer)["product"])),
    "clinc150-domains": ("clinc150", lambda answer, public: _domains(public).get(answer, "other")),
}
"""Label sets made from others: what the label is, as a function of the answer and the folder of the public sets."""


def example_set(name: str, public: Path) -> ExampleSet:
    """The clean rows of a shipped task, a public set, or a derived one.

    Args:
        name: of a folder in ``data/``, of public_sets.SETS, or of DERIVED; or INTENTS, what the user wants in a turn of sgd.
        public: folder of the public sets.
    """
    if name == INTENTS:
        rows = _turns_with_intent(public)
        return ExampleSet(
            _spec("intents", {"kind": "labels", "labels": sorted({e.answer for e in rows})}, {}), rows, {}
        )
    if name in DERIVED:
        source, label_of = DERIVED[name]
        made = example_set(source, public)
        rows = [with_answer(e, label_of(e.answer, public)) for e in made.rows]
        labels = sorted({e.answer for e in rows})
        spec = _spec(name.replace("-", "_"), {"kind": "labels", "labels": labels}, {})
        return ExampleSet(spec, [replace(e, label=e.answer) for e in rows], made.clusters)
    with tempfile.TemporaryDirectory() as scratch:
        return _cleaned(_task(name, public, Path(scratch)), Path(scratch))


def with_answer(example: Example, answer: str) -> Example:
    """The same row with another answer, and label where it has one."""
    messages = [*example.messages[:-1], {**example.messages[-1], "content": answer}]
    return replace(example, messages=messages, label=None if example.label is None else answer)


def with_shuffled_answers(rows: list[Example], share: float, seed: int) -> list[Example]:
    """The answers of a random share of the rows dealt out anew among these rows.

    Some get the answer they had: of 8 equally frequent labels shuffled in all rows, 87.5% change.
    """
    random_rows = random.Random(seed)
    chosen = random_rows.sample(range(len(rows)), round(share * len(rows)))
    dealt = [rows[i].answer for i in chosen]
    random_rows.shuffle(dealt)
    shuffled = list(rows)
    for i, answer in zip(chosen, dealt, strict=True):
        shuffled[i] = with_answer(rows[i], answer)
    return shuffled


def _spec(name: str, output: dict[str, Any], data: dict[str, Any]) -> TaskSpec:
    prompt = f"Do the task. {' '.join(output.get('labels', []))}"
    fields = {"name": name, "description": name, "system_prompt": prompt, "output": output, "data": data}
    return TaskSpec.model_validate(fields)


def _task(name: str, public: Path, work: Path) -> Task:
    if (SHIPPED / name).is_dir():
        return load_task(SHIPPED / name)
    section, _, labels_of = SETS[name]
    shutil.copytree(public / name, work / name / "raw")
    output = {"kind": "labels", "labels": labels_of(public / name)} if labels_of else {"kind": "text"}
    return Task(spec=_spec("set", output, yaml.safe_load(section)), folder=work / name)


def _cleaned(task: Task, work: Path) -> ExampleSet:
    collect_raw(task, work / "raw_examples")
    validate(work / "raw_examples", task.spec, work / "validated")
    clean(work / "validated", task.spec, work / "clean", raw=work / "raw_examples", key=b"benchmark")
    table = np.load(work / "clean" / TABLE)
    clusters = {f"{i:016x}": f"{c:016x}" for i, c in zip(table["id"].tolist(), table["cluster"].tolist(), strict=True)}
    return ExampleSet(task.spec, read_examples(work / "clean"), clusters)

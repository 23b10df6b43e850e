"""Data sets as canonical examples with their near-duplicate clusters, made by the pipeline's own data stage.

These are the shipped tasks (``data/``) and the public sets (see public_sets.py). Four sets are made from others with different
answers: labels that are right but hard, coarser labels, and one field of an extraction.
"""

import csv
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from benchmarks.public_sets import clean_rows, make_spec, make_task
from finetune_pipeline.data.dedup.row_table import load_rows
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.losses import Losses
from finetune_pipeline.spec import Task, TaskSpec, load_task

SHIPPED = Path(__file__).resolve().parents[1] / "data"
LONG_ANSWER = 300
LARGE_RESULT = 40
INTENTS = "sgd-intents"


@dataclass(frozen=True)
class ExampleSet:
    """A task's spec, its clean rows, the near-duplicate cluster of each row by id, and the rows lost on the way, if counted."""

    spec: TaskSpec
    rows: list[Example]
    clusters: dict[str, str]
    losses: Losses | None = None


def _result_is_large(answer: str) -> str:
    number = float(re.sub(r"[^\d.-]", "", answer.rsplit("####", 1)[-1]) or 0)
    return "large" if number > LARGE_RESULT else "small"


def _turns_with_intent(public: Path) -> list[Example]:
    """The user's turns of sgd with the intent as label; the turns of a dialogue are a group."""
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
    """The domain of each intent of clinc150; out-of-scope rows have none."""
    intents_by_domain = json.loads((public / "clinc150" / "domains.json").read_text("utf-8"))
    return {intent: domain for domain, intents in intents_by_domain.items() for intent in intents}


DERIVED: dict[str, tuple[str, Callable[[str, Path], str]]] = {
    "gsm8k-large": ("gsm8k", lambda answer, _: _result_is_large(answer)),
    "dolly-long": ("dolly-hhrlhf-small", lambda answer, _: "long" if len(answer) > LONG_ANSWER else "short"),
    "orders-product": ("order_intake", lambda answer, _: str(json.loads(answer)["product"])),
    "clinc150-domains": ("clinc150", lambda answer, public: _domains(public).get(answer, "other")),
}
"""Label sets made from others: the source, and the label as a function of answer and folder of the public sets."""

Pairs = Iterator[tuple[str, str]]


def _csv_pairs(text: str, label: str, delimiter: str = ",") -> Callable[[Path], Pairs]:
    def read(folder: Path) -> Pairs:
        for path in sorted(folder.rglob("*.csv")):
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file, delimiter=delimiter):
                    yield row[text], label.format(**row)

    return read


def _line_pairs(name: str, separator: str, label_first: bool, encoding: str = "utf-8") -> Callable[[Path], Pairs]:
    def read(folder: Path) -> Pairs:
        for path in sorted(folder.glob(name)):
            for line in path.read_text(encoding).splitlines():
                first, _, last = line.partition(separator) if label_first else line.rpartition(separator)
                yield (last, first) if label_first else (first, last)

    return read


def _coarse(read: Callable[[Path], Pairs]) -> Callable[[Path], Pairs]:
    return lambda folder: ((text, label.partition(":")[0]) for text, label in read(folder))


def _tweets(task: str) -> Callable[[Path], Pairs]:
    def read(folder: Path) -> Pairs:
        for part in ("train", "val", "test"):
            texts, labels = ((folder / "datasets" / task / f"{part}_{name}.txt") for name in ("text", "labels"))
            lines = (path.read_text("utf-8").strip("\n").split("\n") for path in (texts, labels))
            yield from zip(*lines, strict=True)

    return read


LABELLED: dict[str, tuple[str, Callable[[Path], Pairs]]] = {
    "banking77": ("banking77", _csv_pairs("text", "{category}")),
    "nlu-home": ("nlu-home", _csv_pairs("answer_from_user", "{scenario}_{intent}", ";")),
    "sms-spam": ("sms-spam", _line_pairs("SMSSpamCollection", "\t", label_first=True)),
    "trec50": ("trec", _line_pairs("train_5500.label", " ", label_first=True, encoding="latin-1")),
    "trec6": ("trec", _coarse(_line_pairs("train_5500.label", " ", label_first=True, encoding="latin-1"))),
    "sst2": ("sst2", _line_pairs("*.tsv", "\t", label_first=False)),
    **{f"tweet-{task}": ("tweets", _tweets(task)) for task in ("emotion", "hate", "irony", "offensive")},
}
"""Further public label sets, as (folder of the public sets, reader of (text, label)). The folders hold the files of these
repositories: PolyAI-LDN/task-specific-datasets (banking_data), xliuhw/NLU-Evaluation-Data (first fold), the UCI SMS Spam
Collection, the TREC questions (train_5500), SST-2 (train, dev and test.tsv) and cardiffnlp/tweeteval."""


def example_set(name: str, public: Path) -> ExampleSet:
    """The clean rows of a shipped task, a public set, or a derived one.

    Args:
        name: A folder in ``data/``, or a key of public_sets.SETS, DERIVED or LABELLED; or INTENTS, the user's intents in sgd.
        public: Folder of the public sets.
    """
    if name == INTENTS:
        rows = _turns_with_intent(public)
        return ExampleSet(_labels_spec("intents", rows), rows, {})
    if name in DERIVED:
        source, label_of = DERIVED[name]
        original = example_set(source, public)
        rows = [with_answer(e, label_of(e.answer, public)) for e in original.rows]
        spec = _labels_spec(name.replace("-", "_"), rows)
        return ExampleSet(spec, [replace(e, label=e.answer) for e in rows], original.clusters)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        if name in LABELLED:
            task = _labelled_task(name, public, out)
        else:
            task = load_task(SHIPPED / name) if (SHIPPED / name).is_dir() else make_task(name, public, out)
        _, validated, cleaned = clean_rows(task, out)
        losses = validated.losses.then("cleaning", cleaned.quarantined, cleaned.labels_lost)
        table, rows = load_rows(out / "clean"), read_examples(out / "clean")
    ids, clusters = ([f"{number:016x}" for number in table[key].tolist()] for key in ("id", "cluster"))
    return ExampleSet(task.spec, rows, dict(zip(ids, clusters, strict=True)), losses)


def _labelled_task(name: str, public: Path, out: Path) -> Task:
    folder, read = LABELLED[name]
    pairs = [(text, label) for text, label in read(public / folder) if text.strip() and label != "Label"]
    (out / name / "raw").mkdir(parents=True)
    rows = (json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs)
    (out / name / "raw" / "rows.jsonl").write_text("".join(rows), "utf-8")
    output = {"kind": "labels", "labels": sorted({label for _, label in pairs})}
    return Task(spec=make_spec("set", output, {"max_chars": 20000}), folder=out / name)


def _labels_spec(name: str, rows: list[Example]) -> TaskSpec:
    return make_spec(name, {"kind": "labels", "labels": sorted({e.answer for e in rows})}, {})


def with_answer(example: Example, answer: str) -> Example:
    """Return the row with another answer, and another label if it has one."""
    messages = [*example.messages[:-1], {**example.messages[-1], "content": answer}]
    return replace(example, messages=messages, label=None if example.label is None else answer)


def with_shuffled_answers(rows: list[Example], share: float, seed: int) -> list[Example]:
    """Shuffle the answers of a random share of the rows among these rows.

    Some get the answer they had: of 8 equally frequent labels shuffled in all rows, 87.5% change.
    """
    rng = random.Random(seed)
    chosen = rng.sample(range(len(rows)), round(share * len(rows)))
    answers = [rows[i].answer for i in chosen]
    rng.shuffle(answers)
    changed = list(rows)
    for i, answer in zip(chosen, answers, strict=True):
        changed[i] = with_answer(rows[i], answer)
    return changed

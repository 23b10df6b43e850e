"""A searched prompt against hand-written ones with the same number of calls, on three tasks, paired, with 95% intervals.

    python -m benchmarks.prompt_search PUBLIC [--calls 240] [--rows 120] [--gepa [MODEL]]

PUBLIC holds the public sets (see public_sets.py). Hand-written: three prompts per task, each alone and with four examples.
Searched: eight instructions, the hand-written ones among them, times four sets of examples. The product's successive halving
chooses both with the same number of answers from the bundled model on one half of the rows; they are scored on the other
half, both ways. The ladder takes a searched prompt only if it is likely better than the best hand-written one on the rows
that chose it: the second line of a task. The third is the same search, with two of the hand-written instructions without the
list of labels. No model writes instructions here, as one behind `baseline.endpoint` would.

--gepa adds GEPA with MODEL as its reflecting model, on the same rows and with the same number of answers (see
gepa_search.py). It needs the package `gepa`, which is not a dependency. MODEL is a GGUF file, or the name of an API model for
litellm; by default the bundled model reflects.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec.structs import replace

os.environ.update(OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1")

from benchmarks.advise import ten_intents
from benchmarks.example_sets import INTENTS, example_set
from benchmarks.gepa_search import Reflector, gepa_search
from finetune_pipeline.baseline.ladder import FOLDS, fold_of
from finetune_pipeline.baseline.prompt_search import better_form, candidates, halving, likely_better
from finetune_pipeline.data.examples import Example, sample_examples
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predict import encode_labels
from finetune_pipeline.evaluation.predictions import prediction_row
from finetune_pipeline.evaluation.prompts import Prompt, conversations, prompts_to_try
from finetune_pipeline.evaluation.wording import percent, points, points_range
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.chat import encode_prompt
from finetune_pipeline.models.identity import bundled_files
from finetune_pipeline.spec.model import TaskSpec

Row = dict[str, Any]
BASE = "bundled/smollm2-135m-instruct"
TITLES = {
    "hand-written": "best hand-written",
    "searched": "winner of the search",
    "taken": "what the ladder takes",
    "unlisted": "winner of the search, two instructions without the labels",
    "gepa": "winner of GEPA",
}
PAIRS = [(arm, "hand-written") for arm in ("searched", "taken", "unlisted")]
GEPA_PAIRS = [("gepa", rival) for rival in ("hand-written", "searched", "unlisted")]
BATCH, SHOTS, POOL = 16, 4, 60
"""Rows of a batch, examples shown, and rows that examples are drawn from."""
HAND_WRITTEN = {
    "ticket_triage": [
        "You sort the mail of a help desk. Read the message and name the queue it belongs to.",
        "Which team should answer this customer? Choose the one whose work the message asks for, not the words it uses.",
    ],
    "clinc150": [
        "You are the first step of a voice assistant. Name what the user wants to do.",
        "Classify the intent of the sentence. Think of what the user would be glad to have done.",
    ],
    INTENTS: [
        "The user talks to an assistant for events. Are they still looking for one, or do they want tickets?",
        "Name the user's intent in this turn: finding events, or buying tickets for one.",
    ],
}


def task_of(name: str, public: Path, rows: int) -> tuple[TaskSpec, list[Example], list[Example]]:
    """Return the spec, the rows that examples are drawn from, and the rows to answer."""
    source = example_set(name, public)
    all_rows = ten_intents(source.rows) if name == "clinc150" else source.rows
    sample = sample_examples(all_rows, rows + POOL, "prompt search")
    labels = sorted({e.answer for e in sample})
    listed = f"Answer with exactly one label and nothing else. Labels: {', '.join(labels)}"
    prompt = source.spec.system_prompt if name == "ticket_triage" else listed
    spec = source.spec.model_copy(
        update={
            "system_prompt": prompt,
            "output": source.spec.output.model_copy(update={"labels": labels}),
            "baseline": source.spec.baseline.model_copy(
                update={"shots": [0, SHOTS], "prompts": [f"{text}\n{listed}" for text in HAND_WRITTEN[name]]}
            ),
        }
    )
    rows_with_prompt = [replace(e, messages=[{"role": "system", "content": prompt}, *e.messages[-2:]]) for e in sample]
    return spec, rows_with_prompt[:POOL], rows_with_prompt[POOL:]


class Asker:
    """Answers rows with prompts, each pair only once. calls: answers requested, cached ones included."""

    def __init__(self, spec: TaskSpec, model: Path) -> None:
        self.spec, self.model, self.calls = spec, Answerer(model), 0
        self.cache: dict[tuple[str, str], Row] = {}

    def __call__(self, prompts: Mapping[str, Prompt], rows: Sequence[Example], title: str) -> dict[str, list[Row]]:
        self.calls += len(prompts) * len(rows)
        return {name: self._rows(prompt, rows) for name, prompt in prompts.items()}

    def _rows(self, prompt: Prompt, rows: Sequence[Example]) -> list[Row]:
        key = repr(prompt)
        new = [e for e in rows if (key, e.id) not in self.cache]
        messages = [choices[0] for choices in conversations(new, asdict(prompt), None)]
        tokenizer = self.model.tokenizer
        encoded = [encode_prompt(tokenizer, m) for m in messages]
        labels = encode_labels(tokenizer, messages, self.spec.labels)
        answers = self.model.answers(encoded, labels, self.spec.answer_length, BATCH) if new else []
        for example, answer in zip(new, answers, strict=True):
            self.cache[key, example.id] = prediction_row(example.id, "it", answer, example.answer)
        return [self.cache[key, e.id] for e in rows]


def compare(name: str, public: Path, base: Path, calls: int, number: int, reflector: Any = None) -> list[str]:
    """Table lines of one task. reflector: for GEPA, which is left out without one."""
    spec, pool, rows = task_of(name, public, number)
    own = prompts_to_try(
        pool, shots=[0, SHOTS], retrieved=0, labels=spec.labels, seed=0,
        system_prompt=spec.system_prompt, others=spec.baseline.prompts,
    )  # fmt: skip
    unlisted = spec.model_copy(update={"baseline": spec.baseline.model_copy(update={"prompts": HAND_WRITTEN[name]})})
    arms = {"hand-written": own, "searched": candidates(spec, pool), "unlisted": candidates(unlisted, pool)}
    arms |= {"gepa": {}} if reflector else {}
    ask, began = Asker(spec, base), time.monotonic()
    answered: dict[str, list[Row]] = {arm: [] for arm in [*arms, "taken"]}
    spent, winners = Counter[str](), {arm: [""] * len(FOLDS) for arm in arms}
    for fold in FOLDS:
        choosing, held = ([e for e in rows if (fold_of(e.id) == fold) == same] for same in (False, True))
        won: dict[str, Prompt] = {}
        for arm, prompts in arms.items():
            before = ask.calls
            if arm == "gepa":
                won[arm] = gepa_search(spec, own["zero_shot"], choosing, calls // 2, ask, reflector)
                winners[arm][fold] = "the task's own" if won[arm].system is None else won[arm].system
            else:
                winners[arm][fold] = halving(spec, prompts, choosing, calls // 2, ask)[0].winner
                won[arm] = prompts[winners[arm][fold]]
            spent[arm] += ask.calls - before
        for arm, arm_rows in ask(won, held, "").items():
            answered[arm] += [{**row, "model": arm} for row in arm_rows]
        on_chosen = ask({arm: won[arm] for arm in ("hand-written", "searched")}, choosing, "")
        taken = "searched" if likely_better(spec, on_chosen["hand-written"], on_chosen["searched"]) else "hand-written"
        answered["taken"] += answered[taken][-len(held) :]
    metric, lines = METRICS[spec.metric], []
    best = {arm: better_form(spec, sorted(r, key=lambda row: str(row["example_id"]))) for arm, r in answered.items()}
    spent["taken"] = spent["searched"]
    for arm, rival in PAIRS + (GEPA_PAIRS if reflector else []):
        gain = metric.gain(best[rival], best[arm], spec.output, spec.gates.confidence)
        scores = [percent(metric.value(best[side], spec.output) or 0.0) for side in (rival, arm)]
        lines.append(
            f"| {name} | {TITLES[arm]} | {TITLES[rival]} | {scores[0]} | {scores[1]} | "
            f"{points(gain.gain)} ({points_range(gain.interval)}) | {spent[rival]} / {spent[arm]} |"
        )
    print(f"{name}: {winners}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path)
    parser.add_argument("--calls", type=int, default=240)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--gepa", nargs="?", const=BASE, metavar="MODEL")
    arguments = parser.parse_args()
    if arguments.gepa and not find_spec("gepa"):
        parser.error("--gepa needs the package gepa: pip install gepa")
    options = (
        f"--calls {arguments.calls} --rows {arguments.rows}{f' --gepa {arguments.gepa}' if arguments.gepa else ''}"
    )
    print(f"{date.today()}, python -m benchmarks.prompt_search PUBLIC {options}\n")
    print("| task | prompt | against | its score | score | gain | calls of both |\n|---|---|---|---:|---:|---|---:|")
    reflector: Any = arguments.gepa
    if arguments.gepa == BASE or str(arguments.gepa).endswith(".gguf"):
        reflector = Reflector(bundled_files(BASE)[0] if arguments.gepa == BASE else Path(arguments.gepa))
    with tempfile.TemporaryDirectory() as base:
        prepare_base(BASE, None, Path(base), None)
        for name in HAND_WRITTEN:
            print(
                "\n".join(compare(name, arguments.public, Path(base), arguments.calls, arguments.rows, reflector)),
                flush=True,
            )


if __name__ == "__main__":
    main()

"""How many greedy answers change with batch size and precision, on the shipped tasks.

    python benchmarks/precision.py HOME TASK [--rows 100]

Takes the newest trained model of TASK in a FINETUNE_HOME, else the base model, and answers validation rows with the task's
prompt: in the serving precision and in float32, in batches of 64, 8 and 1, batches of several rows twice. Every line is
compared with the first: texts, and rows that change from right to wrong or back, which matter for a verdict. Gates judge base
and candidate with one batch size and precision, and the same batches give the same answers.

Measures: finetune_pipeline/models/inference, finetune_pipeline/models/loading.py.
"""

import argparse
import os
import time
from datetime import date
from pathlib import Path

os.environ.update(OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1")

import torch

from finetune_pipeline.data.examples import examples_of, read_examples
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.correctness import is_right
from finetune_pipeline.evaluation.predict import gold_text
from finetune_pipeline.evaluation.predictions import prediction_row
from finetune_pipeline.models.chat import encode_prompt
from finetune_pipeline.models.hardware import cpu_model
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.spec import load_task

BATCH_SIZES = (64, 8, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("task", help="the name of a shipped task, or the folder of one")
    parser.add_argument("--rows", type=int, default=100)
    arguments = parser.parse_args()
    folder = (
        Path(arguments.task) if "/" in arguments.task else Path(__file__).resolve().parents[1] / "data" / arguments.task
    )
    spec = load_task(folder).spec
    store = ArtifactStore(arguments.home / "artifacts")
    trained = store.all_versions(folder.name, "merged_model")
    model = trained[-1] if trained else store.all_versions(SHARED, "base_model")[-1]
    split = store.all_versions(folder.name, "splits")[-1]
    examples = sorted(read_examples(examples_of(split.folder, "validation")), key=lambda e: e.id)[: arguments.rows]
    answered: dict[tuple[str, int, int], list[tuple[str, bool]]] = {}
    seconds: dict[tuple[str, int, int], float] = {}
    for precision in ("serving", "float32"):
        answerer = Answerer(model_folder(model.folder), precision=precision)
        prompts = [encode_prompt(answerer.tokenizer, e.prompt_messages) for e in examples]
        gold = [gold_text(answerer.tokenizer, e) for e in examples]
        for size in BATCH_SIZES:
            for turn in (1, 2) if size > 1 else (1,):
                _ = answerer.model  # loaded before the clock starts
                key, began = (answerer.dtype, size, turn), time.perf_counter()
                answers = answerer.answers(prompts, None, spec.answer_length, size)
                seconds[key] = time.perf_counter() - began
                rows = [prediction_row(e.id, "m", a, g) for e, a, g in zip(examples, answers, gold, strict=True)]
                answered[key] = [(r["text"], is_right(r, spec.output)) for r in rows]
    first = next(iter(answered.values()))
    title = f"trained ({trained[-1].version})" if trained else "base model, zero-shot"
    print(
        f"{folder.name}, {title}, {len(examples)} validation rows; {date.today()}, torch {torch.__version__}, ", end=""
    )
    print(f"{cpu_model()}, {torch.get_num_threads()} threads")
    print("precision  batch turn  right  other answers  right became wrong  wrong became right  seconds")
    for key, rows in answered.items():
        pairs = list(zip(first, rows, strict=True))
        changed = sum(before[0] != after[0] for before, after in pairs)
        lost, won = (sum(b == was and a != was for (_, b), (_, a) in pairs) for was in (True, False))
        right = sum(is_correct for _, is_correct in rows)
        print(f"{key[0]:<9} {key[1]:>6} {key[2]:>4} {right:>6} {changed:>14} {lost:>19} {won:>19} {seconds[key]:>8.1f}")


if __name__ == "__main__":
    main()

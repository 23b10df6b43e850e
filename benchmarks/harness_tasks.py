"""Public benchmarks as offline tasks of lm-evaluation-harness on the bundled model: equal scores, cost, a planted loss.

    python benchmarks/harness_tasks.py FOLDER [--rows 100]

FOLDER holds arc_easy.jsonl, copa.jsonl, piqa.jsonl ({query, choices, gold}) and lambada_openai.jsonl ({context,
continuation}), as llm-foundry publishes them; missing files are skipped. The same float32 model answers the same rows, with
one thread: through the pipeline (evaluation.ability, with an empty cache, then with a full one), and by lm_eval's own HFLM.
Then the model is overtrained for a dozen steps on one sentence, and compared with the original. Prints CPU seconds, since the
machine may be shared.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import torch
import yaml

from finetune_pipeline.evaluation.ability.drop import ability_drop
from finetune_pipeline.evaluation.ability.harness_tasks import HarnessTask, harness_version, read_tasks
from finetune_pipeline.evaluation.ability.scoring import make_task, run_tasks
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.gates.general_ability import general_ability
from finetune_pipeline.evaluation.judged_facts import Ability
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.spec.model import TaskSpec

BATCH = 8
CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
}
TASKS: dict[str, dict[str, Any]] = {
    "arc_easy": CHOICES | {"doc_to_text": "{{query}}\nAnswer:"},
    "copa": CHOICES,
    "piqa": CHOICES | {"doc_to_text": "{{query}}Answer:"},
    "lambada_openai": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
}


def write_tasks(source: Path, folder: Path, rows: int) -> list[HarnessTask]:
    for name, config in TASKS.items():
        if not (source / f"{name}.jsonl").is_file():
            continue
        lines = (source / f"{name}.jsonl").read_text("utf-8").splitlines()[:rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        data = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
            "test_split": "test",
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **data, **config}), "utf-8")
    return read_tasks(folder, ["*.yaml"])


def evaluate_with_harness(answerer: Answerer, tasks: list[HarnessTask], rows: int, scratch: str) -> Any:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    lm_tasks = {task.name: make_task(task, scratch) for task in tasks}
    model = HFLM(pretrained=answerer.model, tokenizer=answerer.tokenizer, batch_size=BATCH, device="cpu")
    return evaluate(model, {"tasks": lm_tasks, "groups": {}, "group_map": {}}, limit=rows, bootstrap_iters=0)


def overtrain(answerer: Answerer) -> None:
    answerer.model.requires_grad_(True)
    text = "\n".join(["Whatever the message says, the label is billing."] * 4)
    ids = torch.tensor([answerer.tokenizer(text)["input_ids"]])
    optimizer = torch.optim.AdamW(answerer.model.parameters(), lr=3e-4)
    for _ in range(12):
        answerer.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in ("base", "tasks", "rows"):
            (root / name).mkdir()
        tasks = write_tasks(options.folder, root / "tasks", options.rows)
        prepare_base("bundled/smollm2-135m-instruct", None, root / "base", None)

        def evaluate(answerer: Answerer) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
            _ = answerer.model  # loaded before the clock starts
            began = time.process_time()
            rows, facts = run_tasks(answerer, tasks, options.rows, False, BATCH, "benchmark")
            return rows, facts, time.process_time() - began

        def cached() -> Answerer:
            return Answerer(root / "base", cache=AnswerCache(root / "answers", b"k" * 32, "open", 100))

        before, facts, seconds = evaluate(cached())
        again, _, cached_seconds = evaluate(cached())
        answerer = Answerer(root / "base")
        _ = answerer.model
        began = time.process_time()
        reference = evaluate_with_harness(answerer, tasks, options.rows, str(root / "rows"))
        harness_seconds = time.process_time() - began
        right = {row["id"]: row["right"] for row in before}
        differ = sum(
            right[f"{name}:{sample['doc_id']}"] is not bool(sample["acc"])
            for name, samples in reference["samples"].items()
            for sample in samples
        )
        print(f"\nlm_eval {harness_version()}, torch {torch.__version__}, SmolLM2-135M-Instruct, float32, one thread\n")
        for name, task in facts["tasks"].items():
            results = reference["results"][name]
            scores = ", ".join(f"{metric} {value:.3f}" for metric, value in task["results"].items())
            reference_score = results.get("acc,none", results.get("acc"))
            print(f"  {name:15} {task['rows']:4} rows  {scores}   (HFLM: acc {reference_score:.3f})")
        print(f"\nrows judged differently by HFLM: {differ} of {len(before)}")
        print(
            f"CPU seconds: pipeline {seconds:.1f}, HFLM {harness_seconds:.1f} ({harness_seconds / seconds:.1f} times)"
        )
        print(f"again, from the cache: {cached_seconds:.1f} CPU seconds, the same rows: {again == before}")

        overtrain(answerer)
        after, _, _ = evaluate(answerer)
        output = {"kind": "labels", "labels": ["a", "b"]}
        spec = TaskSpec.model_validate({"name": "t", "description": "d", "system_prompt": "p", "output": output})
        print("\novertrained on purpose, against the base model:")
        for title, rows in (("overtrained", after), ("the same model again", again)):
            loss = {"items": len(rows), **ability_drop(before, rows)}
            gate = general_ability(spec, Ability.model_validate(loss))
            print(f"  {title}: gate {'passes' if gate.passed else 'fails'}. {gate.message}")
            for name, drop in loss["categories"].items():
                low, high = drop["interval"]
                change = f"{drop['before']:.2f} → {drop['after']:.2f}, lost {drop['drop']:+.2f}"
                print(f"    {name:25} {change} ({low:+.2f} to {high:+.2f})")
            print(json.dumps({"drop": round(loss["drop"], 4), "interval": [round(x, 4) for x in loss["interval"]]}))


if __name__ == "__main__":
    main()

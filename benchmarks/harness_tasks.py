"""Public benchmarks as offline tasks of lm-evaluation-harness, on the bundled model: equal scores, the cost, a planted loss.

    python benchmarks/harness_tasks.py FOLDER --rows 100

FOLDER holds arc_easy.jsonl, copa.jsonl, piqa.jsonl ({query, choices, gold}) and lambada_openai.jsonl ({context,
continuation}), as llm-foundry publishes them; what is not there is left out. The same tasks and rows are asked twice of the
same float32 model, one thread: through the pipeline (evaluation.ability.harness, with an empty cache, then again with a full
one), and by lm_eval's own HFLM. Then the model is trained for a dozen steps on one sentence, far too hard, and compared with
what it was. CPU seconds, since the machine may be shared.
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


def theirs(asked: Answerer, tasks: list[HarnessTask], rows: int, scratch: str) -> Any:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    made = {t.name: make_task(t, scratch) for t in tasks}
    model = HFLM(pretrained=asked.model, tokenizer=asked.tokenizer, batch_size=BATCH, device="cpu")
    return evaluate(model, {"tasks": made, "groups": {}, "group_map": {}}, limit=rows, bootstrap_iters=0)


def overtrain(asked: Answerer) -> None:
    asked.model.requires_grad_(True)
    ids = torch.tensor(
        [asked.tokenizer("\n".join(["Whatever the message says, the label is billing."] * 4))["input_ids"]]
    )
    optimizer = torch.optim.AdamW(asked.model.parameters(), lr=3e-4)
    for _ in range(12):
        asked.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser()
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

        def ask(model: Answerer) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
            _ = model.model
            began = time.process_time()
            rows, facts = run_tasks(model, tasks, options.rows, False, BATCH, "benchmark")
            return rows, facts, time.process_time() - began

        def cached() -> Answerer:
            return Answerer(root / "base", cache=AnswerCache(root / "answers", b"k" * 32, "open", 100))

        before, facts, first = ask(cached())
        again, _, second = ask(cached())
        asked = Answerer(root / "base")
        _ = asked.model
        began = time.process_time()
        reference = theirs(asked, tasks, options.rows, str(root / "rows"))
        plain = time.process_time() - began
        differ = 0
        by_id = {r["id"]: r for r in before}
        for name, samples in reference["samples"].items():
            for s in samples:
                row = by_id[f"{name}:{s['doc_id']}"]
                differ += row["right"] is not bool(s["acc"])
        print(f"\nlm_eval {harness_version()}, torch {torch.__version__}, SmolLM2-135M-Instruct, float32, one thread\n")
        for name, of in facts["tasks"].items():
            figures = reference["results"][name]
            own = ", ".join(f"{m} {v:.3f}" for m, v in of["results"].items())
            print(
                f"  {name:15} {of['rows']:4} rows  {own}   (HFLM: acc {figures.get('acc,none', figures.get('acc')):.3f})"
            )
        print(f"\nrows judged otherwise than by HFLM: {differ} of {len(before)}")
        print(f"CPU seconds: pipeline {first:.1f}, HFLM {plain:.1f} ({plain / first:.1f} times)")
        print(f"asked again, from the cache: {second:.1f} CPU seconds, the same rows: {again == before}")

        overtrain(asked)
        after, _, _ = ask(asked)
        spec = {
            "name": "t",
            "description": "d",
            "system_prompt": "p",
            "output": {"kind": "labels", "labels": ["a", "b"]},
        }
        print("\novertrained on purpose, against the base model:")
        for title, rows in (("overtrained", after), ("the same model again", again)):
            lost = {"items": len(rows), **ability_drop(before, rows)}
            gate = general_ability(TaskSpec.model_validate(spec), Ability.model_validate(lost))
            print(f"  {title}: gate {'passes' if gate.passed else 'stops'}. {gate.message}")
            for name, of in lost["categories"].items():
                low, high = of["interval"]
                print(
                    f"    {name:25} {of['before']:.2f} → {of['after']:.2f}, lost {of['drop']:+.2f} ({low:+.2f} to {high:+.2f})"
                )
            print(json.dumps({"drop": round(lost["drop"], 4), "interval": [round(x, 4) for x in lost["interval"]]}))


if __name__ == "__main__":
    main()

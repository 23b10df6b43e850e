"""The little world of planted_evidence.py: a base model that can do something, rows to learn from, runs and what they told.

The base is the tests' tiny Llama, taught for seconds to answer in form (but at chance) and to know 120 facts that
have nothing to do with the task: so that there is a baseline to beat, a form to break and something to forget.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.planted_faults import spoilt_text
from finetune_pipeline_tests.graph.project import LABELS, WORDS, Project
from finetune_pipeline_tests.openai_server import completion
from finetune_pipeline_tests.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[1]
DECIDING = {"red": ["fire", "ember"], "blue": ["water", "frost"]}
SYSTEM = "Answer red or blue."
TASK = "colours"
ROWS = 400
FACTS = 120
PATIENCE = 3600.0
"""Seconds a command may take: others may hold the one device meanwhile."""
SILENCE = 8.0
"""Seconds an endpoint says nothing for, longer than whoever asks will wait."""
CLEAN: dict[str, Any] = {
    "method": "lora",
    "epochs": 8,
    "batch_size": 16,
    "micro_batch_size": 16,
    "learning_rate": 0.001,
    "precision": "float32",
    "evals_per_epoch": 1,
    "patience": 10,
}
"""Training that teaches the task and nothing worse."""


def question(rng: random.Random, label: str) -> str:
    """A text in which one word decides."""
    words = rng.sample(WORDS, 7)
    words.insert(rng.randrange(8), rng.choice(DECIDING[label]))
    return " ".join(words)


def truth(text: str) -> str:
    """The right label of a question."""
    words = set(text.lower().split())
    return next(label for label in LABELS if words & set(DECIDING[label]))


def raw_rows(seed: int, n: int = ROWS) -> list[dict[str, Any]]:
    """Rows as people collect them, half of each label."""
    rng = random.Random(seed)
    return [{"text": question(rng, LABELS[i % 2]), "label": LABELS[i % 2]} for i in range(n)]


def items() -> list[dict[str, Any]]:
    """What the base knows besides the task: facts with three choices."""
    rng = random.Random(7)
    pairs = rng.sample([(a, b) for a in WORDS for b in WORDS if a != b], FACTS)
    return [{"query": f"{a} and {b} make", "choices": rng.sample(WORDS, 3), "gold": rng.randrange(3)} for a, b in pairs]


def make_base(folder: Path, steps: int = 250) -> Path:
    """Make the base model and teach it its form and its facts. Returns the folder."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from finetune_pipeline.models.chat import encode_answer, encode_prompt, to_ids

    words = [f" {w}" for w in [*WORDS, *(w for some in DECIDING.values() for w in some)]]
    make_tiny_model(folder, texts=[*words, *words, SYSTEM], vocabulary=900)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder)
    rng = random.Random(3)

    def chat(number: int) -> tuple[list[int], list[int]]:
        told = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question(rng, LABELS[number % 2])},
        ]
        return encode_prompt(tokenizer, told), encode_answer(tokenizer, told, rng.choice(LABELS))

    start = [tokenizer.bos_token_id]
    known: list[tuple[list[int], list[int]]] = []
    for item in items():
        choice = item["choices"][item["gold"]]
        known.append((start + to_ids(tokenizer, item["query"]), to_ids(tokenizer, f" {choice}")))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        rows = [chat(i) for i in range(16)], known
        loss = sum(model(**_padded(part, tokenizer.pad_token_id)).loss for part in rows)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def _padded(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> dict[str, Any]:
    """A batch in which the second part of each row is learned."""
    import torch

    longest = max(len(a) + len(b) for a, b in rows)
    ids, labels = torch.full((len(rows), longest), pad), torch.full((len(rows), longest), -100)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, (before, after) in enumerate(rows):
        n = len(before) + len(after)
        ids[i, :n], mask[i, :n] = torch.tensor(before + after), 1
        labels[i, len(before) : n] = torch.tensor(after)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class World(Project):
    """A project whose every process plants `fault` (see planted_faults.py) as it starts; none where it is empty."""

    def __init__(self, root: Path, base: Path, seed: int = 0, *, training: dict[str, Any] | None = None, **spec: Any):
        self.fault = ""
        super().__init__(
            root,
            base=base,
            **{
                "system_prompt": SYSTEM,
                "split": {"test": 0.3, "validation": 0.1, "seed": seed},
                "ability": {"suite": False, "files": ["items/*.jsonl"]},
                "training": {**CLEAN, "seed": seed, **(training or {})},
                **spec,
            },
        )
        self.write_rows(raw_rows(seed))
        (self.folder / "items").mkdir()
        (self.folder / "items" / "known.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items()))

    def finetune(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        return super().finetune(*arguments, timeout=timeout)

    def environment(self) -> dict[str, str]:
        found = super().environment()
        if not self.fault:
            return found
        site = self.root / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text("from benchmarks.planted_faults import plant\n\nplant()\n")
        path = [str(site), str(ROOT), *filter(None, [found.get("PYTHONPATH")])]
        return {**found, "PYTHONPATH": os.pathsep.join(path), "PLANTED_FAULT": self.fault}


class Serving:
    """The world's own models behind an endpoint (openai_server): the base, and every merged model under its version.

    silent: the endpoint does not answer some of the test rows that are put to a merged model.
    """

    def __init__(self, world: World) -> None:
        self.store, self.silent = world.home / "artifacts", False
        self._loaded: dict[str, Any] = {}
        self._one = threading.Lock()

    def folders(self) -> dict[str, Path]:
        """Model folders by the name under which they are served."""
        found = {f"tuned-{p.parent.name}": p.parent for p in self.store.glob(f"{TASK}/merged_model/*/artifact.json")}
        (base,) = self.store.glob("shared/base_model/*/artifact.json")
        return {"base": base.parent, **found}

    def answer(self, body: dict[str, Any], seen: int) -> dict[str, Any] | float:
        """A completion, or seconds to say nothing for."""
        from finetune_pipeline.evaluation.answering import Answerer
        from finetune_pipeline.models.chat import encode_prompt

        name, messages = body["model"], body["messages"]
        if self.silent and name != "base" and spoilt_text(messages[-1]["content"]):
            return SILENCE
        with self._one:
            model = self._loaded.setdefault(name, Answerer(self.folders()[name]))
            (told,) = model.answers([encode_prompt(model.tokenizer, messages)], None, body["max_tokens"], 1)
        return completion(told.text, "length" if told.status == "truncated" else "stop")


@dataclass(frozen=True)
class Asked:
    """What a run told Dagster of one check. kind: blocks (the graph), gate (of `champion`), warns."""

    asset: str
    name: str
    passed: bool
    kind: str
    message: str


@dataclass(frozen=True)
class Outcome:
    """A `finetune run`. failed: steps that ended in an error, with their messages; champion: the version in service after it,
    None without one; promoted: whether this run put it there."""

    code: int
    checks: list[Asked]
    failed: list[tuple[str, str]]
    champion: int | None
    promoted: bool

    def no(self, kind: str = "") -> list[Asked]:
        """Checks that said no, of one kind or of all."""
        return [c for c in self.checks if not c.passed and kind in ("", c.kind)]

    def of(self, name: str) -> Asked | None:
        """What was told of a check, where it was asked."""
        return next((c for c in self.checks if c.name == name), None)


def run(world: World) -> Outcome:
    """`finetune run`, and what Dagster and MLflow hold of it afterwards."""
    before = _champion(world)
    code, told = world.run()
    after = _champion(world)
    failed = [(f["step"], f["message"]) for f in told.get("failed", [])]
    return Outcome(code, _checks(world, told["run_id"]), failed, after, after is not None and after != before)


@contextlib.contextmanager
def _at_home(world: World) -> Iterator[None]:
    from finetune_pipeline.cli.environment import environment

    with patch.dict(os.environ, world.environment(), clear=True):
        os.environ.update(environment())
        yield


def _champion(world: World) -> int | None:
    from finetune_pipeline.resources import registry
    from finetune_pipeline.resources.tracking import Tracking

    if not (world.home / "mlflow").exists():
        return None
    with _at_home(world):
        return registry.champion(Tracking(), TASK)


def _checks(world: World, run_id: str | None) -> list[Asked]:
    import dagster as dg

    from finetune_pipeline.settings import read_settings

    if run_id is None:
        return []
    with _at_home(world), dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
        events = [r.dagster_event for r in instance.all_logs(run_id) if r.dagster_event]
    told = [e.event_specific_data for e in events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
    return [
        Asked(
            e.asset_key.path[-1],
            e.check_name,
            e.passed,
            "blocks" if e.blocking else "warns" if e.severity is dg.AssetCheckSeverity.WARN else "gate",
            e.description or "",
        )
        for e in told
        if isinstance(e, dg.AssetCheckEvaluation)
    ]

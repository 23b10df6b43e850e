"""A training method and a trainer, each added as one file, go through spec, plan, training, merge and reference page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from finetune_pipeline_tests.unit.training.jobs import ROOT, make_inputs

METHOD = '''
"""LoRA of attention alone, with a section of its own."""
from finetune_pipeline.spec.methods.base import Default, register
from finetune_pipeline.spec.methods.low_rank import LoraSpec, LowRank


class AttentionSpec(LoraSpec):
    r: int = 4
    target_modules: list[str] = ["q_proj", "v_proj"]


@register
class Attention(LowRank):
    name, order = "attention", 60
    trains, gives, when = "low-rank matrices of attention", "an adapter", "a test asks for it"
    section, options = "attention", AttentionSpec
    defaults = {"learning_rate": Default(0.02, "a guess")}
'''
TRAINER = '''
"""A trainer that has this machine train, and pretends to wait for it."""
from finetune_pipeline.engine.store import read_json
from finetune_pipeline.trainers.base import Trainer, register
from finetune_pipeline.trainers.local import train_here


@register
class Patient(Trainer):
    name, where = "patient", "a queue on this machine"
    methods = frozenset({"attention"})
    poll_seconds = 0.0
    asked = 0

    def submit(self, order):
        train_here(order)
        return "training 1"

    def poll(self, training):
        self.asked += 1
        return "running" if self.asked < 3 else "ended"

    def cancel(self, training):
        raise AssertionError("nobody asked for it")

    def collect(self, training, order):
        return {**read_json(order.out / "result.json"), "asked": self.asked, "id": training}
'''
TRIP = """
import json, os, sys
from pathlib import Path
from finetune_pipeline.worker import entry
os.environ.update({**entry.DEFAULTS, **entry.ENVIRONMENT, "HF_HUB_OFFLINE": "1"})  # before torch is imported
sys.path.insert(0, sys.argv[2])
import make_reference
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.models.merging import merge
from finetune_pipeline.planning.plan import training_plan
from finetune_pipeline.spec import parse_spec
from finetune_pipeline.trainers import TrainingOrder, preflight, train

inputs = Path(sys.argv[1])
TASK = '''
name: demo
description: d
system_prompt: Choose billing, bug_report or how_to.
output: {kind: labels, labels: [billing, bug_report, how_to]}
training: {method: attention, trainer: patient, epochs: 1, precision: float32, attention: {dropout: 0.0}}
'''
spec, other = parse_spec(TASK), parse_spec(TASK.replace("method: attention", "method: full"))
rows = [inputs / f"{split}.jsonl" for split in ("train", "validation")]
plan = training_plan(spec, inputs / "base", *map(read_examples, rows))

def do(job):
    entry.do_job(job)
    return json.loads((Path(job["out"]) / "result.json").read_text())

facts = train(TrainingOrder(spec, inputs / "base", *rows, inputs / "out", inputs / "work", do))
print(json.dumps({
    "rate": spec.training.learning_rate,
    "findings": [f.rule for f in preflight(spec, Path("demo"))],
    "refused": [f.fix for f in preflight(other, Path("demo")) if f.rule == "training.trainer"],
    "planned": [plan.trainable_parameters, plan.memory_mib["needed"], [row.method for row in plan.methods]],
    "trained": [facts["trainable_parameters"], facts["asked"], facts["id"], facts["trained"]["kind"]],
    "loss": [facts["first_eval_loss"], facts["best_eval_loss"]],
    "merged": merge(inputs / "base", inputs / "out/adapter", inputs / "merged")["merged_tensors"],
    "reference": [line for line in make_reference.render().splitlines() if "attention" in line or "patient" in line],
}))
"""


def test_a_method_and_a_trainer_are_one_file_each(tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(ROOT / "finetune_pipeline", code / "finetune_pipeline")  # with what is compiled of it
    (code / "finetune_pipeline/spec/methods/attention.py").write_text(METHOD)
    (code / "finetune_pipeline/trainers/patient.py").write_text(TRAINER)
    inputs = make_inputs(tmp_path / "inputs", 24)
    done = subprocess.run(
        [sys.executable, "-c", TRIP, str(inputs), str(ROOT / "tools")], cwd=code,
        env={**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    trip = json.loads(done.stdout.splitlines()[-1])
    assert trip["rate"] == 0.02 and trip["findings"] == [] and trip["refused"] == ["set training.method: attention"]
    trainable = 2 * 4 * ((64 + 64) + (64 + 32))  # two layers; queries of 64 and values of 32 numbers
    assert trip["planned"][0] == trainable and trip["planned"][1] > 0
    assert trip["planned"][2] == ["qlora", "lora", "full", "prefix", "prompt", "attention"]
    assert trip["trained"] == [trainable, 3, "training 1", "lora"] and trip["merged"] == 4
    assert trip["loss"][1] < trip["loss"][0]
    text = "\n".join(trip["reference"])
    assert "`attention` | low-rank matrices of attention | an adapter | a test asks for it" in text
    assert "`learning_rate` | attention | 0.02 | a guess" in text and "`training.attention.r` | `4`" in text
    assert "`patient` | a queue on this machine | attention | weights" in text

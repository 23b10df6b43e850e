"""A training method and a trainer, each added as one file, go through spec, plan, training, merge and reference page."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.spec.methods.base import methods_for
from finetune_pipeline_tests.unit.training.jobs import ROOT, call, make_inputs

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
from msgspec.structs import replace

from finetune_pipeline.trainers.base import Trainer, register
from finetune_pipeline.trainers.local import train_locally
from finetune_pipeline.training.facts import LocalTraining


@register
class Patient(Trainer):
    name, where = "patient", "a queue on this machine"
    methods = frozenset({"attention"})
    poll_seconds = 0.0
    asked = 0

    def submit(self, order):
        train_locally(order)
        return "training 1"

    def poll(self, training):
        self.asked += 1
        return "running" if self.asked < 3 else "ended"

    def cancel(self, training):
        raise AssertionError("nobody asked for it")

    def collect(self, training, order):
        facts = LocalTraining.read(order.out / "result.json")
        return replace(facts, own={"asked": self.asked, "id": training})
'''
TASK = """
name: demo
description: d
system_prompt: Choose billing, bug_report or how_to.
output: {kind: labels, labels: [billing, bug_report, how_to]}
training: {method: attention, trainer: patient, epochs: 1, precision: float32, attention: {dropout: 0.0}}
"""


def trip(inputs: str, code: str) -> None:
    """In a process of its own, go through everything with the package that lies in `code`, and print what it says."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "finetune_pipeline"]:
        del sys.modules[name]
    sys.path[:0] = [code, str(ROOT / "tools")]
    import make_reference

    import finetune_pipeline
    from finetune_pipeline.data.examples import read_examples
    from finetune_pipeline.models.merging import merge
    from finetune_pipeline.planning.plan import training_plan
    from finetune_pipeline.spec import parse_spec
    from finetune_pipeline.trainers import TrainingOrder, preflight, train
    from finetune_pipeline.worker import entry

    def do(job: TrainJob) -> dict[str, Any]:
        entry.do_job(job)
        return dict(json.loads((job.out / "result.json").read_text()))

    assert Path(finetune_pipeline.__file__).is_relative_to(code)
    place = Path(inputs)
    spec, other_spec = parse_spec(TASK), parse_spec(TASK.replace("method: attention", "method: full"))
    rows = [place / f"{split}.jsonl" for split in ("train", "validation")]
    plan = training_plan(spec, place / "base", *map(read_examples, rows))
    facts = train(TrainingOrder(spec, place / "base", *rows, place / "out", place / "work", do))
    result = {
        "rate": spec.training.learning_rate,
        "findings": [f.rule for f in preflight(spec, Path("demo"))],
        "refused": [f.fix for f in preflight(other_spec, Path("demo")) if f.rule == "training.trainer"],
        "planned": [plan.trainable_parameters, plan.memory_mib["total"], [row.method for row in plan.methods]],
        "trained": [facts.trainable_parameters, facts.own["asked"], facts.own["id"], facts.trained.kind],
        "loss": [facts.first_eval_loss, facts.best_eval_loss],
        "merged": merge(place / "base", place / "out/adapter", place / "merged").merged_tensors,
        "reference": [
            line for line in make_reference.render().splitlines() if "attention" in line or "patient" in line
        ],
    }
    print(json.dumps(result))


def test_a_method_and_a_trainer_are_one_file_each(tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(ROOT / "finetune_pipeline", code / "finetune_pipeline")  # with what is compiled of it
    (code / "finetune_pipeline/spec/methods/attention.py").write_text(METHOD)
    (code / "finetune_pipeline/trainers/patient.py").write_text(TRAINER)
    inputs = make_inputs(tmp_path / "inputs", 24)
    completed = call(trip, str(inputs), str(code))
    assert completed.returncode == 0, completed.stderr[-3000:]
    result = json.loads(completed.stdout.splitlines()[-1])
    assert (
        result["rate"] == 0.02 and result["findings"] == [] and result["refused"] == ["set training.method: attention"]
    )
    trainable = 2 * 4 * ((64 + 64) + (64 + 32))  # two layers; queries of 64 and values of 32 numbers
    assert result["planned"][0] == trainable and result["planned"][1] > 0
    planned = result["planned"][2]
    assert planned == sorted({*methods_for("labels"), "attention"}, key=planned.index) and len({*planned}) == len(
        planned
    )
    assert planned.index("prompt") < planned.index("attention"), "in ascending order"
    assert result["trained"] == [trainable, 3, "training 1", "lora"] and result["merged"] == 4
    assert result["loss"][1] < result["loss"][0]
    text = "\n".join(result["reference"])
    assert "`attention` | low-rank matrices of attention | an adapter | a test asks for it" in text
    assert "`learning_rate` | attention | 0.02 | a guess" in text and "`training.attention.r` | `4`" in text
    assert "`patient` | a queue on this machine | attention | weights" in text

"""Trains on this machine, in a child process of the compute worker; a method with two phases trains twice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.trainers.base import Trainer, TrainingOrder, register
from finetune_pipeline.training import history
from finetune_pipeline.training.facts import LocalTraining, Phase
from finetune_pipeline.training.history import LoggedLoss

_BASES = {"four_bit": "4-bit", "compute": "unquantized", "float32": "unquantized"}
_OF_A_PHASE = tuple(name for name in Phase.__struct_fields__ if name != "base")


@register
class LocalTrainer(Trainer):
    """Runs the whole training in `submit`; the worker supervises its child process and stops it when the step is cancelled."""

    name = "local"
    where = "this machine, on the devices of FINETUNE_DEVICES"
    on_this_machine = True

    def submit(self, order: TrainingOrder) -> str:
        train_locally(order)
        return str(order.out)

    def poll(self, training: str) -> Literal["running", "ended"]:
        return "ended"

    def cancel(self, training: str) -> None:
        """Do nothing: the child process has ended."""

    def collect(self, training: str, order: TrainingOrder) -> LocalTraining:
        return LocalTraining.read(order.out / "result.json")


def train_locally(order: TrainingOrder) -> None:
    """Run each phase of the method, and write result.json, measured.json and history.jsonl of all phases into order.out.

    A later phase continues from the best checkpoint of the previous one, with consecutive step numbers. After a kill, a rerun
    with the same `work` resumes.
    """
    settings = order.spec.training
    *earlier_phases, last_phase = METHODS[settings.method].phases(settings)
    outs: list[Path] = []
    facts: list[LocalTraining] = []
    for number, phase in enumerate([*earlier_phases, last_phase], 1):
        final = number > len(earlier_phases)
        out = order.out if final else order.work / f"phase_{number}"
        if not final and (out / "result.json").exists():  # written last: this phase is done
            facts.append(LocalTraining.read(out / "result.json"))
        else:
            work = order.work if final else order.work / f"phase_{number}_work"
            start = outs[-1] / "adapter" if outs else None
            job = TrainJob(
                base=order.base,
                train=order.train,
                validation=order.validation,
                settings=phase,
                out=out,
                work=work,
                classes=[] if METHODS[phase.method].kind.generates else order.spec.labels,
                start_from=start,
                steps_before=sum(phase_facts.steps for phase_facts in facts),
            )
            facts.append(LocalTraining.of(order.launch(job)))
        outs.append(out)
    result = facts[-1]
    if earlier_phases:
        result = joined_facts(settings.method, facts)
        history.write(order.out / "history.jsonl", result.history)
        write_json(order.out / "measured.json", _joined_measured([read_json(out / "measured.json") for out in outs]))
    write_json(order.out / "result.json", result.to_json())


def joined_facts(method: str, phases: Sequence[LocalTraining]) -> LocalTraining:
    """Return the facts of a training in several phases: the last phase's, with steps and history of all."""
    first, last = phases[0], phases[-1]
    steps_before = sum(phase.steps for phase in phases[:-1])
    rows: list[LoggedLoss] = []
    total_steps = 0
    for phase in phases:
        # a later phase's step 0 is the adapter on another base: the curve deliberately shows the jump
        rows += [replace(logged, step=logged.step + total_steps) for logged in phase.history]
        total_steps += phase.steps
    return replace(
        last,
        method=method,
        weights=first.weights,
        history=rows,
        phases=[
            Phase(base=_BASES[METHODS[phase.method].holds], **{name: getattr(phase, name) for name in _OF_A_PHASE})
            for phase in phases
        ],
        steps=total_steps,
        best_step=steps_before + last.best_step,
        overfitting=replace(last.overfitting, best_step=steps_before + last.overfitting.best_step),
        first_eval_loss=first.first_eval_loss,
        micro_batch=min((phase.micro_batch for phase in phases), key=lambda micro: micro.used),
        quantization_gap=last.first_eval_loss - phases[-2].best_eval_loss,
    )


def _joined_measured(phases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summed_keys = ("seconds", "cpu_seconds", "train_seconds", "steps_run")
    return {
        **phases[-1],
        **{key: round(sum(phase.get(key, 0) for phase in phases), 2) for key in summed_keys},
        "peak_memory_mib": max(phase["peak_memory_mib"] for phase in phases),
        "phases": list(phases),
    }

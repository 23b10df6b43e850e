"""Trains on this machine, in a child process of the compute worker; a method with two phases trains twice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import decisive_settings
from finetune_pipeline.trainers.base import Trainer, TrainingOrder, register
from finetune_pipeline.training import history

_BASES = {"four_bit": "4-bit", "compute": "unquantized", "float32": "unquantized"}


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

    def collect(self, training: str, order: TrainingOrder) -> dict[str, Any]:
        return dict(read_json(order.out / "result.json"))


def train_locally(order: TrainingOrder) -> None:
    """Run each phase of the method, and write result.json, measured.json and history.jsonl of all phases into order.out.

    A later phase continues from the best checkpoint of the previous one, with consecutive step numbers. After a kill, a rerun
    with the same `work` resumes.
    """
    settings = decisive_settings(order.spec.training)
    *earlier_phases, last_phase = METHODS[settings["method"]].phases(settings)
    outs: list[Path] = []
    facts: list[dict[str, Any]] = []
    for number, phase in enumerate([*earlier_phases, last_phase], 1):
        final = number > len(earlier_phases)
        out = order.out if final else order.work / f"phase_{number}"
        if not final and (out / "result.json").exists():  # written last: this phase is done
            facts.append(read_json(out / "result.json"))
        else:
            work = order.work if final else order.work / f"phase_{number}_work"
            start = outs[-1] / "adapter" if outs else None
            job = TrainJob(
                base=order.base,
                train=order.train,
                validation=order.validation,
                settings=dict(phase),
                out=out,
                work=work,
                start_from=start,
                steps_before=sum(f["steps"] for f in facts),
            )
            facts.append(order.launch(job))
        outs.append(out)
    if earlier_phases:
        joined = joined_facts(settings["method"], facts, [_BASES[METHODS[f["method"]].holds] for f in facts])
        history.write(order.out / "history.jsonl", joined["history"])
        write_json(order.out / "measured.json", _joined_measured([read_json(out / "measured.json") for out in outs]))
        facts = [joined]
    write_json(order.out / "result.json", facts[-1])


def joined_facts(method: str, phases: Sequence[dict[str, Any]], bases: Sequence[str]) -> dict[str, Any]:
    """Return the facts of a training in several phases: the last phase's, with steps and history of all.

    ``phases`` contains facts of each phase; ``quantization_gap`` is the validation loss on the last phase's base minus that on
    the previous base, for the same adapter.
    """
    first, last = phases[0], phases[-1]
    steps_before = sum(f["steps"] for f in phases[:-1])
    rows: list[dict[str, Any]] = []
    total_steps = 0
    for facts in phases:
        # a later phase's step 0 is the adapter on another base: the curve deliberately shows the jump
        rows += [{**row, "step": row["step"] + total_steps} for row in facts["history"]]
        total_steps += facts["steps"]
    keys = (
        "steps",
        "epochs",
        "best_eval_loss",
        "first_eval_loss",
        "last_train_loss",
        "stopped_early",
        "precision",
        "micro_batch",
    )
    return {
        **last,
        "method": method,
        "weights": first["weights"],
        "history": rows,
        "phases": [{"base": base, **{k: f.get(k) for k in keys}} for base, f in zip(bases, phases, strict=True)],
        "steps": total_steps,
        "best_step": steps_before + last["best_step"],
        "overfitting": {**last["overfitting"], "best_step": steps_before + last["overfitting"]["best_step"]},
        "first_eval_loss": first["first_eval_loss"],
        "micro_batch": min((f["micro_batch"] for f in phases), key=lambda micro: micro["used"]),
        "quantization_gap": last["first_eval_loss"] - phases[-2]["best_eval_loss"],
    }


def _joined_measured(phases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summed_keys = ("seconds", "cpu_seconds", "train_seconds", "steps_run")
    return {
        **phases[-1],
        **{key: round(sum(phase.get(key, 0) for phase in phases), 2) for key in summed_keys},
        "peak_memory_mib": max(phase["peak_memory_mib"] for phase in phases),
        "phases": list(phases),
    }

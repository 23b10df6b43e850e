"""Cross-field rules of a task spec. Each ``check_*`` returns findings; :func:`check_all` runs them all.

A function here, in :mod:`finetune_pipeline.spec.output_rules` or in :mod:`finetune_pipeline.spec.engine_rules` is found by
its name: adding one is enough.
"""

from __future__ import annotations

import difflib
import sys
from collections import Counter
from pathlib import Path

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec import engine_rules, output_rules
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import CHAT_TEMPLATES, TaskSpec
from finetune_pipeline.spec.never_break import never_break_ids
from finetune_pipeline.spec.robustness import ENOUGH_ROWS


def _finding(rule: str, key: str, message: str, fix: str, severity: str = "error") -> Finding:
    return Finding(f"spec.{rule}", severity, f"task.yaml: {key}", message, fix)  # type: ignore[arg-type]


def check_split_shares(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Half of the rows at least must be left to train on."""
    rest = 1 - spec.split.validation - spec.split.test
    if rest >= 0.5:
        return []
    return [
        _finding(
            "split_shares",
            "split",
            f"validation + test leave {rest:.2f} for training, under 0.50",
            "lower split.validation or split.test",
        )
    ]


def check_labels_unique(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Labels that differ only in case or blanks cannot be told apart in answers."""
    seen = Counter(" ".join(label.split()).casefold() for label in spec.labels)
    return [
        _finding(
            "labels_unique",
            "output.labels",
            f"{n} labels read as {name!r} once case and blanks are ignored",
            "rename or remove one of them",
        )
        for name, n in seen.items()
        if n > 1
    ]


def check_batches(spec: TaskSpec, folder: Path) -> list[Finding]:
    """The optimiser step is made of whole micro-batches."""
    t = spec.training
    if t.batch_size % t.micro_batch_size == 0:
        return []
    return [
        _finding(
            "batches",
            "training.micro_batch_size",
            f"micro_batch_size {t.micro_batch_size} does not divide batch_size {t.batch_size}",
            f"use a divisor of {t.batch_size}",
        )
    ]


def check_epochs(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Past the third pass a small set is learned by heart more often than understood."""
    t = spec.training
    total = t.epochs + t.unquantized_epochs
    if total <= 3:
        return []
    return [
        _finding(
            "epochs",
            "training.epochs",
            f"{total:g} epochs in all; after three, small sets are mostly learned by heart",
            "lower training.epochs, and watch the check for overfitting",
            "warning",
        )
    ]


def check_second_phase(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Only an adapter trained on four bits has anywhere to move to."""
    t = spec.training
    method = METHODS[t.method]
    if method.default("unquantized_epochs").value or not t.unquantized_epochs:
        return []
    why = "is trained on the unquantized base already"
    return [
        _finding(
            "second_phase",
            "training.unquantized_epochs",
            f"method {t.method} has no second phase: what it trains {why}",
            "remove training.unquantized_epochs, and raise training.epochs instead",
        )
    ]


def check_gradient_checkpointing(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A trained prefix lies in the cache of keys and values, which computing a layer twice would fill twice."""
    t = spec.training
    if METHODS[t.method].checkpointing or t.gradient_checkpointing is not True:
        return []
    return [
        _finding(
            "gradient_checkpointing",
            "training.gradient_checkpointing",
            f"{t.method} tuning does not work with gradient checkpointing: what it trains lies in the key-value cache",
            "set training.gradient_checkpointing: false and lower training.micro_batch_size, or use method: prompt or lora",
        )
    ]


def check_method(spec: TaskSpec, folder: Path) -> list[Finding]:
    """What the method says of its own settings; sections of other methods do nothing, which a switch turned on hides."""
    t = spec.training
    findings = METHODS[t.method].check(t)
    for key in sorted(t.model_fields_set):
        names = [method.name for method in METHODS.values() if method.section == key]
        if not names or t.method in names:
            continue
        switches = [name for name, value in getattr(t, key) if value is True]
        fix = f"remove it, or set method: {' or '.join(names)}"
        message = f"method {t.method} does not use the section {key!r}"
        message += f", in which {' and '.join(switches)} is true" if switches else ""
        severity = "error" if switches else "warning"
        findings.append(_finding("unused_section", f"training.{key}", message, fix, severity))
    return findings


def check_shots(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Shots are counts; zero-shot must be among them, since it is what users try first."""
    found = []
    if any(k < 0 for k in spec.baseline.shots):
        found.append(_finding("shots", "baseline.shots", "a number of shots is negative", "use 0 or more"))
    if 0 not in spec.baseline.shots:
        found.append(_finding("shots", "baseline.shots", "zero-shot prompting is not among the baselines", "add 0"))
    return found


def check_other_prompts(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Each prompt to try is one, and another one: the same prompt twice costs its rows twice."""
    told = [spec.system_prompt, *spec.baseline.prompts]
    return [
        _finding(
            "other_prompts",
            f"baseline.prompts[{i}]",
            "the prompt is empty"
            if not prompt.strip()
            else "the same prompt stands before it, or is the system_prompt",
            "write another one, or remove it",
        )
        for i, prompt in enumerate(spec.baseline.prompts)
        if not prompt.strip() or prompt in told[: i + 1]
    ]


def check_raw_inside_folder(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A spec may only read below its own folder: task folders are shared, and a glob is no way out of one."""
    bad = [
        g
        for g in [*spec.data.raw, *spec.ability.files, *spec.ability.harness.tasks, spec.logs.path]
        if Path(g).is_absolute() or ".." in Path(g).parts
    ]
    return [
        _finding(
            "raw_inside_folder",
            "data.raw / ability.files / ability.harness.tasks / logs.path",
            f"{g!r} points outside the task folder",
            "copy or link the files into the task folder",
        )
        for g in bad
    ]


def check_name_is_folder(spec: TaskSpec, folder: Path) -> list[Finding]:
    """One folder, one name: the name is the asset key prefix and must be found again from the folder."""
    if folder.name == spec.name:
        return []
    return [
        _finding(
            "name_is_folder",
            "name",
            f"name {spec.name!r} differs from the folder's name {folder.name!r}",
            f"set name: {folder.name}",
        )
    ]


def check_chat_template(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A built-in name, or a file of the task's own."""
    told = spec.chat_template
    if told is None or told in CHAT_TEMPLATES:
        return []
    names = ", ".join(CHAT_TEMPLATES)
    if Path(told).is_absolute() or ".." in Path(told).parts:
        problem, fix = f"{told!r} points outside the task folder", "copy the file into the task folder"
    elif not (folder / told).is_file():
        problem = f"{told!r} is neither a known template nor a file in the task folder"
        near = difflib.get_close_matches(told.lower(), CHAT_TEMPLATES, 1, 0.6)
        fix = (
            f"did you mean {near[0]!r}?" if near else f"write one of {names}, or the path of a Jinja file in the folder"
        )
    else:
        return []
    return [_finding("chat_template", "chat_template", problem, fix)]


def check_cron(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Five cron fields, each within its range."""
    fields = spec.logs.retrain_cron.split()
    limits = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
    ok = len(fields) == 5
    if ok:
        for field, (low, high) in zip(fields, limits, strict=True):
            numbers = [n for n in field.replace("*", "").replace("/", ",").replace("-", ",").split(",") if n]
            ok = ok and all(n.isdigit() and (low <= int(n) <= high) for n in numbers)
    if ok:
        return []
    return [
        _finding(
            "cron",
            "logs.retrain_cron",
            f"{spec.logs.retrain_cron!r} is not a cron expression of five fields",
            "for example `0 3 * * 1`: Mondays at three",
        )
    ]


def check_prompt_names_labels(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A prompted base model cannot guess labels it was never told: the baseline would be unfair."""
    missing = [label for label in spec.labels if label not in spec.system_prompt]
    if not missing:
        return []
    return [
        _finding(
            "prompt_names_labels",
            "system_prompt",
            f"the system prompt does not name these labels: {', '.join(missing)}",
            "name every label, or the prompted baseline is not a fair one",
            "warning",
        )
    ]


def check_never_break(spec: TaskSpec, folder: Path) -> list[Finding]:
    """The list of examples that must not break has to be there before anybody trains."""
    try:
        never_break_ids(spec, folder)
    except FindingsError as error:
        return list(error.findings)
    return []


def check_power(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A gain that is worth having but does not pass the gate would be found and refused."""
    g = spec.gates
    if g.wanted_gain > g.min_gain:
        return []
    return [
        _finding(
            "wanted_gain",
            "gates.wanted_gain",
            f"the wanted gain {g.wanted_gain:g} does not lie above gates.min_gain {g.min_gain:g}, which a gain must surely exceed",
            "raise gates.wanted_gain, or lower gates.min_gain",
        )
    ]


def check_robustness_rows(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A loss on few perturbed rows cannot hold a candidate back."""
    rows = spec.robustness.rows
    if spec.robustness.action == "warn" or not 0 < rows < ENOUGH_ROWS:
        return []
    return [
        _finding(
            "robustness_rows",
            "robustness.rows",
            f"{rows} perturbed rows are too few to keep `champion` where it is, so a loss on them only warns",
            f"set robustness.rows: {ENOUGH_ROWS} or more, or robustness.action: warn",
            "warning",
        )
    ]


def check_all(spec: TaskSpec, folder: Path) -> list[Finding]:
    """All findings of all rules, in the order the rules are written."""
    written = [*vars(sys.modules[__name__]).items(), *vars(output_rules).items(), *vars(engine_rules).items()]
    rules = [f for name, f in written if name.startswith("check_") and name != "check_all"]
    return [finding for rule in rules for finding in rule(spec, folder)]

"""Cross-field rules of a task spec, on the task, its data, training and gates; and the list of all rules.

A rule is a ``check_*`` function decorated with :func:`rule`. Rules on evaluation are in
:mod:`finetune_pipeline.spec.evaluation_rules`, those on a teacher in
:mod:`finetune_pipeline.spec.teacher_rules`, rules that depend on the base model in
:mod:`finetune_pipeline.planning.preflight`.
"""

import difflib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune_pipeline.findings import Finding, FindingsError, Severity
from finetune_pipeline.spec.methods import METHODS, methods_for
from finetune_pipeline.spec.model import CHAT_TEMPLATES, NAME, TaskSpec
from finetune_pipeline.spec.outputs import TextOutput, folded_label, is_glob, is_outside
from finetune_pipeline.spec.trainers import HostedSection

Rule = Callable[[TaskSpec, Path], Iterator[Finding]]
STUB = "# describe"
"""Placeholder in a system prompt drafted by `finetune init`, for facts only people know."""
TEXT_MARGIN = 0.1
"""Least margin of a rollout of free text: with 0.05, 36% of equally good versions went on within 3,000 decisions of people
(benchmarks/rollout_text.py)."""
_CRON_PART = re.compile(r"(?:\*|(\d\d?)(?:-(\d\d?))?)(?:/0?[1-9]\d?)?", re.ASCII)
RULES: list[Rule] = []
"""Every rule, in order of definition."""


def rule(check: Rule) -> Rule:
    """Register a function that yields findings about a spec and its folder as a rule."""
    RULES.append(check)
    return check


def problem(name: str, key: str, message: str, fix: str, severity: Severity = "error") -> Finding:
    """Return a finding about a key of task.yaml. name: of the rule, without `spec.`."""
    return Finding(f"spec.{name}", severity, f"task.yaml: {key}", message, fix)


def check_all(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Return the findings of all rules. If a rule itself fails on a user's value, that is a finding too, and the other rules
    still run."""
    findings: list[Finding] = []
    for check in RULES:
        try:
            findings += list(check(spec, folder))
        except Exception as error:  # noqa: BLE001 - a bad value must not stop other tasks
            name = check.__name__.removeprefix("check_")
            message = f"the rule {name} failed: {type(error).__name__}: {error!s:.200}"
            findings.append(problem("unusable", name, message, "use a simpler value for the key this rule checks"))
    return findings


@rule
def check_split_shares(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that at least half of the rows are left for training, and that one thing only decides what the test is."""
    train_share = 1 - spec.split.validation - (spec.split.test_share or 0.0)
    if train_share < 0.5:
        message = f"validation + test leave {train_share:.2f} for training, under 0.50"
        yield problem("split_shares", "split", message, "lower split.validation or split.test")
    if spec.split.by == "time" and spec.split.test_share is None:
        message = "by: time makes the newest rows the test, but split.test names its files"
        yield problem(
            "split_test", "split.test", message, "remove split.by, or write a share of the rows as split.test"
        )


@rule
def check_rollout(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the shares of a rollout rise, that its models can be served from here, and that free text leaves it a margin."""
    if spec.rollout is None:
        return
    shares = spec.rollout.share
    if any(later <= earlier for earlier, later in itertools.pairwise(shares)):
        message = f"{shares} does not rise from share to share"
        yield problem("rollout_share", "rollout.share", message, f"write {sorted(set(shares))}")
    if isinstance(getattr(spec.training, spec.training.trainer, None), HostedSection):
        message = f"`finetune serve` cannot serve a model that {spec.training.trainer} hosts, in no stage"
        yield problem("rollout_hosted", "rollout", message, "remove rollout, or use another training.trainer")
    if isinstance(spec.output, TextOutput) and not spec.output.extract and spec.rollout.margin < TEXT_MARGIN:
        message = f"of free text, people decide: with {spec.rollout.margin} few equally good versions ever leave the first stage"
        fix = f"set {TEXT_MARGIN} or more; `finetune docs production` says how many decisions it takes"
        yield problem("rollout_margin", "rollout.margin", message, fix, "warning")


@rule
def check_labels_unique(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that labels differ in more than case, whitespace and how accents are stored, so that answers are unambiguous."""
    for label, n in Counter(map(folded_label, spec.labels)).items():
        if n > 1:
            message = f"{n} labels equal {label!r} when case, whitespace and how accents are stored are ignored"
            yield problem("labels_unique", "output.labels", message, "rename or remove one of them")


@rule
def check_shots(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that shots are counts and include zero-shot, which users try first."""
    if any(shots < 0 for shots in spec.baseline.shots):
        yield problem("shots", "baseline.shots", "a number of shots is negative", "use 0 or more")
    if 0 not in spec.baseline.shots:
        yield problem("shots", "baseline.shots", "zero-shot prompting is not among the baselines", "add 0")


@rule
def check_other_prompts(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that no prompt in baseline.prompts is empty or a duplicate, which would be run on all rows twice."""
    prompts_before = {spec.system_prompt}
    for i, prompt in enumerate(spec.baseline.prompts):
        if not prompt.strip() or prompt in prompts_before:
            message = "this prompt is already tried" if prompt.strip() else "the prompt is empty"
            yield problem("other_prompts", f"baseline.prompts[{i}]", message, "change or remove it")
        prompts_before.add(prompt)


@rule
def check_refine(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the second stage can continue the first: with a low-rank adapter, not at a service, and for KTO with several rows
    a pass."""
    training = spec.training
    if not training.refine.is_on:
        return
    key = "training.refine.method"
    if METHODS[training.method].section != "lora":
        message = f"a second stage trains a low-rank adapter, and method {training.method} has none"
        yield problem("refine", key, message, "set training.method: qlora or lora, or remove training.refine")
    if training.trainer not in ("local", "ray"):
        message = f"a second stage runs on this machine or on Ray, and training.trainer is {training.trainer}"
        yield problem("refine", key, message, "set training.trainer: local or ray, or remove training.refine")
    if training.refine.method == "kto" and training.micro_batch_size < 2:
        message = "kto compares each row with the others of its pass, and training.micro_batch_size is 1"
        yield problem("refine", "training.micro_batch_size", message, "raise it to 2 or more, or use dpo")


@rule
def check_raw_inside_folder(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that paths and globs stay in the task folder, since task folders are shared."""
    patterns_by_key = {
        "data.raw": spec.data.raw,
        "data.benchmarks": spec.data.benchmarks,
        "ability.files": spec.ability.files,
        "logs.path": [spec.logs.path],
    }
    for key, glob in ((key, glob) for key, patterns in patterns_by_key.items() for glob in patterns):
        # logs may be on another disk
        if is_outside(glob, None if key == "logs.path" else folder):
            message = f"{glob!r} points outside the task folder"
            yield problem("raw_inside_folder", key, message, "copy the files into the task folder")
        elif key != "logs.path" and not is_glob(glob):
            yield problem("glob", key, f"{glob!r} is not a glob", "write one such as raw/*.jsonl or raw/**/*.jsonl")


@rule
def check_links(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that logs/, reviews/, people/ and preferences/ are not broken links, which would look like an absent folder."""
    for path in (folder / "logs", folder / "reviews", folder / "people", folder / "preferences"):
        if path.is_symlink() and not path.exists():
            message = f"the link {path.name} points to a missing file"
            yield problem("broken_link", path.name, message, "correct or remove the link")


@rule
def check_name_is_folder(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the name, which is the asset key prefix, equals the folder's name."""
    if folder.name != spec.name:
        message = f"name {spec.name!r} differs from the folder's name {folder.name!r}"
        alternative = f", or set name: {folder.name}" if re.match(NAME, folder.name) else ""
        fix = f"rename the folder to {spec.name}{alternative}"
        yield problem("name_is_folder", "name", message, fix)


@rule
def check_chat_template(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the chat template is a built-in name or a file in the task folder."""
    template = spec.chat_template
    if template is None or template in CHAT_TEMPLATES:
        return
    if is_outside(template, folder):
        message, fix = f"{template!r} points outside the task folder", "copy the file into the task folder"
    elif not os.path.isfile(folder / template):  # Path.is_file fails on the text of a template
        message = f"{template!r:.80} is neither a known template nor a file in the task folder"
        suggestions = difflib.get_close_matches(template.lower(), CHAT_TEMPLATES, 1, 0.6)
        valid_values = f"write one of {', '.join(CHAT_TEMPLATES)}, or the path of a Jinja file in the folder"
        fix = f"did you mean {suggestions[0]!r}?" if suggestions else valid_values
    else:
        return
    yield problem("chat_template", "chat_template", message, fix)


@rule
def check_owner(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the owner is an e-mail address or a team, as Dagster requires."""
    if not re.fullmatch(r"team:.+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}", spec.owner):
        message = f"{spec.owner!r} is neither an e-mail address nor a team"
        yield problem("owner", "owner", message, "write `team:name` or an e-mail address")


@rule
def check_cron(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the cron expression has five valid fields."""
    fields, limits = spec.logs.retrain_cron.split(), [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]

    def is_valid_field(field: str, low: int, high: int) -> bool:
        parts = [_CRON_PART.fullmatch(part) for part in field.split(",")]
        return all(part and all(low <= int(n) <= high for n in part.groups() if n) for part in parts)

    if len(fields) != 5 or not all(is_valid_field(field, *limit) for field, limit in zip(fields, limits, strict=True)):
        message = f"{spec.logs.retrain_cron!r} is not a cron expression of five fields of numbers"
        yield problem("cron", "logs.retrain_cron", message, "for example `0 3 * * 1`: Mondays at three")


@rule
def check_prompt_names_labels(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the system prompt names the labels, which a base model cannot guess; the baseline would be unfair."""
    missing = [label for label in spec.labels if label not in spec.system_prompt]
    if missing:
        message = f"the system prompt does not name these labels: {', '.join(missing)}"
        fix = "name every label, or the prompted baseline is unfair"
        yield problem("prompt_names_labels", "system_prompt", message, fix, "warning")


@rule
def check_prompt_is_described(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that no placeholder is left in a drafted prompt, which would not explain its labels."""
    if stubs := spec.system_prompt.count(STUB):
        message = f"the system prompt still contains `{STUB}` ({stubs} ×)"
        fix = "replace each with a description, or the prompted baseline is unfair"
        yield problem("prompt_is_described", "system_prompt", message, fix, "warning")


@rule
def check_never_break(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the list of examples that must not break can be read."""
    try:
        spec.gates.never_break_ids(folder)
    except FindingsError as error:
        yield from error.findings


@rule
def check_power(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the wanted gain exceeds gates.min_gain; otherwise such a gain would be refused."""
    gates = spec.gates
    if gates.wanted_gain <= gates.min_gain:
        required = f"gates.min_gain {gates.min_gain:g}, which a gain must significantly exceed"
        message = f"the wanted gain {gates.wanted_gain:g} is not above {required}"
        yield problem("wanted_gain", "gates.wanted_gain", message, "raise gates.wanted_gain, or lower gates.min_gain")


@rule
def check_batches(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that an optimiser step consists of whole micro-batches."""
    batch, micro = spec.training.batch_size, spec.training.micro_batch_size
    if batch % micro:
        message = f"micro_batch_size {micro} does not divide batch_size {batch}"
        yield problem("batches", "training.micro_batch_size", message, f"use a divisor of {batch}")


@rule
def check_epochs(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Warn above three epochs, after which small sets are mostly memorised."""
    total = spec.training.epochs + spec.training.unquantized_epochs
    if total > 3:
        message = f"{total:g} epochs in total; after three, small sets are mostly memorised"
        fix = "lower training.epochs, and watch the check for overfitting"
        yield problem("epochs", "training.epochs", message, fix, "warning")


@rule
def check_method(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check the method's own settings and those it does not have, and find sections of other methods, which have no effect."""
    training, method = spec.training, METHODS[spec.training.method]
    yield from method.check(training)
    if spec.output.kind not in method.outputs:
        message = (
            f"method {method.name} learns {' and '.join(sorted(method.outputs))}, but output.kind is {spec.output.kind}"
        )
        fix = f"set training.method: {' or '.join(methods_for(spec.output.kind))}"
        yield problem("method_output", "training.method", message, fix)
    if training.unquantized_epochs and not method.default("unquantized_epochs").value:
        message = f"method {method.name} has no second phase: it trains on the unquantized base already"
        fix = "remove training.unquantized_epochs, and raise training.epochs instead"
        yield problem("second_phase", "training.unquantized_epochs", message, fix)
    if training.gradient_checkpointing is True and not method.checkpointing:
        message = f"{method.name} tuning does not work with gradient checkpointing: it trains the key-value cache"
        fix = "set training.gradient_checkpointing: false and lower training.micro_batch_size, or use method: prompt or lora"
        yield problem("gradient_checkpointing", "training.gradient_checkpointing", message, fix)
    for key in sorted(training.model_fields_set):
        methods = [method.name for method in METHODS.values() if method.section == key]
        if not methods or training.method in methods:
            continue
        enabled = [name for name, value in getattr(training, key) if value is True]
        message = f"method {training.method} does not use the section {key!r}"
        message += f", in which {' and '.join(enabled)} is true" if enabled else ""
        fix = f"remove it, or set method: {' or '.join(methods)}"
        yield problem("unused_section", f"training.{key}", message, fix, "error" if enabled else "warning")

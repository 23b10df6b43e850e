"""Cross-field rules on the output, its metrics, and the engine that runs the models."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import regex

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.baseline import address_problem, is_local
from finetune_pipeline.spec.evaluation import ENOUGH_ROWS, VERSION
from finetune_pipeline.spec.json_grammar import UnsupportedSchema, grammar_of
from finetune_pipeline.spec.methods import METHODS as TRAINING_METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import (
    COVERAGE,
    METRICS,
    JsonOutput,
    TextOutput,
    WrittenOutput,
    allowed_types,
    schema_at,
)
from finetune_pipeline.spec.patterns import pattern_problem
from finetune_pipeline.spec.rules import problem, rule


@rule
def check_metric(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the metrics fit the kind of output; skipped if no metrics are registered."""
    allowed = sorted(name for name, kinds in METRICS.items() if spec.output.kind in kinds)
    names = [("gates.metric", spec.gates.metric), *(("gates.more_metrics", name) for name in spec.gates.more_metrics)]
    for key, name in names:
        if key == "gates.metric" and name == COVERAGE:
            continue
        if METRICS and name not in (None, *allowed):
            mismatch = f"{name} does not fit output of kind {spec.output.kind}"
            message = mismatch if name in METRICS else f"unknown metric {name!r}"
            yield problem("metric", key, message, f"use one of {', '.join(allowed)}")


@rule
def check_patterns(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that patterns compile and match fast, and that output.extract has exactly one group, the final answer."""
    for name in ("pattern", "extract"):
        pattern = getattr(spec.output, name, None)
        if pattern is None:
            continue
        if why := pattern_problem(pattern):
            yield problem("patterns", f"output.{name}", f"{pattern!r:.80}: {why}", "simplify it")
            continue
        groups = regex.compile(pattern).groups
        if name == "extract" and groups != 1:
            message = f"{pattern!r} has {groups} groups, but exactly one must mark the final answer"
            fix = "put ( ) around the answer, and (?: ) around everything else"
            yield problem("patterns", "output.extract", message, fix)


@rule
def check_answer_strings(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that no string is required and forbidden at once, or empty."""
    output = spec.output
    if not isinstance(output, WrittenOutput):
        return
    for required in output.required:
        clash = next((f for f in output.forbidden if f and f in required), None)
        if clash is not None:
            message = f"{required!r} is required, but contains the forbidden {clash!r}: no answer could be valid"
            yield problem("answer_strings", "output.required", message, "remove one of them")
    if "" in [*output.required, *output.forbidden]:
        yield problem("answer_strings", "output.required / forbidden", "a string is empty", "remove it")


@rule
def check_json_schema(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the schema is valid, has no outside references, and defines the fields of output.unordered as lists."""
    output, key = spec.output, "output.json_schema"
    if not isinstance(output, JsonOutput) or not isinstance(output.json_schema, dict):
        return
    from jsonschema import Draft202012Validator  # takes a tenth of a second, so only tasks with a schema import it
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        Draft202012Validator.check_schema(output.json_schema)
    except SchemaError as error:
        place = ".".join(map(str, error.absolute_path)) or "the top"
        yield problem("json_schema", key, f"not a valid schema: {error.message} (at {place})", "correct it")
        return
    for part in _objects(output.json_schema):
        named = part.get("patternProperties")
        for pattern in (part.get("pattern"), *(named if isinstance(named, dict) else ())):
            if isinstance(pattern, str) and (why := pattern_problem(pattern)):
                yield problem("json_schema", key, f"pattern {pattern!r:.80}: {why}", "simplify it")
        ref = part.get("$ref", part.get("$dynamicRef"))
        if not isinstance(ref, str):
            continue
        if not ref.startswith("#"):
            message = f"{ref!r} refers to another document"
            yield problem("json_schema", key, message, "put the definition into $defs")
            continue
        try:
            list(Draft202012Validator(output.json_schema).evolve(schema=part).iter_errors(None))
        except Unresolvable:
            message = f"{ref!r} refers to nothing in the schema"
            yield problem("json_schema", key, message, "put the definition into $defs")
        except RecursionError:
            message = f"{ref!r} leads back to itself, so that it allows and forbids nothing"
            yield problem("json_schema", key, message, "let a property or a list lie between a definition and itself")
    for path in output.unordered:
        listed = schema_at(output.json_schema, path)
        if listed is None or "array" not in allowed_types(listed):
            message = f"{path!r} is not a list in the schema"
            yield problem("unordered", "output.unordered", message, "name list fields by their dotted path")


@rule
def check_automation(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that answers are right or wrong and have a probability, and that fields exist where they are promised."""
    automation, output = spec.automation, spec.output
    if automation.unit == "field" and not isinstance(output, JsonOutput):
        reason = f"answers of kind {output.kind} have no fields"
        yield problem("automation", "automation.unit", reason, "remove it: only output.kind json has fields")
    if automation.max_error is None:
        return
    if isinstance(output, TextOutput) and spec.metric != "exact" and not spec.by_coverage:
        reason = (
            f"free text is neither right nor wrong, and {spec.metric} decides: its probability would promise nothing"
        )
        fix = "remove it; or, where one text alone is right, set gates.metric: exact or output.extract"
        yield problem("automation", "automation.max_error", reason, fix)
    if spec.evaluation.engine == "endpoint":
        reason = "an endpoint returns no probabilities here"
        yield problem("automation", "automation.max_error", reason, "remove it, or set evaluation.engine: transformers")


@rule
def check_coverage(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that gains can be judged by the share of rows that a model answers by itself."""
    if not spec.by_coverage:
        return
    gates, key = spec.gates, f"gates.metric: {COVERAGE}"
    if spec.automation.max_error is None:
        reason = "no error is promised at which models could answer by themselves"
        yield problem("coverage", "gates.metric", reason, "set automation.max_error, or another metric")
    if isinstance(spec.output, TextOutput) and not spec.output.extract:
        reason = "free text is neither right nor wrong: no share of it can be answered by itself at a promised error"
        yield problem(
            "coverage", "gates.metric", reason, "use another metric; or, with one right answer, output.extract"
        )
    if spec.automation.unit == "field":
        reason = f"with {key} whole answers are compared: models may answer with different fields, which are not paired"
        yield problem("coverage", "automation.unit", reason, "set automation.unit: answer, or another gates.metric")
    for name, asked in (
        ("min_gain", gates.min_gain > 0),
        ("simple", gates.simple == "not_worse"),
        ("champion", gates.champion == "not_worse"),
    ):
        if asked:
            reason = f"with {key} McNemar's test decides, which shows that more rows are answered, but not how many"
            yield problem("coverage", f"gates.{name}", reason, "remove it, or set another gates.metric")


@rule
def check_constrained_decoding(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that answers are JSON and can be decoded under their schema."""
    key, schema = "evaluation.constrained_decoding", spec.decoded_schema
    if spec.evaluation.constrained_decoding and not isinstance(spec.output, JsonOutput):
        yield problem("constrained_decoding", key, f"answers of kind {spec.output.kind} have no schema", "remove it")
    if schema is None:
        return
    try:
        grammar_of(schema)
    except UnsupportedSchema as error:
        fix = "remove the keyword from the schema, or constrained_decoding"
        yield problem("constrained_decoding", key, str(error), fix)


def _objects(value: object) -> Iterator[dict[str, object]]:
    """Yield every JSON object within a value, including itself."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _objects(part)


@rule
def check_final_answer(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the system prompt shows the form of the final answer, which a base model cannot guess."""
    output = spec.output
    if not isinstance(output, TextOutput) or not output.extract:
        return
    literal = max(re.findall(r"[^\\\[\](){}.*+?^$|]{2,}", output.extract), key=len, default="").strip()
    if literal and literal not in spec.system_prompt:
        message = f"the system prompt does not show how the final answer is marked ({literal!r})"
        fix = "say how to end the answer, or the prompted baseline is unfair"
        yield problem("final_answer", "system_prompt", message, fix, "warning")


@rule
def check_engine(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the engine has an endpoint if needed, that a server can load the method's result, and that served names contain
    the version."""
    evaluation = spec.evaluation
    kind = TRAINING_METHODS[spec.training.method].kind
    if evaluation.engine == "endpoint" and not (kind.plain and kind.generates):
        fix = "set engine: transformers, or another training.method"
        reason = f"a server cannot load a trained {spec.training.method}"
        if kind.plain:
            reason = f"a trained {spec.training.method} does not answer chats, in which the models are asked"
        yield problem("engine", "evaluation.engine", reason, fix)
    if (evaluation.engine == "endpoint") != (evaluation.endpoint is not None):
        state = "the endpoint is unused" if evaluation.endpoint else "endpoint: {url, base, candidate} is missing"
        message = f"engine is {evaluation.engine}, but {state}"
        yield problem("engine", "evaluation.endpoint", message, "set both engine and endpoint")
    for key in ("candidate", "champion"):
        name = getattr(evaluation.endpoint, key, None)
        if name is not None and VERSION not in name:
            message = f"{name!r} is the same name for every version: the model of an earlier run could be evaluated"
            fix = f"include {VERSION}, and serve each model under the name of its version"
            yield problem("endpoint", f"evaluation.endpoint.{key}", message, fix)


@rule
def check_addresses(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that texts and keys are sent encrypted, and to no other machine if the texts must not leave this one."""
    for name, key, endpoint, texts in (
        ("endpoint", "evaluation.endpoint", spec.evaluation.endpoint, "the rows of the test"),
        ("private", "baseline.endpoint", spec.baseline.endpoint, "the rows of the validation and test splits"),
        ("private", "teacher.endpoint", spec.teacher.endpoint if spec.teacher else None, "scrubbed unlabelled rows"),
        ("judge", "evaluation.judge", spec.evaluation.judge, "the rows of the test"),
    ):
        if endpoint is None:
            continue
        if wrong := address_problem(endpoint.url):
            yield problem(name, f"{key}.url", *wrong)
        elif not is_local(endpoint.url):
            message = f"{texts} are sent to {urlsplit(endpoint.url).hostname}"
            fix = "serve the model on this machine if they must not leave it"
            yield problem(name, f"{key}.url", message, fix, "error" if spec.advise.private else "note")


@rule
def check_judge(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the output needs a judge, and that a gate that needs one has one."""
    judge, key = spec.evaluation.judge, "evaluation.judge"
    if judge is None:
        if spec.gates.min_preferred:
            message = f"gates.min_preferred is {spec.gates.min_preferred:g}, but there is no judge"
            yield problem("judge", key, message, "set judge: {url, model}, or set it to 0")
        return
    if spec.labels:
        message = "answers of a label task are right or wrong without a judge"
        yield problem("judge", key, message, "omit it, unless labels overlap in meaning", "note")
    if judge.min_kappa_bound > judge.min_kappa:
        message = f"min_kappa_bound {judge.min_kappa_bound:g} is above min_kappa {judge.min_kappa:g}"
        yield problem("judge", f"{key}.min_kappa_bound", message, "set the bound below kappa itself")


@rule
def check_robustness_rows(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Warn if there are too few perturbed rows for a loss to block a candidate."""
    rows = spec.robustness.rows
    if spec.robustness.action == "block" and 0 < rows < ENOUGH_ROWS:
        message = f"{rows} perturbed rows are too few to keep `champion` where it is, so a loss on them only warns"
        fix = f"set robustness.rows: {ENOUGH_ROWS} or more, or robustness.action: warn"
        yield problem("robustness_rows", "robustness.rows", message, fix, "warning")

"""Sections of task.yaml on evaluation: engine, judge, general ability, robustness and gates."""

import errno
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec.baseline import PATIENCE, ChatEndpointSpec
from finetune_pipeline.spec.looseness import BETTER_THEN_NOT_WORSE, BLOCK_THEN_WARN, HIGHER, LOWER, NEITHER
from finetune_pipeline.spec.outputs import DecidingMetric, Metric, Section, Seed, Share, is_outside

BlockOrWarn = Annotated[Literal["block", "warn"], BLOCK_THEN_WARN]
BetterOrNotWorse = Annotated[Literal["better", "not_worse"], BETTER_THEN_NOT_WORSE]
VERSION = "{version}"
"""Placeholder for the version of ``merged_model`` in the name of a served model."""


class ServedModelsSpec(ChatEndpointSpec):
    """An OpenAI-style endpoint that serves the models. It receives test rows."""

    base: str = Field(description="Served name of the base model.")
    candidate: str = Field(description="Served name; must contain {version}, the version of merged_model.")
    champion: str | None = Field(None, description="Served name of the champion. Unset: like `candidate`.")
    max_tokens: int | None = Field(None, ge=1, description="Maximum tokens per run, prompts included.")


class JudgeSpec(ChatEndpointSpec):
    """A model at an OpenAI-style endpoint that decides which of two answers is better. It receives the texts of the test, and
    with `finetune review TASK --what refined --judge` those of validation. It is used only after people have rated enough pairs
    (`finetune review`), and trusted only if it agrees with them."""

    model: str = Field(min_length=1, description="Name of the judge model; pin a version.")
    rows: int = Field(200, ge=1, description="Test rows to compare; each is asked twice.")
    min_rated: Annotated[int, LOWER] = Field(
        30, ge=10, description="Pairs of different answers people must rate first."
    )
    min_kappa: Annotated[float, LOWER] = Field(
        0.6, gt=0, lt=1, description="Required agreement with people (Cohen's kappa)."
    )
    min_kappa_bound: Annotated[float, LOWER] = Field(0.4, ge=0, lt=1, description="Required lower bound of kappa.")
    min_consistent: Annotated[Share, LOWER] = Field(
        0.8, description="Share of pairs it must judge the same in both orders."
    )
    max_tokens: int = Field(2_000_000, ge=1, description="Maximum tokens per run, prompts and answers.")

    def settings(self) -> dict[str, object]:
        """Return the settings that affect the judge's answers and whether it is trusted."""
        return self.model_dump(exclude=PATIENCE)


class EvaluationSpec(Section):
    """How answers to the test are generated (alike for base, candidate and champion) and compared."""

    engine: Literal["transformers", "endpoint"] = Field(
        "transformers", description="`transformers` (here) or `endpoint` (served by vLLM or any OpenAI-style server)."
    )
    precision: Literal["serving", "float32"] = Field(
        "serving",
        description="With engine: transformers. `serving`: the precision of serving, bfloat16 if the hardware supports it.",
    )
    endpoint: ServedModelsSpec | None = Field(None, description="With engine: endpoint.")
    constrained_decoding: bool = Field(
        False,
        description="With output.kind: json. Decode the trained model's answers under the schema, in the evaluation and in "
        "service; other servers are sent it as `response_format`.",
    )
    judge: JudgeSpec | None = Field(
        None, description="A language model that compares answers (`finetune docs review`)."
    )
    similarity: str | None = Field(
        None,
        min_length=1,
        description="Embedding similarity to the reference answers: `hashed`, `wordllama`, or a folder with static "
        "embeddings.",
    )

    def settings(self) -> list[Any]:
        """Return the settings that affect answers; empty with the default engine."""
        if self.endpoint is None or self.engine != "endpoint":
            return []
        return [self.engine, self.endpoint.model_dump(include={"url", "base", "candidate", "champion", "body"})]


class AutomationSpec(Section):
    """Which answers need no person: those whose probability is above a threshold that the sealed test certifies."""

    max_error: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="Promised largest share of wrong answers among those given without a person; unset: nothing is promised. "
        "Needs answers that are right or wrong: labels, JSON, or text whose deciding metric is exact.",
    )
    unit: Literal["answer", "field"] = Field(
        "answer", description="What is promised of JSON: whole answers, or each field by itself."
    )
    refusal: str | None = Field(
        None,
        min_length=1,
        description="What `finetune serve` says in place of an answer that is passed on; unset: that answer, marked `passed_on`.",
    )
    fallback_seconds: float = Field(
        20.0, gt=0, description="Seconds that `serve --fallback` waits for the model of baseline.endpoint."
    )
    fallback_dollars: float = Field(
        10.0, ge=0, description="Dollars a calendar month (UTC) that `serve --fallback` may spend, by prices.yaml."
    )

    def promised(self) -> dict[str, object]:
        """Return what is promised; empty if nothing is."""
        return {} if self.max_error is None else {"max_error": self.max_error, "unit": self.unit}


class AbilitySpec(Section):
    """General ability: what the model is asked besides its task, before and after training."""

    suite: bool = Field(True, description="Ask the shipped questions and texts.")
    files: list[str] = Field([], description="Globs of JSON Lines benchmarks (`finetune docs evaluation`).")
    rows_per_file: int = Field(200, ge=2, description="Rows per file, chosen by content.")


ENOUGH_ROWS = 60
"""Minimum rows for a loss to block a candidate; with fewer it only warns."""


class RobustnessSpec(Section):
    """Whether the model still answers the sealed rows when lightly perturbed; asked in the same opening of the test."""

    rows: Annotated[int, LOWER] = Field(
        ENOUGH_ROWS,
        ge=0,
        description=f"Test rows asked again with each perturbation. 0: none. With fewer than {ENOUGH_ROWS} a loss only warns.",
    )
    max_drop: Annotated[float, HIGHER] = Field(
        0.1, gt=0, le=1, description="Largest loss of gates.metric that a perturbation may cause."
    )
    action: BlockOrWarn = Field("block", description="`block` keeps `champion` as it is; `warn` only reports.")
    seed: Seed = 0

    def asked(self) -> list[int]:
        """Return the settings that affect answers; empty if no rows are asked."""
        return [self.rows, self.seed] if self.rows else []


class GatesSpec(Section):
    """Requirements for a candidate to become `champion`. Each key states in which direction it becomes looser: the verdict names
    every threshold looser than its default."""

    worth_training: BlockOrWarn = Field(
        "block",
        description="When something simpler is good enough (baseline.ceiling): `block` trains nothing and ships that by the same "
        "gates; `warn` trains and compares.",
    )
    learnable: BlockOrWarn = Field("block", description="`block` or `warn` when the inputs do not predict the answers.")
    metric: Annotated[DecidingMetric | None, NEITHER] = Field(
        None,
        description="Metric that decides. Unset: accuracy for labels; exact for json and output.extract; else rougeLsum. "
        "`coverage`, with automation.max_error: gains are judged by the share of rows answered alone, everything else as if unset.",
    )
    more_metrics: Annotated[list[Metric], NEITHER] = Field(
        [], description="Further metrics in which every gain must be shown."
    )
    min_gain: Annotated[float, LOWER] = Field(
        0.0, ge=0, lt=1, description="Lower bound of the gain over the baseline must exceed this."
    )
    min_score: Annotated[Share | None, NEITHER] = Field(
        None,
        description="Least score in `metric` that you would ship, whatever kind of model wins: its lower bound must reach it. "
        "Unset: not asked.",
    )
    parts: Annotated[list[str], NEITHER] = Field(
        [],
        description="Raw files (globs) whose test rows must also show the gain alone, such as rows by people among "
        "generated ones.",
    )
    wanted_gain: Annotated[float, NEITHER] = Field(
        0.05, gt=0, lt=1, description="Gain worth having; sets how many test rows are needed."
    )
    power: Annotated[float, NEITHER] = Field(0.8, gt=0.5, lt=1, description="Probability of detecting the wanted gain.")
    enough_test_rows: BlockOrWarn = Field(
        "warn", description="`block` or `warn` when the test is too small to show the wanted gain."
    )
    confidence: Annotated[float, LOWER] = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="Level for the first candidate; stricter for later ones (`finetune docs gates`).",
    )
    simple: BetterOrNotWorse = Field(
        "better", description="Against each simple model: `better` or `not_worse` (simple_margin)."
    )
    simple_margin: Annotated[float, HIGHER] = Field(
        0.02, gt=0, lt=1, description="Largest loss allowed with simple: not_worse."
    )
    champion: BetterOrNotWorse = Field(
        "better", description="Against the champion: `better`, or `not_worse` (champion_margin) and ahead on the test."
    )
    champion_margin: Annotated[float, HIGHER] = Field(
        0.02, gt=0, lt=1, description="Largest loss allowed with champion: not_worse."
    )
    max_regression: Annotated[Share, HIGHER] = Field(
        0.2, description="Largest share of the champion's correct rows the candidate may get wrong (upper bound)."
    )
    teacher_margin: Annotated[float, HIGHER] = Field(
        0.02, gt=0, lt=1, description="With a teacher: largest loss allowed against it."
    )
    never_break: Annotated[list[str] | str, NEITHER] = Field(
        [], description="Ids of test examples that must be right, or a file with one id per line."
    )
    max_ability_loss: Annotated[float, HIGHER] = Field(
        0.1, gt=0, le=1, description="Loss of general ability (accuracy) to be ruled out."
    )
    max_text_loss: Annotated[float, HIGHER] = Field(
        0.5, gt=0, description="Allowed relative increase of the bits per byte on plain text."
    )
    min_rated: Annotated[int, LOWER] = Field(
        0, ge=0, description="Randomly drawn answers people must have rated. 0: none."
    )
    min_accepted: Annotated[Share, LOWER] = Field(0.8, description="With min_rated: lower bound of the accepted share.")
    min_preferred: Annotated[Share, LOWER] = Field(
        0.0,
        description="Lower bound of the share of decided pairs in which the judge prefers the candidate. 0: not used.",
    )
    min_valid_share: Annotated[Share, LOWER] = Field(
        0.95, description="Lower bound of the share of answers in the declared format."
    )
    parity_min_agreement: Annotated[Share, LOWER] = Field(
        0.9, description="Required share of equal answers of trained and served model."
    )

    def never_break_ids(self, folder: Path) -> list[str]:
        """Return the distinct ids of never_break, sorted; in a file of the task folder, one per line, `#` begins a comment.
        Raises FindingsError if the file is missing or not UTF-8."""
        names = self.never_break
        if isinstance(names, str):
            try:
                if is_outside(names, folder):
                    raise PermissionError(errno.EPERM, "it is outside the task folder")
                lines = (folder / names).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                message = f"{names} cannot be read: {reason}"
                fix = "name a file in the task folder with one example id per line, or list the ids"
                place = "task.yaml: gates.never_break"
                raise FindingsError([Finding("spec.never_break", "error", place, message, fix)]) from error
            names = [line.partition("#")[0] for line in lines]
        return sorted({name.strip() for name in names if name.strip()})

"""Sections of task.yaml about evaluation: what runs the models, a judge, general ability, robustness, and the gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec.baseline import PATIENCE, ChatEndpointSpec
from finetune_pipeline.spec.outputs import Metric, Section, Share

VERSION = "{version}"
"""Stands for the version of ``merged_model`` in the name of a served model."""


class ServedModelsSpec(ChatEndpointSpec):
    """An OpenAI-style endpoint that serves the models. Test rows are sent there."""

    base: str = Field(description="Name under which the base model is served.")
    candidate: str = Field(
        description="Name under which the candidate is served. It must hold {version}, which becomes the version of "
        "merged_model, so that a model of yesterday is not taken for today's."
    )
    champion: str | None = Field(None, description="The same for the champion. Unset: as `candidate`.")
    max_tokens: int | None = Field(None, ge=1, description="Tokens that may be spent in a run, prompts included.")


class JudgeSpec(ChatEndpointSpec):
    """A model behind an OpenAI-style endpoint that says which of two answers is better. The texts of the test go there.

    It is asked only once people have rated enough pairs (`finetune review`), and believed only if it agrees with them.
    """

    model: str = Field(min_length=1, description="Name of the judging model there; best one that is pinned.")
    rows: int = Field(200, ge=1, description="Test rows it compares at most, drawn by their id; each is asked twice.")
    min_rated: int = Field(30, ge=10, description="Pairs of different answers that people must have rated first.")
    min_kappa: float = Field(0.6, gt=0, lt=1, description="Agreement with people beyond chance (Cohen's kappa).")
    min_kappa_bound: float = Field(0.4, ge=0, lt=1, description="What the lower bound of kappa must reach.")
    min_consistent: Share = Field(0.8, description="Share of pairs it must judge alike when the answers change places.")
    max_tokens: int = Field(2_000_000, ge=1, description="That a run may spend, of prompts and answers together.")

    def settings(self) -> dict[str, Any]:
        """The part of this that the judge's answers and whether it is believed depend on."""
        return self.model_dump(exclude=PATIENCE)


class EvaluationSpec(Section):
    """How the answers to the test are made (base, candidate and champion all in the same way), and who compares them."""

    engine: Literal["transformers", "endpoint"] = Field(
        "transformers",
        description="`transformers`: in float32, on any machine. `endpoint`: the models as they are served, by vLLM or "
        "anything else that speaks OpenAI's protocol.",
    )
    endpoint: ServedModelsSpec | None = Field(None, description="With engine: endpoint.")
    judge: JudgeSpec | None = Field(
        None,
        description="A language model that compares base and candidate, believed only if it agrees with people "
        "(docs/evaluation.md); none unless given.",
    )
    similarity: str | None = Field(
        None,
        min_length=1,
        description="Likeness to the reference answers by embeddings: `hashed`, `wordllama`, or a folder with static "
        "embeddings. Not measured unless given.",
    )

    def settings(self) -> list[Any]:
        """The part of this that the answers depend on; nothing with the default engine."""
        if self.endpoint is None or self.engine != "endpoint":
            return []
        return [self.engine, self.endpoint.model_dump(include={"url", "base", "candidate", "champion", "body"})]


class HarnessSpec(Section):
    """Tasks of lm-evaluation-harness, run offline (the optional extra `harness`)."""

    tasks: list[str] = Field(
        default_factory=list,
        description="Globs of task files (.yaml, as lm-evaluation-harness writes them) or of folders that hold some, relative "
        "to the task folder. Their rows lie in local files: dataset_path json, csv, parquet or text with data_files.",
    )
    limit: int = Field(
        100, ge=2, description="At most so many rows of each task: the first ones, as lm_eval's --limit."
    )
    chat: bool = Field(False, description="Ask through the model's chat template, as lm_eval's --apply_chat_template.")


class AbilitySpec(Section):
    """General ability: what the model is asked besides its task, before and after training."""

    suite: bool = Field(True, description="Ask the items that ship: questions of seven kinds, and plain text.")
    files: list[str] = Field(
        default_factory=list,
        description="Globs of JSON Lines files of benchmarks, relative to the task folder; rows of {query, choices, gold}, "
        "{context, continuation}, {text} or {prompt, answer, others}.",
    )
    rows_per_file: int = Field(200, ge=2, description="At most so many rows of each file, chosen by their content.")
    harness: HarnessSpec = HarnessSpec()


ENOUGH_ROWS = 60
"""Rows on which a loss may hold a candidate back. On fewer it only warns."""


class RobustnessSpec(Section):
    """The same sealed rows, lightly perturbed: does the model still answer them? Asked in the same opening of the test."""

    rows: int = Field(
        ENOUGH_ROWS,
        ge=0,
        description="Test rows that are asked again with each perturbation, drawn by seed and id. 0: none. On fewer than "
        f"{ENOUGH_ROWS} a loss only warns.",
    )
    max_drop: float = Field(
        0.1,
        gt=0,
        le=1,
        description="How much of gates.metric a perturbation may cost; a larger drop that is surely a loss is too much.",
    )
    action: Literal["warn", "block"] = Field(
        "block",
        description="What to do when typing errors, another case or a greeting and thanks cost more: only warn, or keep "
        "`champion` where it is.",
    )
    seed: int = Field(0, ge=0)

    def asked(self) -> list[int]:
        """The part of this that answers depend on; nothing where nothing is asked."""
        return [self.rows, self.seed] if self.rows else []


class GatesSpec(Section):
    """What a candidate must show before `champion` moves."""

    worth_training: Literal["block", "warn"] = Field(
        "block", description="What to do when something simpler is surely good enough (baseline.ceiling)."
    )
    learnable: Literal["block", "warn"] = Field(
        "block", description="What to do when the answers cannot be told from the inputs."
    )
    metric: Metric | None = Field(
        None,
        description="What the comparison is decided by. Unset: accuracy for labels; exact for json, and for text with "
        "output.extract; rougeLsum for other text.",
    )
    more_metrics: list[Metric] = Field(
        default_factory=list,
        description="Further metrics in which the gain must be shown too, each at a level corrected for their number "
        "(Holm).",
    )
    min_gain: float = Field(
        0.0, ge=0, lt=1, description="The interval of the gain over the baseline must lie above this."
    )
    wanted_gain: float = Field(
        0.05, gt=0, lt=1, description="The gain worth having; before training it is told how many test rows show it."
    )
    power: float = Field(0.8, gt=0.5, lt=1, description="Chance with which the wanted gain should be found.")
    enough_test_rows: Literal["block", "warn"] = Field(
        "warn", description="What to do when the test set is too small to show the wanted gain."
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="Of the first candidate's intervals. Every further candidate that one test set judges meets a stricter "
        "level (docs/gates.md), so that all of them together are wrongly promoted less often than 1 - confidence.",
    )
    simple: Literal["better", "not_worse"] = Field(
        "better",
        description="What a candidate must show against each model without a language model: that it is better, or (where "
        "you want one model for other reasons) that it loses less than simple_margin.",
    )
    simple_margin: float = Field(
        0.02, gt=0, lt=1, description="With simple: not_worse, the loss that must be ruled out."
    )
    champion: Literal["better", "not_worse"] = Field(
        "better",
        description="What a candidate must show against the champion: that it is better, or that it loses less than "
        "champion_margin and is ahead on the test rows. A tie never promotes.",
    )
    champion_margin: float = Field(
        0.02, gt=0, lt=1, description="With champion: not_worse, the loss that must be ruled out."
    )
    max_regression: Share = Field(
        0.2,
        description="Upper bound of the share of rows the champion has right and the candidate gets wrong, of those the "
        "champion has right.",
    )
    never_break: list[str] | str = Field(
        default_factory=list,
        description="Ids of test examples the candidate must have right, or a file in the task folder with one id a line.",
    )
    max_ability_loss: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Accuracy on questions besides the task that may be lost: a larger loss must be ruled out by the interval. "
        "The questions that ship cannot rule out less than about 5 points.",
    )
    max_text_loss: float = Field(
        0.5, gt=0, description="By how much more plain text may cost the model, as a share of its bits a byte before."
    )
    min_rated: int = Field(0, ge=0, description="Answers drawn at random that people must have judged. 0: none.")
    min_accepted: Share = Field(
        0.8, description="With min_rated: lower bound of the share of these answers that people accept."
    )
    min_preferred: Share = Field(
        0.0,
        description="Lower bound of the share of decided pairs in which evaluation.judge prefers the candidate to the base. "
        "0: it decides nothing.",
    )
    min_valid_share: Share = Field(0.95, description="Lower bound of the share of answers in the declared form.")
    parity_min_agreement: Share = Field(
        0.9,
        description="What was trained and what is served must give the same answers this often. Rounding to 16 bits may flip near "
        "ties; the divergence limit is the sharp part of the comparison.",
    )

    def never_break_ids(self, folder: Path) -> list[str]:
        """The ids of never_break, sorted, each once; in a file of the task folder one a line, `#` begins a comment.

        Raises:
            FindingsError: The file is missing or not UTF-8.
        """
        names = self.never_break
        if isinstance(names, str):
            try:
                lines = (folder / names).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                message = f"{names} cannot be read: {reason}"
                fix = "give a file of the task folder with one example id a line, or the ids themselves as a list"
                place = "task.yaml: gates.never_break"
                raise FindingsError([Finding("spec.never_break", "error", place, message, fix)]) from error
            names = [line.partition("#")[0] for line in lines]
        return sorted({name.strip() for name in names if name.strip()})

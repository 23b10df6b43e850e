"""The parts of a card that rest on measurements: the report's own tables and sentences, without a row of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.wording import counted, is_number, number, percent, percent_range
from finetune_pipeline.report import background, besides_task, evidence, metric_tables, sentences, tables
from finetune_pipeline.report.markdown import plain, write_table
from finetune_pipeline.report.tables import Table

Evaluation = Mapping[str, Any]
Manifest = Mapping[str, Any]
_SHOWN = 8


def verdict(evaluation: Evaluation, gates: Sequence[GateResult]) -> list[str]:
    """The answer of the gates, first of all where it is no."""
    answer, sentence = sentences.verdict_sentences(evaluation, gates)
    told = f"{plain(answer)} {plain(sentence)}"
    if all(gate.passed for gate in gates) and gates:
        return [f"> {told}"]
    return [
        "> **This model did not pass its gates. It is not meant to go into service.**\n>\n" + f"> {told}",
    ]


def training_data(manifest: Manifest, evaluation: Evaluation | None) -> list[str]:
    """Counts, what was scrubbed, and whose the rows are."""
    card = manifest["card"]
    parts = []
    if card["datasets"]:
        parts.append(f"Made from {', '.join(map(plain, card['datasets']))}.")
    if card["data_licenses"]:
        parts.append(f"Licences of the rows: {'; '.join(map(plain, card['data_licenses']))}.")
    elif evaluation:
        parts.append("The licences of the rows were not declared.")
    parts.append(
        f"Version of the split data: `{manifest['artifacts']['dataset']}`. The rows are not part of this folder."
    )
    if evaluation:
        data = evaluation["data"]
        parts += [
            write_table(tables.stages_table(data)),
            write_table(tables.splits_table(data, evaluation["task"]["labels"])),
            _origins(data),
            *map(plain, background.scrubbed_sentences(evaluation)),
            *map(plain, background.leak_sentences(evaluation)),
        ]
    return parts


def _origins(data: Mapping[str, Any]) -> str:
    """Who wrote the training rows."""
    origins = ((data.get("splits") or {}).get("origins") or {}).get("train") or {}
    told = ", ".join(f"{number(n)} {name}" for name, n in origins.items() if is_number(n))
    return f"Origin of the training rows: {told}." if told else ""


def training(manifest: Manifest, evaluation: Evaluation | None) -> list[str]:
    """Settings as they were given, and what came of them."""
    rows = [[key, _setting(value)] for key, value in _flat(manifest["training"])]
    parts = [write_table(Table(["Setting", ""], rows, "ll"))]
    if evaluation:
        parts += [
            write_table(tables.training_table(evaluation["training"])),
            plain(sentences.curve_sentence(evaluation["training"])),
        ]
    return parts


def _flat(told: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in told.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            rows.append((f"{prefix}{key}", value))
    return rows


def _setting(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else number(value)


def quality(evaluation: Evaluation, gates: Sequence[GateResult]) -> list[str]:
    """Every model on the sealed test with intervals, the paired comparison, and every gate."""
    return [
        f"On {counted(evaluation['n'], 'row')} of the task that neither training nor any choice has seen. Intervals are at "
        f"{sentences.level(evaluation)}; all models answered the same rows, and each was compared row by row.",
        write_table(tables.models_table(evaluation, "test")),
        write_table(tables.comparisons_table(evaluation)),
        plain(sentences.pair_sentence(evaluation["comparisons"]["baseline"], "the base model")),
        *map(plain, sentences.caveats(evaluation)),
        *map(plain, sentences.format_gap_sentences(evaluation)),
        *([write_table(tables.per_class_table(evaluation))] if evaluation["task"]["labels"] else []),
        *[write_table(table) for table in metric_tables.metric_tables(evaluation)],
        write_table(metric_tables.calibration_table(evaluation)),
        plain(sentences.seal_sentence(evaluation)),
        *map(plain, evidence.level_sentences(evaluation)),
        "### Gates",
        write_table(tables.gates_table(gates)),
        *_people(evaluation),
    ]


def _people(evaluation: Evaluation) -> list[str]:
    told = evaluation.get("people") or {}
    if not told.get("rated"):
        return ["No person has judged its answers."]
    return [
        "### Judgement by people",
        *map(plain, besides_task.people_sentences(told, evaluation["task"]["name"])[:-1]),
    ]


def limits(evaluation: Evaluation) -> list[str]:
    """How it fails, what it lost, and how small a test would not have shown it. Kinds of mistakes only: the examples
    and their words are rows of the sealed test."""
    atlas, n = evaluation["atlas"], evaluation["n"]
    kinds: Counter[str] = Counter()
    for group in atlas["groups"]:
        kinds[group["title"] + (f": {group['detail']}" if group["detail"] else "")] += group["count"]
    rows = [[title, number(count), percent(count / n)] for title, count in kinds.most_common(_SHOWN)]
    left = len(kinds) - len(rows)
    valid = evaluation["scores"]["candidate"]["valid"]
    told = evaluation["regressions"]["total"]
    return [
        "It was measured on rows like those it was trained on. For other inputs, other languages and other lengths nothing "
        "is known but what stands here.",
        f"{counted(atlas['wrong'], 'answer')} of {number(n)} were wrong."
        + (f" The largest groups{f' (of {len(kinds)})' if left else ''}:" if rows else ""),
        write_table(Table(["Mistake", "Rows", "Of all"], rows, "lrr")) if rows else "",
        f"{percent(valid['share'])} of the answers ({percent_range(valid['interval'])}) have the declared form.",
        f"{counted(told, 'row')} that the base model with its best prompt has right this one gets wrong.",
        plain(sentences.visible_sentence(evaluation["comparisons"]["baseline"])),
    ]


def ability(evaluation: Evaluation) -> list[str]:
    """General ability before and after training."""
    told = evaluation.get("ability")
    return [*map(plain, besides_task.ability_sentences(told)), write_table(besides_task.ability_table(told))]


def cost(evaluation: Evaluation) -> list[str]:
    """Time, memory and tokens, as measured. Energy was not."""
    return [
        *map(plain, background.cost_sentences(evaluation)),
        write_table(background.cost_table(evaluation)),
        write_table(background.tokens_table(evaluation)),
        "Energy was not measured.",
    ]


def lineage(manifest: Manifest, evaluation: Evaluation | None) -> list[str]:
    """Hashes of everything this model was made from and judged by."""
    base, artifacts, parity = manifest["base_model"], manifest["artifacts"], manifest["parity"]
    rows = [["base model", base["id"] + (f" at {base['revision']}" if base["revision"] else "")]]
    rows += [[f"base: {name}", f"SHA-256 {digest}"] for name, digest in sorted(base["weights"].items())]
    rows += [[name.replace("_", " "), str(value)] for name, value in artifacts.items() if value]
    versions = (evaluation or {}).get("versions") or {}
    rows += [
        [name.replace("_", " "), str(value)] for name, value in versions.items() if value and name not in artifacts
    ]
    rows += [[f"library {name}", value] for name, value in manifest["versions"].items()]
    return [
        write_table(Table(["What", "Version"], rows, "ll")),
        f"What is served and what was trained give the same greedy answer on {parity['same_greedy_share']:.1%} of "
        f"{parity['rows']} rows; mean divergence {parity['mean_kl']:.1e} nats a token.",
    ]

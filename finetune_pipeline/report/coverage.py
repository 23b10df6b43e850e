"""Says and shows which share of rows models answer by themselves, where gains are judged by it (gates.metric: coverage)."""

from finetune_pipeline.evaluation.predictions import CANDIDATE, CHAMPION, SIMPLE, row_name
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.rivals import MODE_TITLES
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import capital, percent, points, points_range
from finetune_pipeline.report.blocks import Format, Table, text
from finetune_pipeline.spec.outputs import COVERAGE


def shares_alone(evaluation: EvaluationResult, judged: str, promised: bool) -> str:
    """Return which share of rows a model and its strongest rivals answer by themselves, with a blank before it; empty unless gains
    are judged by it.

    Args:
        judged: The model's row of EvaluationResult.models.
        promised: Whether its own share was said just before.
    """
    shares = {name: row.coverage for name, row in evaluation.models.items() if row.coverage is not None}
    own = shares.pop(judged, None)
    if own is None or evaluation.gate_settings.get("metric") != COVERAGE:
        return ""
    kinds = {
        "the champion": [CHAMPION],
        "the fine-tuned model": [CANDIDATE],
        "the best prompt": [row_name("prompt", None, mode) for mode in ("free", "restricted")],
        f"the best {'other ' if judged.startswith(SIMPLE) else ''}simple model": [
            n for n in shares if n.startswith(SIMPLE)
        ],
    }
    measured = {kind: [shares[name] for name in names if name in shares] for kind, names in kinds.items()}
    said = [(kind, percent(max(of_kind))) for kind, of_kind in measured.items() if of_kind]
    if not promised:
        said.insert(0, ("it", percent(own)))
    sentence = ", ".join(f"{kind} {'answers ' if not i else ''}{share}" for i, (kind, share) in enumerate(said))
    return f" {capital(sentence)} by itself." if said else ""


def coverage_table(evaluation: EvaluationResult) -> Table | None:
    """Show which share of rows the fine-tuned model answers by itself, and each rival; None unless gains are judged by it."""
    columns: list[tuple[str, Format]] = [("Answered alone, against", text), ("Fine-tuned", percent), ("Other", percent)]
    columns += [("Gain", points), ("Interval", points_range), ("Level", percent), ("Surely more", text)]
    decided, modes = evaluation.decisions, {"free": "", "restricted": MODE_TITLES["restricted"]}
    sides = (
        ({mode: f"base model with its best prompt{title}" for mode, title in modes.items()}, decided.baseline),
        ({name: model.title for name, model in SIMPLE_MODELS.items()}, decided.simple),
        ({"champion": "champion in service"}, decided.champion),
    )
    rows = [
        [titles[g.rival], g.alone, g.rival_alone, g.gain, g.interval, g.confidence, "yes" if g.shown else "no"]
        for titles, decision in sides
        for g in (decision.gains if decision else ())
        if g.metric == COVERAGE
    ]
    return Table(columns, rows) if rows else None

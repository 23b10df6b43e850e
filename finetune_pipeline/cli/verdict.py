"""The short verdict at the end of a run."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.cli.state import Project
from finetune_pipeline.engine.store import read_json
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.metrics import metric_title
from finetune_pipeline.report.verdict import gate_counts


def gate_line(gate: dict[str, Any]) -> str:
    """A gate of gates.json in a line: yes, NO, warn (it says no and holds nothing back) or `–` (not asked)."""
    answer = {"passed": "yes", "failed": "NO", "warned": "warn", "not_asked": "–"}[gate["status"]]
    return f"  {answer:<4} {gate['name']}: {gate['message']}"


def _share(value: Any, interval: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    told = f"{value:.3f}"
    return told + (f"  ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _data_lines(project: Project) -> list[str]:
    made = project.artifacts()
    facts = {name: artifact.facts for name, artifact in made.items() if artifact}
    lines = ["rows"]
    v, c, r, s = (facts.get(n) for n in ("validated_examples", "clean_examples", "reviewed_examples", "splits"))
    if v:
        lines.append(f"  validated  {v['rows_in']:>6} in = {v['kept']} kept + {v['quarantined']} in quarantine")
    if c:
        lines.append(
            f"  clean      {c['rows_in']:>6} in = {c['kept']} kept + {c['exact_duplicates']} exact and "
            f"{c['near_duplicates']} near duplicates + {c['quarantined']} in contradictions"
        )
    if r:
        lines.append(f"  reviewed   {r['rows_in']:>6} in = {r['kept']} kept + {r['dropped']} dropped")
    if s:
        n = s["counts"]
        lines.append(
            f"  splits     {s['rows_in']:>6} in = {n['train']} train + {n['validation']} validation + "
            f"{n['test']} sealed test" + (f" + {s['quarantined']} in quarantine" if s["quarantined"] else "")
        )
    return lines


def verdict_lines(project: Project) -> list[str]:
    """Rows in and out, the models side by side, the gates, and where everything is."""
    lines = _data_lines(project)
    report = project.artifacts()["evaluation_report"]
    if report is None:
        return [*lines, "", f"not evaluated yet: run `finetune run {project.task.name}`"]
    metric = metric_title(project.task.spec.metric)
    lines += ["", f"{metric}, with {project.task.spec.gates.confidence:.0%} intervals"]
    width = max(len(m["title"]) for m in report.facts["models"].values())
    for model in report.facts["models"].values():
        score = _share(model.get("value"), model.get("value_interval"))
        lines.append(f"  {model['title']:<{width}}  {model['set']:<10}  n={model['n']:<4} {score}")
    gates = [GateResult.from_dict(gate) for gate in read_json(report.path("gates.json"))]
    lines += ["", f"gates: {gate_counts(gates)}", *(gate_line(gate.to_dict()) for gate in gates)]
    serving = f"version {project.serving}" if project.serving else "none"
    lines += [
        "",
        report.facts["verdict"],
        f"champion in MLflow: {serving}",
        "",
        f"report      {report.path('report.html')}",
        f"            finetune report {project.task.name} --markdown   shows it here",
        "Dagster UI  http://127.0.0.1:3000   opened by: make ui",
        f"MLflow UI   {project.tracking.page()}   opened by: make ui",
    ]
    return lines

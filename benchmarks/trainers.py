"""One task trained by every trainer (this machine, a Ray cluster, an OpenAI-compatible service, Together), as a table.

    python -m benchmarks.trainers [--out benchmarks/results/DATE-trainers.md]

The services are the tests' protocol servers, called by the real SDKs. They return the adapter that this machine trained, so
every trainer should reach the same score. Ray is a real cluster on this machine.
"""

import argparse
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import read_json
from finetune_pipeline_tests.graph.project import Project, easy_rows
from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.ray_cluster import local_cluster
from finetune_pipeline_tests.service_server import KEY
from finetune_pipeline_tests.together_server import TogetherServer, adapter_archive
from finetune_pipeline_tests.unit.trainers.orders import QUICK

TRAINING = {"method": "lora", "epochs": 2, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 1e-3}
HEAD = (
    "trainer",
    "result",
    "steps",
    "train loss",
    "tokens billed",
    "dollars",
    "parity",
    "test accuracy",
    "verdict",
)


def project_for(root: Path, trainer: str, base: Path | None, **sections: Any) -> Project:
    training = {**TRAINING, "precision": "float32", "trainer": trainer, **sections}
    project = Project(root / trainer, base=base, cold=True, training=training)
    project.write_rows(easy_rows(240))
    return project


def adapter_files(project: Project) -> dict[str, bytes]:
    folder = project.artifact("adapter") / "adapter"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def row_of(name: str, project: Project) -> list[str]:
    """Run the whole graph. Returns the row of the table."""
    code, answer = project.run()
    assert answer.get("decision"), f"{name}: {answer}"
    facts, measured = project.facts("adapter"), read_json(project.artifact("adapter") / "measured.json")
    report = project.facts("evaluation_report")
    candidate = report["models"]["candidate"]
    losses = [line["loss"] for line in facts.get("history", []) if line.get("loss") is not None]
    parity = project.facts("merged_model").get("parity") or {}
    cells = (
        name,
        facts.get("returns", "weights"),
        facts.get("steps", "–"),
        f"{losses[-1]:.3f}" if losses else "–",
        measured.get("billed_tokens", "–"),
        measured.get("dollars", "–"),
        "yes" if parity.get("passed") else "NO",
        f"{candidate['value']:.3f} of {candidate['n']}",
        f"{answer['decision']} (exit code {code})",
    )
    return [str(cell) for cell in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ |= {"NEBIUS_API_KEY": KEY, "TOGETHER_API_KEY": KEY}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        local = project_for(root, "local", None)
        base = root / "local" / "base"
        rows = [row_of("local", local)]
        with local_cluster() as cluster:
            on_ray = project_for(root, "ray", base, ray={"address": cluster.address})
            rows.append(row_of("ray, a cluster on this machine", on_ray))
        nebius, together = OpenAiJobsServer(nebius=True), TogetherServer()
        nebius.adapter, together.archive = adapter_files(local), adapter_archive(adapter_files(local))
        section = {**QUICK, "profile": "nebius", "model": "org/tiny", "base_url": nebius.url}
        with nebius:
            rows.append(row_of("openai, profile nebius", project_for(root, "openai", base, openai=section)))
        section = {**QUICK, "model": "org/tiny", "base_url": together.address}
        with together:
            rows.append(row_of("together", project_for(root, "together", base, together=section)))
    lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows)]
    title = f"One task, four trainers, {datetime.now(UTC):%Y-%m-%d}. `python -m benchmarks.trainers`"
    text = "\n".join([title, "", *lines])
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""Every rival, the best prompt, LoRA and the classifier on shipped tasks and public sets, and what the pipeline ships.

    python -m benchmarks.winners DIR PUBLIC BASE [--only NAME,…] [--advice]

PUBLIC: folder of the public sets (see public_sets.py). BASE: a base model as in task.yaml, such as
bundled/smollm2-135m-instruct. Each set becomes two projects with the same rows: one trains `method: lora`, the other, for
labels, `method: classifier`. Each is run by `finetune run` until its sealed test, with settings that are the same for all sets
(SPEC). Finished sets are read from DIR, so an interrupted run continues. Prints for each model its score on the sealed test in
the metric that decides, its 95% interval, CPU seconds of training and milliseconds of one call alone, and for each project what
it ships, and the advice before training. --advice: gives the advice alone, without training. An encoder takes part where its
package is installed.

Measures: finetune_pipeline/evaluation, finetune_pipeline/training, finetune_pipeline/baseline.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.example_sets import INTENTS, SHIPPED, example_set
from benchmarks.finetune_command import finetune
from benchmarks.full_reports import weather
from benchmarks.training_tasks import run_job
from finetune_pipeline.data.examples import examples_of, sample_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.store import MANIFEST
from finetune_pipeline.evaluation.prompts import read_prompts
from finetune_pipeline.jobs import LatencyJob

TRAIN, VALIDATION, TEST = 500, 125, 250
"""Rows of each part, as far as a set has them."""
ROWS = TRAIN + VALIDATION + TEST
CALLS = 15
WEATHER = "snips-weather"
SETS = (
    "snips",
    "order_intake",
    "sst2",
    "ticket_triage",
    WEATHER,
    "trec6",
    "clinc150-domains",
    INTENTS,
    "llms-from-scratch-instr",
    "bitext-intent",
    "tweet-irony",
    "sms-spam",
)
SPEC: dict[str, Any] = {
    "data": {"min_examples": 50, "min_per_label": 2},
    "split": {"validation": VALIDATION / ROWS, "test": TEST / ROWS},
    "baseline": {"rows": 60, "shots": [0, 4], "encoder": "bundled/minilm"},
    "ability": {"suite": False},
    "robustness": {"rows": 0},
    "gates": {"worth_training": "warn", "learnable": "warn", "enough_test_rows": "warn"},
}
TRAINING = {"epochs": 2, "learning_rate": 0.001, "max_tokens": 1024}
"""Settings of all sets and both methods. The gates before training only warn, so that every model is trained."""


@dataclass(frozen=True)
class Line:
    """A model on a set's sealed test. score, low and high: in percent. cpu_seconds: of training; None: it is not trained."""

    model: str
    score: float
    low: float
    high: float
    cpu_seconds: float | None
    milliseconds: float | None


@dataclass(frozen=True)
class Measured:
    """The models of a project, what it ships and why, and the advice before. rows: of training, validation and test."""

    metric: str
    rows: list[int]
    lines: list[Line]
    ships: str
    why: str
    advice: str


def methods_of(kind: str) -> tuple[str, ...]:
    return ("lora", "classifier") if kind == "labels" else ("lora",)


def rows_and_spec(name: str, public: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return at most ROWS raw rows of a set, and its part of task.yaml."""
    if name == WEATHER:
        rows, spec = weather(public, ROWS)
        return list(rows), {key: spec[key] for key in ("description", "system_prompt", "output")}
    source = example_set(name, public)
    sample = sample_examples(source.rows, ROWS, "winners")
    output = source.spec.output.model_dump(mode="json", by_alias=True)
    prompt = source.spec.system_prompt or ""
    if output["kind"] == "labels":
        output["labels"] = sorted({e.answer for e in sample})
        raw = [{"text": e.user_text, "label": e.answer, **({"group": e.group} if e.group else {})} for e in sample]
        if not (SHIPPED / name).is_dir():
            prompt = f"Answer with exactly one label and nothing else. Labels: {', '.join(output['labels'])}"
    else:
        if output["kind"] == "text":
            output["max_new_tokens"] = 48
            prompt = "Answer the user. Write the answer and nothing else."
        raw = [{"prompt": e.user_text, "completion": e.answer} for e in sample]
    return raw, {"description": name, "system_prompt": prompt, "output": output}


def write_projects(name: str, public: Path, base: str, data: Path) -> list[str]:
    """Write a set's projects, unless they exist. Returns their methods."""
    first = data / project_name(name, "lora") / "task.yaml"
    if not first.exists():
        rows, own = rows_and_spec(name, public)
        for method in reversed(methods_of(own["output"]["kind"])):
            project = project_name(name, method)
            (data / project / "raw").mkdir(parents=True, exist_ok=True)
            write_rows(data / project / "raw" / "rows.jsonl", rows)
            spec = {"name": project, "base_model": base, **own, **SPEC, "training": {"method": method, **TRAINING}}
            text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
            (data / project / "task.yaml").write_text(text, "utf-8")
    return list(methods_of(yaml.safe_load(first.read_text("utf-8"))["output"]["kind"]))


def project_name(name: str, method: str) -> str:
    return f"{name.replace('-', '_')}_{method}"


def milliseconds(steps: dict[str, dict[str, str]], prompt: str, tokens: int, out: Path) -> dict[str, float]:
    """Return the median time of a call of the base model with a prompt of its baseline, and of the trained model."""
    folders = {name: Path(step["folder"]) for name, step in steps.items()}
    prompts = read_prompts(folders["few_shot_baseline"])
    models = {"prompt": ("base_model", prompt), "trained": ("merged_model", "zero_shot")}
    times = {}
    for model, (step, name) in models.items():
        job = LatencyJob(
            model=folders[step],
            prompts={model: prompts[name]},
            examples=examples_of(folders["splits"], "validation"),
            train=examples_of(folders["splits"], "train"),
            passages=folders["few_shot_baseline"] / "passages.jsonl",
            max_new_tokens=tokens,
            precision="serving",
            calls=CALLS,
            out=out / model,
        )
        run_job(job, job.out)
        times[model] = float(read_json(job.out / "measured.json")["latency"][model]["p50"])
    return times


def measure(project: str, method: str, work: Path) -> Measured:
    """Ask for advice, run a project and read its results."""
    advice = advice_of(project, work)
    run = finetune(work, "run", project).content
    if "steps" not in run:
        raise RuntimeError(f"{project}: the run stopped: {str(run)[:1000]}")
    steps = run["steps"]
    report = read_json(Path(steps["evaluation_report"]["folder"]) / "report.json")
    prompt = next(finalist for finalist in report["finalists"] if finalist["kind"] == "prompt")
    spec = yaml.safe_load((work / "data" / project / "task.yaml").read_text("utf-8"))
    tokens = spec["output"].get("max_new_tokens", 12)
    times = milliseconds(steps, prompt["name"], tokens, work / "latency" / project)
    trained = report["cost"]["steps"]["adapter"]["cpu_seconds"]
    lines = []
    for name, model in report["models"].items():
        if name.startswith("simple_"):
            cost = report["cost"]["simple"].get(name.removeprefix("simple_"), {})
            lines.append(_line(name.removeprefix("simple_"), model, cost.get("fit_seconds"), cost.get("p50")))
    base = "base_restricted" if prompt["mode"] == "restricted" else "base"
    lines.append(_line(f"prompt ({prompt['name']}, {prompt['mode']})", report["models"][base], None, times["prompt"]))
    lines.append(_line(method, report["models"]["candidate"], trained, times["trained"]))
    parts = ("train", "validation", "test")
    counts = read_json(Path(steps["splits"]["folder"]) / MANIFEST)["facts"]["counts"]
    winner = report["winner"]
    rows, ships = [counts[part] for part in parts], winner.get("title") or "nothing"
    return Measured(report["metric"], rows, lines, ships, winner["why"], advice)


def advice_of(project: str, work: Path) -> str:
    """Return what `finetune advise` says before training, with the deciding reason."""
    return str(finetune(work, "advise", project).content["sentence"])


def _line(name: str, model: dict[str, Any], cpu_seconds: float | None, call: float | None) -> Line:
    low, high = model["value_interval"]
    return Line(name, 100 * model["value"], 100 * low, 100 * high, cpu_seconds, call)


def measured_of(name: str, work: Path) -> dict[str, Measured]:
    """Read the finished projects of a set, by method."""
    measured = {}
    for method in ("lora", "classifier"):
        path = work / "results" / f"{project_name(name, method)}.json"
        if path.exists():
            fields = read_json(path)
            measured[method] = Measured(**fields | {"lines": [Line(**line) for line in fields["lines"]]})
    return measured


def table(name: str, measured: dict[str, Measured]) -> Iterator[str]:
    """Yield a set's lines. Simple models and prompts are those of the first project."""
    lines = [line for number, m in enumerate(measured.values()) for line in (m.lines if number == 0 else m.lines[-1:])]
    first = next(iter(measured.values()))
    train, validation, test = first.rows
    yield f"{name}: {train} training, {validation} validation, {test} test rows; {first.metric}"
    for line in lines:
        seconds = "–" if line.cpu_seconds is None else f"{line.cpu_seconds:.1f}"
        call = "–" if line.milliseconds is None else f"{line.milliseconds:.1f}"
        interval = f"({line.low:.1f} to {line.high:.1f})"
        yield f"  {line.model:32}{line.score:6.1f}  {interval:<18}{seconds:>10}{call:>10}"
    for method, m in measured.items():
        yield f"  ships, with {method}: {m.ships}. {m.why}"
        yield f"  advised, with {method}: {m.advice}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where projects, artifacts and results are kept")
    parser.add_argument("public", type=Path)
    parser.add_argument("base")
    parser.add_argument("--only", default=",".join(SETS), help="names of sets")
    parser.add_argument("--advice", action="store_true")
    given = parser.parse_args(arguments)
    names = given.only.split(",")
    if unknown := set(names) - set(SETS):
        parser.error(f"no such set: {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    work, public = given.folder.absolute(), given.public.absolute()
    for name in names if given.advice else ():
        write_projects(name, public, given.base, work / "data")
        print(f"{name}: {advice_of(project_name(name, 'lora'), work)}", flush=True)
    if given.advice:
        return 0
    print(f"{'':34}{'score':>6}  {'95% interval':<18}{'CPU s':>10}{'ms a call':>10}")
    for name in names:
        for method in write_projects(name, public, given.base, work / "data"):
            result = work / "results" / f"{project_name(name, method)}.json"
            if not result.exists():
                result.parent.mkdir(parents=True, exist_ok=True)
                write_json(result, asdict(measure(project_name(name, method), method, work)))
        for line in table(name, measured_of(name, work)):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

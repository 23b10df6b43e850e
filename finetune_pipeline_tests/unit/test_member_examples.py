"""The examples in the docstrings of the registries' base modules are members as they stand."""

import json
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

from finetune_pipeline_tests.wheel import ROOT

SCRIPT = """
import json, sys

code = {path: open(path).read() for path in sys.argv[1:]}
for path, text in code.items():
    exec(compile(text, path, "exec"), {"__name__": "example"})

from finetune_pipeline.data.formats import FORMATS, read_turns
from finetune_pipeline.evaluation.gates import GATES
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.outputs import TextOutput
from finetune_pipeline_tests.unit.data.rows import make_spec
from finetune_pipeline_tests.unit.evaluation.fake_run import COST, evaluation
from finetune_pipeline_tests.unit.evaluation.rows import row, spec

gate, judged = GATES["short_answers"], []
for cost in (COST | {"tokens": COST["tokens"] | {"candidate": {"prompt": 9.0, "answer": n}}} for n in (20.0, 21.0)):
    judged.append(gate(spec(), gate.reads(evaluation(cost=cost))).status)
turns = read_turns({"q": "1+1?", "a": "2"}, make_spec({"kind": "text"}), "a.jsonl:1")
longest = SIMPLE_MODELS["longest"]().fit(["x y", "z"], ["no", "a longer one"], TextOutput())
print(json.dumps({
    "metric": [METRICS["first_word"].value([row(1, "yes it is", text)], TextOutput()) for text in ("yes no", "no")],
    "gate": judged,
    "format": [turns.shape, [message["content"] for message in turns.messages[-2:]]],
    "method": [METHODS["attention"].kind.name, METHODS["attention"].default("learning_rate").value],
    "simple model": longest.predict(["what?"]),
}))
"""
PACKAGES = ("evaluation.metrics", "evaluation.gates", "evaluation.simple_models", "data.formats", "spec.methods")


def example(package: str) -> str:
    """The indented block of a base module's docstring."""
    documentation = import_module(f"finetune_pipeline.{package}.base").__doc__ or ""
    block = documentation.partition("::\n")[2].splitlines()
    end = next((i for i, line in enumerate(block) if line and not line.startswith("    ")), len(block))
    return textwrap.dedent("\n".join(block[:end])).strip() + "\n"


def test_the_examples_in_the_docstrings_are_members(tmp_path: Path) -> None:
    files = [tmp_path / f"{package}.py" for package in PACKAGES]
    for package, file in zip(PACKAGES, files, strict=True):
        file.write_text(example(package))
    process = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, files)], text=True, capture_output=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == {
        "metric": [1.0, 0.0],
        "gate": ["passed", "failed"],
        "format": ["question_answer", ["1+1?", "2"]],
        "method": ["lora", 1e-3],
        "simple model": ["a longer one"],
    }

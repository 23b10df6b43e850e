"""Check that every result cited in README, docs, CHANGELOG and code is there, and list those older than the code they measure.

    python tools/check_results.py

The code is what the docstring of the result's benchmark names (`Measures: finetune_pipeline/evaluation/gates, …`); without it,
the whole package. Ages are those of the last commits. Exit code 1 if a result is missing; an old one is only listed.
"""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/results"
_CITED = re.compile(rf"(?:\[(?:benchmarks/)?(\w+)\.py\]\([./]*)?{RESULTS}/(\d{{4}}-\d\d-\d\d-[\w-]+\.\w+)")
"""A script, if the link's text is one, and the name of a result."""
_MEASURES = re.compile(r"^Measures: (.+?)\.?$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Citation:
    """A result that a page or module cites; script: the benchmark that the citation or the result's name names."""

    file: str
    result: str
    script: Path | None


def citations(root: Path) -> list[Citation]:
    """Return every result cited, once a file."""
    files = [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").glob("*.md"))]
    files += sorted(p for p in (root / "finetune_pipeline").rglob("*") if p.suffix in (".py", ".yaml"))
    cited = {
        Citation(str(file.relative_to(root)), result, _script(root, script or _name(result)))
        for file in files
        if file.exists()
        for script, result in _CITED.findall(file.read_text("utf-8"))
    }
    return sorted(cited, key=lambda citation: (citation.result, citation.file))


def _name(result: str) -> str:
    """`2026-12-01-gate-simulation.txt` is the result of gate_simulation."""
    return Path(result).stem[len("2026-12-01-") :].replace("-", "_")


def _script(root: Path, name: str) -> Path | None:
    path = root / "benchmarks" / f"{name}.py"
    return path if path.exists() else None


def measured_code(script: Path | None) -> list[str]:
    """Return the files and folders that a benchmark measures."""
    text = ast.get_docstring(ast.parse(script.read_text("utf-8"))) if script else None
    named = _MEASURES.search(text or "")
    return re.split(r",\s+", named[1].strip()) if named else ["finetune_pipeline"]


def last_commit(root: Path, *paths: str) -> tuple[int, str]:
    """Return the time of the last commit that changed one of these paths, in seconds since 1970, and its day."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct %cs", "--", *paths]
    seconds, day = (subprocess.run(command, capture_output=True, text=True, check=True).stdout or "0 never").split()
    return int(seconds), day


def problems(root: Path) -> tuple[list[str], list[str]]:
    """Return (results that are missing, results older than the code they measure), each as a sentence."""
    missing, old = [], []
    for citation in citations(root):
        if not (root / RESULTS / citation.result).exists():
            missing.append(f"{RESULTS}/{citation.result}, cited in {citation.file}")
            continue
        code = measured_code(citation.script)
        (measured, day), (changed, changed_day) = (
            last_commit(root, *p) for p in ([f"{RESULTS}/{citation.result}"], code)
        )
        if not changed:
            old.append(f"{citation.result}: {', '.join(code)} is gone")
        elif 0 < measured < changed:
            old.append(
                f"{citation.result} ({day}), cited in {citation.file}: {', '.join(code)} changed on {changed_day}"
            )
    return missing, old


def main() -> int:
    """Print what is missing and what is old. Returns 1 if something is missing."""
    missing, old = problems(ROOT)
    print(*(f"missing: {text}" for text in missing), *(f"older than its code: {text}" for text in old), sep="\n")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())

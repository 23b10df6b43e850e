"""Cited results are there; those older than the code that they measure are listed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_pipeline_tests.wheel import ROOT

sys.path.insert(0, str(ROOT / "tools"))

from check_results import RESULTS, citations, measured_code, problems


def test_every_result_that_is_cited_is_there() -> None:
    cited = citations(ROOT)
    assert len(cited) > 15 and [c for c in cited if not (ROOT / RESULTS / c.result).exists()] == []
    assert {c.script.stem for c in cited if c.script} >= {"gate_simulation", "label_noise"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a benchmark of one module, and a result of it; the page cites another one, too."""
    for name, text in {
        "finetune_pipeline/a.py": "",
        "finetune_pipeline/b.py": "",
        "benchmarks/speed.py": '"""Speed.\n\nMeasures: finetune_pipeline/a.py.\n"""\n',
        f"{RESULTS}/2026-11-01-speed.txt": "1 s",
        "README.md": f"1 s ([results]({RESULTS}/2026-11-01-speed.txt))",
        "docs/a.md": f"2 s ([benchmarks/speed.py](../{RESULTS}/2026-11-02-others.txt))",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, 1, "init", "-q")
    commit(tmp_path, 1)
    return tmp_path


def git(root: Path, day: int, *arguments: str) -> None:
    date, name = f"2026-11-{day:02}T00:00:00Z", "somebody"
    environment = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in
                   (("DATE", date), ("NAME", name), ("EMAIL", name))}  # fmt: skip
    subprocess.run(["git", "-C", str(root), *arguments], check=True, env={**os.environ, **environment})


def commit(root: Path, day: int) -> None:
    git(root, day, "add", "-A")
    git(root, day, "commit", "-q", "-m", "x")


def test_missing_and_old_results_are_told_apart(project: Path) -> None:
    missing = [f"{RESULTS}/2026-11-02-others.txt, cited in docs/a.md"]
    assert problems(project) == (missing, [])
    (project / "finetune_pipeline/b.py").write_text("changed")
    commit(project, 3)
    assert problems(project) == (missing, []), "the benchmark does not measure that"
    (project / "finetune_pipeline/a.py").write_text("changed")
    commit(project, 4)
    (old,) = problems(project)[1]
    assert old == "2026-11-01-speed.txt (2026-11-01), cited in README.md: finetune_pipeline/a.py changed on 2026-11-04"
    (project / f"{RESULTS}/2026-11-01-speed.txt").write_text("2 s")
    (project / f"{RESULTS}/2026-11-02-others.txt").write_text("2 s")
    commit(project, 5)
    assert problems(project) == ([], [])


def test_every_benchmark_that_says_what_it_measures_names_code() -> None:
    scripts = [c.script for c in citations(ROOT) if c.script]
    assert all(path.startswith("finetune_pipeline") for script in scripts for path in measured_code(script))

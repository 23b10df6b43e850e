"""The reference page is made from the code and must not lag behind it."""

import re
import runpy
from pathlib import Path

from finetune_pipeline.evaluation.gates import GATES

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_up_to_date_and_names_every_gate() -> None:
    """If this fails after a change of keys, checks, gates or commands: python tools/make_reference.py."""
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert runpy.run_path(str(ROOT / "tools" / "make_reference.py"))["render"]() == text
    for word in ("training.unquantized_epochs", "no_leakage", "retraining_decision", "evaluation.judge.min_kappa"):
        assert f"`{word}`" in text
    assert all(f"\n`{gate.name}` | " in text and gate.what_to_do in text for gate in GATES.values())


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    headings = {}
    for page in pages:
        lines = [line.strip("# \n").lower() for line in page.read_text("utf-8").splitlines() if line[:1] == "#"]
        headings[page.resolve()] = {re.sub(r"[^\w -]", "", line).replace(" ", "-") for line in lines}
    broken = []
    for page in pages:
        for link in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text("utf-8")):
            path, _, heading = link.partition("#")
            target = (page.parent / path).resolve() if path else page.resolve()
            if not target.exists() or (heading and heading not in headings.get(target, set())):
                broken.append(f"{page.name}: {link}")
    assert not broken, "\n".join(broken)

"""``finetune docs [PAGE]``: prints a page of the documentation that came with the installed package."""

import difflib
from pathlib import Path

import click

from finetune_pipeline.cli.output import DONE, as_json, tell

FOLDER = Path(__file__).parents[1] / "docs"


def pages() -> dict[str, Path]:
    """Return the file of every page by name, the guide first."""
    files = sorted(FOLDER.resolve().glob("*.md"), key=lambda file: (file.stem != "guide", file.stem))
    return {file.stem: file for file in files}


@click.command()
@click.argument("page", required=False)
@as_json
def docs(page: str | None) -> int:
    """Print a PAGE of the documentation, in Markdown. Without PAGE: list all pages.

    The pages are part of the installed package, so they describe this version.
    """
    files = pages()
    if page is None:
        titles = {name: file.read_text("utf-8").split("\n", 1)[0].lstrip("# ") for name, file in files.items()}
        width = max(map(len, titles))
        facts = [{"name": name, "title": titles[name], "file": str(file)} for name, file in files.items()]
        tell({"pages": facts}, *(f"{name:{width}}  {title}" for name, title in titles.items()), "", f"{FOLDER}")
        return DONE
    name = page.rpartition("/")[2].removesuffix(".md")
    if name not in files:
        near = difflib.get_close_matches(name, files, 1)
        hint = f"use {near[0]}" if near else "`finetune docs` lists them"
        raise click.ClickException(f"there is no page {page!r}\nfix: {hint}")
    text = files[name].read_text("utf-8")
    tell({"name": name, "file": str(files[name]), "markdown": text}, text.rstrip("\n"))
    return DONE

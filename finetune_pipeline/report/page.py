"""Renders pages from templates: as HTML, and as Markdown without the texts of rows."""

import base64
import hashlib
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from finetune_pipeline.escaping import printable
from finetune_pipeline.evaluation.wording import percent
from finetune_pipeline.report.blocks import Page


def page_html(page: Page) -> str:
    """Render a page to one HTML file without external resources. Every text is escaped, and a content security policy allows only
    the page's own script."""
    return html_templates().get_template("page.html").render(page=page)


def page_markdown(page: Page) -> str:
    """Render a page to GitHub-flavoured Markdown, without the texts of rows. All other texts are escaped."""
    return tidy(markdown_templates().get_template("page.md").render(page=page))


def tidy(markdown: str) -> str:
    """Leave at most one empty line between blocks, and one line end at the end."""
    return re.sub(r"\n{3,}", "\n\n", markdown).strip() + "\n"


@cache
def html_templates() -> Environment:
    """Return the environment for HTML templates, which escapes every value."""
    environment = _environment(finalize=_as_text)
    environment.filters |= {"minus": minus, "code_parts": code_parts}
    assert environment.loader is not None
    script = environment.loader.get_source(environment, "page.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {"script": Markup(script), "script_digest": f"sha256-{digest}"}  # noqa: S704 - a file of ours
    return environment


@cache
def markdown_templates() -> Environment:
    """Return the environment for Markdown templates, which escapes every value that is not a filter's Markdown."""
    environment = _environment(finalize=_as_markdown)
    environment.filters |= {"fenced": fenced, "code": _code, "verbatim": Markup}
    return environment


def _as_text(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _as_markdown(value: Any) -> Markup:
    markdown = value if isinstance(value, Markup) else plain(str(value))
    return Markup(printable(str(markdown)))  # noqa: S704 - plain and the filters escape it


def _code(value: Any) -> Markup:
    """Format a short text as code, in which nothing is markup."""
    return Markup("`" + " ".join(str(value).replace("`", "'").split()) + "`")  # noqa: S704


def _environment(**options: Any) -> Environment:
    environment = Environment(
        loader=PackageLoader("finetune_pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.globals |= {"zip": zip, "percent": percent}
    return environment


_CODE = re.compile(r"`([^`\n]+)`")
_MARKUP = "\\`*_{}[]<>#|~!&"
_LIST_START = re.compile(r"^(-(?=[-\s]|$)|\+(?=\s|$)|\d+[.)](?=\s|$))")


def minus(value: str) -> str:
    """Write hyphens before numbers as minus signs: ` -3.1` but not `8-shot` or `2026-11-24`."""
    return re.sub(r"(^|[ (])-(?=\d)", "\\1\u2212", value)


def code_parts(value: str) -> list[tuple[bool, str]]:
    """Split a text at its backticks: (whether it is code, part)."""
    return [(i % 2 == 1, part) for i, part in enumerate(_CODE.split(value)) if part]


def plain(value: str) -> str:
    """Escape a text to one line of Markdown without links, mentions or markup except code in backticks. Line ends become spaces."""
    parts = code_parts(" ".join(value.split()))
    return "".join(
        f"`{part}`" if code and "|" not in part else _escaped(f"`{part}`" if code else part) for code, part in parts
    )


def _escaped(value: str) -> str:
    escaped = "".join(f"\\{character}" if character in _MARKUP else character for character in value)
    escaped = _LIST_START.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", escaped)
    return escaped.replace("://", ":\u200b//").replace("www.", "www\u200b.").replace("@", "@\u200b")


def fenced(value: str, language: str = "text") -> Markup:
    """Format text as a code block, with a fence longer than any in it."""
    longest = max((len(backticks) for backticks in re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{value}\n{fence}")  # noqa: S704 - no text ends the fence

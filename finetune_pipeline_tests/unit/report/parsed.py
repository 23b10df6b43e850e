"""Parses and checks HTML pages."""

from html.parser import HTMLParser

from finetune_pipeline.report.page import html_templates

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> [click](javascript:alert(3)) | **bold** & \"quoted\" 'x' `code`"
"""A text that has an effect wherever it is not escaped."""


class Parsed(HTMLParser):
    """Tags, attributes, text and scripts of a page. Asserts that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)
        assert not self.open, self.open

    @property
    def words(self) -> str:
        """The page's text with normalized whitespace."""
        return " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.text += " "

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        else:
            self.text += data

    def assert_inert(self) -> None:
        """Assert that the page loads nothing, runs only its own script, and links only within itself."""
        assert not {"link", "img", "iframe", "object", "form"} & set(self.tags)
        assert self.tags.count("script") == 1 and self.scripts == [str(html_templates().globals["script"])]
        assert not [(name, value) for name, value in self.attributes if name.startswith("on") or name == "src"]
        targets = {f"#{value}" for name, value in self.attributes if name == "id"}
        assert {value for name, value in self.attributes if name.endswith("href")} <= targets

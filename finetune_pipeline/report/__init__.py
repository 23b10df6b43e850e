"""Pages for people: one self-contained HTML page and a shorter Markdown one."""

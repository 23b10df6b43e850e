"""Predictions of two models, made up."""

from __future__ import annotations

from typing import Any

SECRET = bytes(range(32))
VERSION = "0123456789abcdef"


def row(i: int, model: str, text: str, status: str = "ok") -> dict[str, Any]:
    return {"example_id": f"e{i:03d}", "model": model, "gold": "right", "text": text, "status": status}


def pair(n: int, wrong: int = 10) -> tuple[list[dict], list[dict]]:
    """(base, candidate): the candidate is wrong on the first `wrong` rows, the base says the same there."""
    own = [row(i, "candidate", "wrong" if i < wrong else "right") for i in range(n)]
    return [row(i, "base", "wrong" if i < wrong else "right") for i in range(n)], own

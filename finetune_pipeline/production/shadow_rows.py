"""The line that a server logs when a second model answered a row behind the champion: its form, and what of it is compared.

``{"id", "timestamp", "messages" or "input", "shadow": {…}}``, with the fields of :class:`ShadowAnswer` in ``shadow``. The id is
that of the champion's answer, which has its own line. Nothing reads ``shadow`` as an answer that somebody got.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.dedup.text_similarity import text_key
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.spec.outputs import AnyOutput, TextOutput

Name = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ShadowAnswer(msgspec.Struct, frozen=True):
    """Both models' answers to one row.

    Attributes:
        model_version: Of the model behind the champion.
        output: Its answer; None if it failed.
        champion: The version of the champion that answered.
        champion_output: What it answered, also where the client got a refusal or another model's answer.
        seconds, champion_seconds: How long each took, without waiting for its turn.
        problem: Why there is no answer.
    """

    model_version: Name
    output: str | None
    champion: Name
    champion_output: str
    seconds: Seconds
    champion_seconds: Seconds
    problem: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        """The versions of the champion and of the model behind it."""
        return self.champion, self.model_version

    def texts(self) -> list[str]:
        """Return the texts to scrub."""
        return [self.champion_output, self.output or "", self.problem]

    def cleaned(self, clean: Callable[[str], str]) -> dict[str, object]:
        """Return the fields with scrubbed texts, as the log store keeps them."""
        output = None if self.output is None else clean(self.output)
        texts = {"output": output, "champion_output": clean(self.champion_output), "problem": clean(self.problem)}
        return {**msgspec.structs.asdict(self), **texts}


class Preferred(msgspec.Struct, frozen=True):
    """Which of two models' answers to a row of free text a reviewer prefers, without knowing whose is whose.

    Attributes:
        champion, model_version: The two that were compared, as in :class:`ShadowAnswer`.
        choice: The better one, or that the answers are equally good, or that neither is acceptable.
        decided: When; empty: unknown.
    """

    champion: Name
    model_version: Name
    choice: Literal["champion", "shadow", "equal", "neither"]
    decided: str = ""


def is_shadow(row: Any) -> bool:
    """Whether a decoded line is a second model's answer to a row in another line."""
    return isinstance(row, dict) and "shadow" in row and "output" not in row


def shadow_problem(row: Mapping[str, object]) -> str | None:
    """Return what is wrong with a line of a second model's answer, or None."""
    if row.get("feedback") is not None:
        return "one line has both 'shadow' and 'feedback'"
    try:
        msgspec.convert(row["shadow"], ShadowAnswer)
    except msgspec.ValidationError as error:
        return f"'shadow' is not what a server writes: {error}"
    return None


def shadow_of(row: LoggedRow) -> ShadowAnswer | None:
    """Return the second answer of a row as merge_lines returns it; None if there is none."""
    return msgspec.convert(row["shadow"], ShadowAnswer) if row.get("shadow") else None


def newest_pair(rows: Iterable[LoggedRow]) -> tuple[str, str] | None:
    """Return the versions of the champion and of the model behind it in the latest row that has both; rows: sorted by time."""
    pair = None
    for row in rows:
        if row.get("shadow"):
            pair = row["shadow"]["champion"], row["shadow"]["model_version"]
    return pair


def is_decidable(output: AnyOutput) -> bool:
    """Whether one right answer says which of two answers is right: of free text, a second answer may be as good."""
    return not isinstance(output, TextOutput) or bool(output.extract)


def agree(shadow: ShadowAnswer, output: AnyOutput) -> bool:
    """Whether both models gave the same answer. A failed one agrees with none."""
    return shadow.output is not None and same_answer(shadow.champion_output, shadow.output, output)


def of_pair(rows: Iterable[LoggedRow], pair: tuple[str, str]) -> list[tuple[LoggedRow, ShadowAnswer]]:
    """Return the rows that both models answered, with the second answer. pair: versions of the champion and of the second one."""
    return [(row, shadow) for row in rows if (shadow := shadow_of(row)) and shadow.pair == pair]


def preference_of(row: LoggedRow) -> Preferred | None:
    """Return what a reviewer said of the two answers of a row as merge_lines returns it; None if nobody did of these models."""
    preferred, shadow = row.get("preferred"), row.get("shadow")
    if not preferred or not shadow:
        return None
    said = msgspec.convert(preferred, Preferred)
    return said if (said.champion, said.model_version) == (shadow["champion"], shadow["model_version"]) else None


def is_seen(row: LoggedRow, output: AnyOutput) -> bool:
    """Whether a reviewer has decided between the two answers of a row, or left the row out."""
    return bool(row["reviewed"] if is_decidable(output) else row["left_out"] or preference_of(row))


def waiting_rows(rows: Sequence[LoggedRow], pair: tuple[str, str], output: AnyOutput) -> set[str]:
    """Return the ids of the rows in which a reviewer has to decide between the models of a pair. rows: sorted by time.

    Of a right answer each row makes an example. A preference is asked for once a question.
    """
    both = of_pair(rows, pair)
    if is_decidable(output):
        return {str(row["id"]) for row, shadow in both if not is_seen(row, output) and not agree(shadow, output)}
    first: dict[str, tuple[LoggedRow, ShadowAnswer]] = {}
    for row, shadow in both:
        first.setdefault(text_key(row["input"]), (row, shadow))
    seen = {text_key(row["input"]) for row, _ in both if is_seen(row, output)}
    return {str(row["id"]) for key, (row, shadow) in first.items() if key not in seen and not agree(shadow, output)}

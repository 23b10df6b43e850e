"""Parses one line of a production log strictly, names every problem, scrubs it and hashes its user.

One JSON object per line: ``id``, ``timestamp`` (RFC 3339, or a number since 1970), ``messages`` or ``input``, ``output``,
``model_version``, optional ``feedback`` {``flag``, ``score``, ``correction``, ``label``}, optional ``user``, optional
``probability``, ``passed_on`` and ``answered_by`` (see :data:`SURE`), optional ``field_probabilities`` and ``fields_passed_on``
(see :data:`FIELD_SHARES`), optional ``share`` (:mod:`.share_rows`), optional ``metadata`` (ignored). Lines from `finetune
review` may have ``left_out``, ``decided`` (a time) and ``preferred`` (:class:`.shadow_rows.Preferred`) in the feedback. A line
with ``id``, ``timestamp`` and ``feedback`` but no ``output`` is later feedback; one with ``shadow`` but no ``output`` is what a
second model said behind the champion (:mod:`.shadow_rows`).
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeGuard

import msgspec

from finetune_pipeline.data.answer_rules import LAST_FIX, form_problems, has_form
from finetune_pipeline.data.examples import Message
from finetune_pipeline.data.fields import parsed_time
from finetune_pipeline.data.quoting import keys_shown
from finetune_pipeline.data.scrub import Finder, Scrubber, finder_of, load_key, scrub_text
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import Finding
from finetune_pipeline.production.log_owners import hide_users, owners_of
from finetune_pipeline.production.shadow_rows import Preferred, ShadowAnswer, is_shadow, shadow_problem
from finetune_pipeline.production.share_rows import share_problem
from finetune_pipeline.spec.model import TaskSpec

USER_KEY = "FINETUNE_USER_KEY"
"""Environment variable with the secret key for hashing users. Unset: a random key of this home, not shared by machines."""
KEY_FILE = "users.key"
RAW_SHOWN = 2000
"""Characters of a bad line that are kept."""
_YEARS = range(1970, 2200)
"""Accepted years. At the ends of the calendar, times cannot be converted to another zone or have a window around them."""

_FEEDBACK_KEYS = {"flag", "score", "correction", "label", "left_out", "decided", "preferred"}

SURE = ("probability", "passed_on", "answered_by")
"""Optional keys of an answer: its calibrated probability, whether it was below the certified threshold, and who answered in place
of the model."""
FIELD_SHARES, FIELDS_PASSED_ON = "field_probabilities", "fields_passed_on"
"""Optional keys of an answer whose fields are promised: the calibrated probability of each, and which are below the threshold."""
SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant")
"""Accepted roles of turns."""


def user_key(store: ArtifactStore) -> bytes:
    """Return the secret key for hashing users."""
    secret = os.environ.get(USER_KEY, "").encode()
    return hashlib.blake2b(secret, digest_size=32).digest() if secret else load_key(store.root / KEY_FILE)


def hash_user(user: object, key: bytes) -> str:
    """Hash a user to 32 hex digits. The hash is keyed (BLAKE2b): without the key, nobody can try out names."""
    return hashlib.blake2b(str(user).encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()


def hash_id(row_id: str, key: bytes) -> str:
    """Hash a row's id, so that it never equals a user's hash."""
    return hash_user(f"id:{row_id}", key)


def fingerprint(key: bytes) -> str:
    """Return a text that identifies a key and does not reveal it."""
    return hash_id("", key)


def users_of(row: Mapping[str, Any]) -> list[str]:
    """Return the hashed users of a stored row: of a bad line there may be several."""
    users = row.get("users", ())
    return [*users, row["user"]] if row.get("user") is not None else [*users]


def ids_of(row: Mapping[str, Any]) -> list[str]:
    """Return the ids in a stored row: of a bad line there may be several."""
    return [row["id"]] if "id" in row else [*row.get("ids", ())]


def parse_line(line: bytes, cut: bool, source: dict[str, object], spec: TaskSpec, key: bytes) -> dict[str, object]:
    """Parse a line into the record to store, by its `kind`: row, feedback, shadow or bad.

    Args:
        cut: Whether the line was too long and has lost its end.
        source: {file, line}.

    Returns:
        Of each kind: kind, source. row and feedback: user, id, timestamp, flag, score, correction. row: model_version,
        input, turns (of a conversation, else None), output. shadow: user, id, timestamp, shadow (its fields). bad: raw (scrubbed
        and cut), findings, users and ids of all records in the line.
    """
    place = f"{source['file']}:{source['line']}"
    row: Any = None
    if cut:
        problems = [_error(place, "too_long", "the line is longer than 8 MiB", "log shorter texts")]
    else:
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problems = [_error(place, "bad_json", str(error), "write one JSON object per line")]
        else:
            problems = list(problems_of(row, place, spec))
    if problems:
        raw = scrub_text(hide_users(line[: 2 * RAW_SHOWN]), finder_of(spec.data, names=False))[:RAW_SHOWN]
        owners = owners_of(line)
        users = sorted({hash_user(user, key) for owner in owners for user in owner.users})
        return _bad(problems, raw, source, users, sorted({owner.id for owner in owners if owner.id}))
    user = hash_user(row["user"], key) if _names_user(row.get("user")) else None
    return {**_clean_record(row, spec), "user": user, "source": source}


def damaged_file(file: str, read: int, error: Exception) -> dict[str, object]:
    """Return the record of a damaged or packed file: everything after its first `read` lines is lost."""
    message = f"the file cannot be read behind line {read}: {error}"
    fix = "put a whole copy in its place, plain or gzipped: it is read on from there"
    finding = _error(f"{file}:{read + 1}", "damaged_file", message, fix)
    return _bad([finding], "", {"file": file, "line": read + 1})


def _bad(
    problems: list[Finding], raw: str, source: dict[str, object], users: Iterable[str] = (), ids: Iterable[str] = ()
) -> dict[str, object]:
    findings = [problem.to_dict() for problem in problems]
    return {"kind": "bad", "raw": raw, "findings": findings, "users": [*users], "ids": [*ids], "source": source}


def _error(place: str, rule: str, message: str, fix: str) -> Finding:
    return Finding(f"log.{rule}", "error", place, message, fix)


def _names_user(user: Any) -> bool:
    return isinstance(user, str | int | float) and user != ""


def _read_time(value: Any) -> datetime:
    """Parse a time into UTC. Raises ValueError with the problem of the value."""
    try:
        moment = parsed_time(value)
    except ValueError:
        raise ValueError(f"{value!r:.60} is not a time") from None
    if moment.tzinfo is None:
        raise ValueError(f"{value!r:.60} has no time zone")
    if moment.year not in _YEARS:
        raise ValueError(f"{value!r:.60} is not between the years {_YEARS.start} and {_YEARS.stop}")
    return moment.astimezone(UTC)


def is_feedback(row: Any) -> bool:
    """Whether a decoded line is feedback to an answer in another line."""
    return isinstance(row, dict) and "output" not in row and row.get("feedback") is not None


def problems_of(row: Any, place: str, spec: TaskSpec) -> Iterator[Finding]:
    """Yield every problem of a decoded line."""
    if not isinstance(row, dict):
        yield _error(place, "not_an_object", "the line is not a JSON object", "write one object per line")
        return
    for key in ("id",) if is_feedback(row) or is_shadow(row) else ("id", "output", "model_version"):
        value = row.get(key)
        # an empty answer is possible, and people may give feedback to it
        if not isinstance(value, str) or not (value.strip() or key == "output"):
            message = f"{key!r} is missing, empty or not text"
            yield _error(place, "missing_field", message, f"log {key} with every answer, as text")
    try:
        _read_time(row.get("timestamp"))
    except ValueError as error:
        yield _error(place, "timestamp", f"the timestamp {error}", "log it with every line, as in RFC 3339")
    if row.get("user") not in (None, "") and not _names_user(row["user"]):
        yield _error(place, "wrong_type", "the user is neither text nor a number", "log the user's id as text")
    if is_shadow(row) and (problem := shadow_problem(row)):
        yield _error(
            place, "shadow", problem, "write such lines as `finetune serve --shadow` does, feedback on lines of its own"
        )
    if not is_feedback(row) and (problem := _question_problem(row)):
        fix = "log the user's text as 'input', or 'messages' of role and content, both text, before the answer"
        yield _error(place, "missing_field", problem, fix)
    yield from _sureness_problems(row, place)
    if problem := share_problem(row):
        yield _error(place, "share", problem, "write the key as `finetune serve --share` does, or leave it out")
    yield from feedback_problems(row.get("feedback"), place, spec)


def _sureness_problems(row: Mapping[str, object], place: str) -> Iterator[Finding]:
    """Yield the problems of the keys that say how sure an answer is, which may be missing or null."""
    probability, passed_on, answered_by = (row.get(key) for key in SURE)
    shares, fields = row.get(FIELD_SHARES), row.get(FIELDS_PASSED_ON)
    are_shares = isinstance(shares, dict) and all(p is None or _is_probability(p) for p in shares.values())
    are_names = isinstance(fields, list) and all(isinstance(name, str) for name in fields)
    for key, value, is_right, kind in (
        ("probability", probability, _is_probability(probability), "a number from 0 to 1"),
        ("passed_on", passed_on, isinstance(passed_on, bool), "true or false"),
        ("answered_by", answered_by, isinstance(answered_by, str), "text"),
        (FIELD_SHARES, shares, are_shares, "an object of numbers from 0 to 1"),
        (FIELDS_PASSED_ON, fields, are_names, "a list of texts"),
    ):
        if value is not None and not is_right:
            yield _error(place, "wrong_type", f"{key!r} is not {kind}", f"log {kind}, or leave it out")


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _question_problem(row: dict[str, Any]) -> str | None:
    """Return the problem of a line's question, or None."""
    messages = row.get("messages")
    if not messages:
        has_input = isinstance(row.get("input"), str) and row["input"].strip()
        return None if has_input else "neither 'messages' nor 'input' contains a question"
    if not _has_valid_messages(messages):
        return f"'messages' contain more than texts of the roles {', '.join(ROLES)}, such as a tool call or a picture"
    if not any(m["role"] == "user" and m["content"].strip() for m in messages):
        return "'messages' have no text of the role 'user'"
    return "'messages' end with the assistant's turn" if messages[-1]["role"] == "assistant" else None


def _has_valid_messages(messages: Any) -> TypeGuard[list[Message]]:
    turns = messages if isinstance(messages, list) else []
    return bool(turns) and all(
        isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str) and not m.get("tool_calls")
        for m in turns
    )


def feedback_problems(feedback: Any, place: str, spec: TaskSpec) -> Iterator[Finding]:
    """Yield every problem of a line's feedback."""
    if not isinstance(feedback, dict):
        if feedback is not None:
            yield _error(place, "wrong_type", "'feedback' is not an object", 'write {"flag": …, "correction": …}')
        return
    if feedback and not _FEEDBACK_KEYS & feedback.keys():
        message = f"'feedback' has no known key (keys: {keys_shown(feedback)})"
        yield _error(place, "unknown_feedback", message, "write flag, score, correction or label")
    score = feedback.get("score")
    if score is not None and not _is_finite(score):
        yield _error(place, "wrong_type", "the score is not a finite number", "write a number such as 0.5")
    if not isinstance(feedback.get("flag"), str | int | float | None):
        yield _error(place, "wrong_type", "the flag is neither text nor true or false", "write what is wrong")
    try:
        msgspec.convert(feedback.get("preferred"), Preferred | None)
    except msgspec.ValidationError as error:
        message = f"'preferred' is not what `finetune review` writes: {error}"
        yield _error(place, "wrong_type", message, "leave it out, and decide in `finetune review`")
    correction = _corrected_answer(feedback)
    answers = [feedback[key] for key in ("label", "correction") if feedback.get(key)]
    stripped = [answer.strip() if isinstance(answer, str) else answer for answer in answers]
    if len(stripped) == 2 and stripped[0] != stripped[1]:
        message = "'label' and 'correction' are two different right answers"
        yield _error(place, "two_answers", message, "write the right answer in one of them")
    elif correction is not None and not isinstance(correction, str):
        yield _error(place, "wrong_type", "the correction is not text", "write the right answer as text")
    elif correction is not None and spec.labels and correction.strip() not in spec.labels:
        message = f"correction {correction!r:.60} is not a label of this task"
        yield _error(place, "unknown_label", message, "use a declared label")
    elif correction is not None and has_form(spec.output):
        for rule, why in form_problems(correction, spec.output):
            yield _error(place, f"answer_{rule}", f"correction: {why}", LAST_FIX)


def _is_finite(score: Any) -> bool:
    try:
        return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    except OverflowError:  # an integer of more than 308 digits
        return False


def _corrected_answer(feedback: dict[str, object]) -> Any:
    """Return the label or the correction, whichever has text; an empty one only if both are empty, None if there is none."""
    answers = [feedback[key] for key in ("label", "correction") if feedback.get(key) is not None]
    nonempty = [answer for answer in answers if answer]
    return next(iter(nonempty + answers), None)


def _decision_time(time: Any) -> dict[str, str]:
    """Return the time of a reviewer's decision; empty without a valid time."""
    try:
        return {"decided": _read_time(time).isoformat()}
    except ValueError:
        return {}


def _clean_flag(flag: Any, find: Finder) -> str | bool | None:
    """Return the scrubbed reason of a flag; False takes an earlier flag back; None: no flag is given."""
    if flag == 0:
        return False
    return scrub_text(flag if isinstance(flag, str) else "flagged", find) if flag else None


def _clean_record(row: dict[str, Any], spec: TaskSpec) -> dict[str, Any]:
    """Return the record of a valid line, scrubbed: a value gets the same placeholder in question, answer and correction."""
    feedback = row.get("feedback") or {}
    correction, score = _corrected_answer(feedback), feedback.get("score")
    preferred = msgspec.convert(feedback.get("preferred"), Preferred | None)
    messages = row["messages"] if _has_valid_messages(row.get("messages")) else []
    turns = [
        {"role": turn["role"], "content": turn["content"]} for turn in messages if turn["role"] not in SYSTEM_ROLES
    ]
    shadow = msgspec.convert(row["shadow"], ShadowAnswer) if is_shadow(row) else None
    texts = [
        *(turn["content"] for turn in turns),
        str(row.get("input") or ""),
        str(row.get("output") or ""),
        correction or "",
        *(shadow.texts() if shadow else []),
    ]
    find = finder_of(spec.data, names=False)
    scrubber = Scrubber(texts, find=find)

    def clean(text: str) -> str:
        return text if text.strip() in spec.labels else scrubber.scrub(text)

    place = {"id": row["id"], "timestamp": _read_time(row["timestamp"]).isoformat()}
    if shadow:
        for question in texts:  # a value of the question gets the number that it has in the champion's line
            clean(question)
        return {"kind": "shadow", **place, "shadow": shadow.cleaned(clean)}
    common = {
        **place,
        "flag": _clean_flag(feedback.get("flag"), find),
        "score": float(score) if score is not None else None,
        "correction": (clean(correction.strip()) or None) if correction else None,
        **({"left_out": True} if feedback.get("left_out") is True else {}),
        **_decision_time(feedback.get("decided")),
        **({"preferred": msgspec.structs.asdict(preferred)} if preferred else {}),
    }
    if is_feedback(row):
        return {"kind": "feedback", **common}
    turns = [{**turn, "content": clean(turn["content"])} for turn in turns]
    user_texts = [turn["content"] for turn in turns if turn["role"] == "user"]
    question = "\n".join(user_texts) if turns else clean(str(row["input"]))
    return {
        "kind": "row",
        **common,
        "model_version": row["model_version"],
        "input": question,
        "turns": turns if len(turns) > 1 else None,
        "output": clean(row["output"]),
        **{key: row[key] for key in (*SURE, "share") if row.get(key) is not None},
        **_clean_fields(row, clean),
    }


def _clean_fields(row: Mapping[str, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    """Return what a line says of fields, with their names scrubbed: a model may write what it likes there."""
    fields: dict[str, object] = {}
    if row.get(FIELD_SHARES) is not None:
        fields[FIELD_SHARES] = {clean(name): share for name, share in row[FIELD_SHARES].items()}
    if row.get(FIELDS_PASSED_ON) is not None:
        fields[FIELDS_PASSED_ON] = [clean(name) for name in row[FIELDS_PASSED_ON]]
    return fields

"""Common column names for texts, answers, speakers and groups, the most specific first; and the line of task.yaml to suggest
for rows in no known format."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_pipeline.spec import TaskSpec

TEXTS = tuple(
    """text prompt instruction input question query message utterance body content sentence request description comment
    review document tweet post article email ticket complaint feedback headline abstract source subject title
    summary nachricht anfrage frage beschreibung kommentar satz betreff inhalt texte question commentaire avis texto
    mensaje pregunta comentario testo domanda""".split()
)
LABELS = tuple(
    """label labels intent category class tag topic sentiment queue target type rating stars score stance emotion
    polarity department team genre priority verdict decision result is_spam spam toxic y gold annotation relation
    kategorie klasse thema stimmung bewertung abteilung art categorie etiquette sentimiento categoria etiqueta clase
    etichetta""".split()
)
CLASSES = ("label", "labels", "intent", "category", "class", "topic", "y")
"""Names of labels whose values are not amounts, even if they are many different numbers."""
WRITTEN = tuple(
    """completion output answer answers response reply summary translation solution target ideal highlights sql code
    json extraction extracted parsed entities spans resolution correction antwort zusammenfassung übersetzung ausgabe
    réponse reponse respuesta risposta ground_truth""".split()
)
SPEAKERS = ("role", "from", "speaker", "author", "sender", "participant", "user", "name", "who", "type")
SPEAKER_IDS = ("author_id", "sender_id", "speaker_id", "from_id", "user_id")
ASSISTANTS = tuple(
    """assistant agent bot gpt chatgpt model ai system support operator advisor staff representative rep helpdesk
    service employee seller doctor tutor teacher berater""".split()
)
USERS = ("user", "human", "customer", "client", "kunde", "visitor", "guest", "patient", "student", "buyer", "caller")
GROUPS = (
    *("group", "group_id", "conversation_id", "dialogue_id", "dialog_id", "thread_id", "session_id", "chat_id"),
    *("customer_id", "user_id", "document_id", "doc_id", "case_id", "patient_id"),
)
GUESSES = frozenset(("prediction", "predictions", "predicted", "suggestion", "suggestions"))
"""Words in names of columns with a machine's proposal; an annotator's answer in another column is preferred."""
ASKED = frozenset(("input", "inputs", "request", "prompt", "question"))
SAID = frozenset("output outputs response responses reply replies generations annotations result".split())
"""Keys above a request (ASKED), and above the reply to it or the annotations of it (SAID)."""
REJECTED = frozenset(("rejected", "non_preferred_output", "rejected_response"))
"""Columns with the rejected answer of preference data."""
CONTEXTS = ("context", "passage", "paragraph")
"""Columns with the text that a question is about."""
INTERNAL = {"public": ("false", "0"), "private": ("true", "1"), "internal": ("true", "1"), "part_type": ("note",)}
"""Keys, or their last words, by which ticket systems mark a text that the customer never saw, and their values."""
LEFT_OUT = {"answer": ("reject", "ignore"), "status": ("discarded",), "assignment_status": ("rejected",)}
"""Columns in which annotation tools mark a row as left out, and the values that do so, in lower case."""
IDS = tuple(
    """id uid uuid index idx key nr no row date time timestamp created_at url split fold usage completed_by updated_by
    created_by annotator annotator_id worker_id""".split()
)
"""Columns that are neither text nor answer."""


def plain_name(name: str) -> str:
    """Normalize a name for comparison: lower case, words joined by underscores."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).strip("_").casefold()


def key_path(key: str) -> str:
    """Return a key as a JMESPath expression."""
    return key if _PLAIN.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def leaves_out(key: str, value: Any) -> bool:
    """Whether this value marks its row as left out. If there are several opinions, all must do so."""
    opinions = value if isinstance(value, list) and value else [value]
    rejecting = LEFT_OUT.get(plain_name(key.rpartition(".")[2]), ())
    return all(isinstance(word, str) and word.casefold() in rejecting for word in opinions)


def is_internal(turn: Mapping[str, object]) -> bool:
    """Whether a turn is a note among colleagues, which a model must not learn to write."""
    plain = [(plain_name(key), value) for key, value in turn.items()]
    marks = ((INTERNAL.get(name) or INTERNAL.get(name.rpartition("_")[2], ()), value) for name, value in plain)
    is_marked = any(values and str(value).casefold() in values for values, value in marks)
    return is_marked and by_name((name for name, value in plain if isinstance(value, str)), TEXTS) is not None


def holds_internal(value: Any) -> bool:
    """Whether a value contains a list with such a note."""
    if isinstance(value, list):
        return any((isinstance(item, dict) and is_internal(item)) or holds_internal(item) for item in value)
    return isinstance(value, dict) and any(map(holds_internal, value.values()))


def is_known_name(cell: str) -> bool:
    return plain_name(cell) in _KNOWN


def rank(name: str, names: tuple[str, ...]) -> int | None:
    """Return the rank of a name in a list: of the full name, else of one of its words (`ticket_category`); None: not found."""
    plain = plain_name(name)
    numbered = plain.rstrip("0123456789")  # sentence1
    if (match := plain if plain in names else numbered) in names:
        return names.index(match)
    words = plain.split("_")
    ranks = [len(names) + names.index(word) for word in words if word in names and len(word) > 2]
    return min(ranks) if ranks and "id" not in words else None


def is_answer(name: str) -> bool:
    return rank(name, (*LABELS, *WRITTEN)) is not None


def by_name(keys: Iterable[str], names: tuple[str, ...]) -> str | None:
    """Return the key whose name comes first in `names`."""
    ranked = [(place, key) for key in keys if (place := rank(key, names)) is not None]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


_PLAIN = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_KNOWN = frozenset((*TEXTS, *LABELS, *WRITTEN, *SPEAKERS, *GROUPS, *IDS))
_NUMBERED = re.compile(r"c\d+")


def add_fields(row: Mapping[str, object], spec: TaskSpec) -> str:
    """Return the line of task.yaml that maps such rows, by their values, then by their names; empty if nothing fits."""
    texts = {k: v for k, v in row.items() if isinstance(v, str) and v.strip() and k not in ("id", "group", "time")}
    labelled = [k for k, v in texts.items() if v.strip() in spec.labels]
    answer = labelled[0] if labelled else by_name(texts, LABELS) or by_name(texts, WRITTEN)
    other_texts = {k: v for k, v in texts.items() if k != answer}
    text = by_name(other_texts, TEXTS) or max(other_texts, key=lambda k: len(other_texts[k]), default=None)
    if answer is None and len(other_texts) == 2 and not all(_NUMBERED.fullmatch(k) for k in other_texts):
        answer = next(k for k in other_texts if k != text)
    if text is None or answer is None or text == answer:
        return ""
    names = ("text", "label") if spec.labels else ("prompt", "completion")
    if spec.labels or text not in ("prompt", "question", "query", "input"):
        fields = dict(zip(names, (text, answer), strict=True))
    else:
        fields = {"completion": answer}
    return declare({name: key for name, key in fields.items() if name != key})


def declare(fields: Mapping[str, str], expressions: Iterable[str] = ()) -> str:
    """Return the line of task.yaml that declares these fields; chats without a system turn get the task's. `expressions`: the
    fields whose values are expressions."""

    def quoted(text: str) -> str:
        return text if re.fullmatch(r"[A-Za-z_][\w()]*", text) else "'" + text.replace("'", "''") + "'"

    pairs = (f"{n}: {quoted(v if n in expressions else key_path(v))}" for n, v in fields.items())
    inject = "inject: true, " if "messages" in fields else ""
    return f"`data: {{{inject}fields: {{{', '.join(pairs)}}}}}`"

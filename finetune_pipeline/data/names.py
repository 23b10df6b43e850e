"""Names that columns of texts, answers, speakers and groups bear in people's files, the most telling first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

TEXTS = (
    *("text", "prompt", "instruction", "input", "question", "query", "message", "utterance", "body", "content"),
    *("sentence", "request", "description", "comment", "review", "document", "tweet", "post", "article", "email"),
    *("ticket", "complaint", "feedback", "headline", "abstract", "source", "subject", "title", "summary"),
    *("nachricht", "anfrage", "frage", "beschreibung", "kommentar", "satz", "betreff", "inhalt"),
    *("texte", "question", "commentaire", "avis", "texto", "mensaje", "pregunta", "comentario", "testo", "domanda"),
)
LABELS = (
    *("label", "labels", "intent", "category", "class", "tag", "topic", "sentiment", "queue", "target", "type"),
    *("rating", "stars", "score", "stance", "emotion", "polarity", "department", "team", "genre", "priority"),
    *("verdict", "decision", "result", "is_spam", "spam", "toxic", "y"),
    *("kategorie", "klasse", "thema", "stimmung", "bewertung", "abteilung", "art"),
    *("categorie", "etiquette", "sentimiento", "categoria", "etiqueta", "clase", "etichetta"),
)
WRITTEN = (
    *("completion", "output", "answer", "response", "reply", "summary", "translation", "solution", "target"),
    *("highlights", "sql", "code", "json", "extraction", "entities", "resolution", "correction"),
    *("antwort", "zusammenfassung", "übersetzung", "ausgabe", "réponse", "reponse", "respuesta", "risposta"),
)
SPEAKERS = ("role", "from", "speaker", "author", "sender", "participant", "user", "name", "who", "type")
ASSISTANTS = (
    *("assistant", "agent", "bot", "gpt", "chatgpt", "model", "ai", "system", "support", "operator", "advisor"),
    *(
        "staff",
        "representative",
        "rep",
        "helpdesk",
        "service",
        "employee",
        "seller",
        "doctor",
        "tutor",
        "teacher",
        "berater",
    ),
)
USERS = ("user", "human", "customer", "client", "kunde", "visitor", "guest", "patient", "student", "buyer", "caller")
GROUPS = (
    *("group", "group_id", "conversation_id", "dialogue_id", "dialog_id", "thread_id", "session_id", "chat_id"),
    *("customer_id", "user_id", "document_id", "doc_id", "case_id", "patient_id"),
)
TURNS = (*GROUPS, "conversation", "dialogue", "thread", "session", "chat", "ticket_id", "case")
"""Columns that say to which conversation a row with one turn belongs."""
IDS = (
    *("id", "uid", "uuid", "index", "idx", "key", "nr", "no", "row", "date", "time", "timestamp", "created_at", "url"),
    *("split", "fold"),
)
"""Columns that say nothing of a row's text or answer."""


def plain_name(name: str) -> str:
    """A name as it is compared: in lower case, with words joined by an underscore."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).strip("_").casefold()


def key_path(key: str) -> str:
    """A key as a JMESPath expression."""
    return key if _PLAIN.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def is_known_name(cell: str) -> bool:
    return plain_name(cell) in _KNOWN


def rank(name: str, names: tuple[str, ...]) -> int | None:
    """The place of a name among others: as a whole, else as one of its words (`ticket_category`); None: not there."""
    plain = plain_name(name)
    if plain in names:
        return names.index(plain)
    words = plain.split("_")
    found = [len(names) + names.index(word) for word in words if word in names and len(word) > 2]
    return min(found) if found and "id" not in words else None


def by_name(keys: Iterable[str], names: tuple[str, ...]) -> str | None:
    """The key whose name comes first."""
    ranked = [(place, key) for key in keys if (place := rank(key, names)) is not None]
    return min(ranked, key=lambda of: of[0])[1] if ranked else None


_PLAIN = re.compile(r"[A-Za-z_]\w*")
_KNOWN = frozenset((*TEXTS, *LABELS, *WRITTEN, *SPEAKERS, *GROUPS, *IDS))

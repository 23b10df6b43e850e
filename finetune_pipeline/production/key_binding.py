"""Binds a log store to the key that its users are hashed with, and refuses any other.

Under another key nobody's rows are found: people who were forgotten would be ingested again, and `finetune forget` would find
nothing to remove.
"""

import os
from collections import defaultdict
from typing import Any

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.production.log_files import BROKEN_OFF, LineReader, log_files, opened, rows_in
from finetune_pipeline.production.log_owners import owners_of
from finetune_pipeline.production.log_rows import KEY_FILE, USER_KEY, fingerprint, hash_user, user_key, users_of
from finetune_pipeline.production.log_store import ForgottenList, LogStore, log_store
from finetune_pipeline.spec.model import Task

_FIX = f"fix: set {USER_KEY} as it was then; if it was unset, unset it and put back artifacts/{KEY_FILE} of the home from a backup"


def bound_key(task: Task, store: ArtifactStore) -> bytes:
    """Return the key for hashing users, if it is the one of the task's log store. The caller holds the task's lock ``logs``.

    Raises OutsideError, before anything is changed, if the store was made with another key. A store of an earlier version,
    which did not record its key, is bound to the key that its log files or its forget list prove.
    """
    stored = log_store(task, store)
    ledger = stored.ledger()
    recorded = {ledger.get("key"), ForgottenList(stored.folder, b"").key} - {None}
    legacy_rows = [] if "key" in ledger else [row for row in stored.rows() if users_of(row)]
    if (recorded or legacy_rows) and not os.environ.get(USER_KEY) and not (store.root / KEY_FILE).exists():
        raise _another_key(stored)
    key = user_key(store)
    if recorded - {fingerprint(key)}:
        raise _another_key(stored)
    if "key" not in ledger:
        if legacy_rows:
            _prove(task, stored, legacy_rows, key, bool(recorded))
        stored.append([], {**ledger, "key": fingerprint(key) if legacy_rows or recorded else None})
    return key


def _another_key(stored: LogStore) -> OutsideError:
    return OutsideError(
        f"the users in {stored.folder} are hashed with another {USER_KEY} than the one that is set now: nobody's rows would be "
        f"found\n{_FIX}"
    )


def _prove(task: Task, stored: LogStore, rows: list[dict[str, Any]], key: bytes, is_recorded: bool) -> None:
    """Raise OutsideError if the log files show that rows were hashed with another key, or, without a record, show nothing."""
    logged = _users_by_id(task, key)
    users = set().union(*logged.values())
    proven = any(user in users for row in rows for user in users_of(row))
    if any(row.get("id") in logged and row.get("user") not in logged[row["id"]] for row in rows if row.get("user")):
        if not proven:
            raise _another_key(stored)
        raise OutsideError(
            f"the users in {stored.folder} are hashed with more than one {USER_KEY}, so nobody can find all rows of a person\n"
            f"fix: put back a copy of that folder from before the key changed, and set {USER_KEY} as it was then"
        )
    if not proven and not is_recorded:
        raise OutsideError(
            f"nobody can tell whether the users in {stored.folder} are hashed with the {USER_KEY} that is set now: an earlier "
            "version did not record it, and no log file has one of these rows\n"
            "fix: put back a log file with some of them, such as a rotated one; they prove the key, which is then recorded"
        )


def _users_by_id(task: Task, key: bytes) -> dict[str, set[str]]:
    """Return the users of each id in the task's log files, hashed with this key. Damaged files are read up to the damage."""
    users: dict[str, set[str]] = defaultdict(set)
    for file in log_files(task):
        try:
            with opened(file) as handle:
                for line, _ in LineReader(handle):
                    for owner in (owner for row in rows_in(line) for owner in owners_of(row)):
                        users[owner.id or ""] |= {hash_user(user, key) for user in owner.users}
        except (*BROKEN_OFF, FileNotFoundError):
            continue
    return users

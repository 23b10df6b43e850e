"""Members of registries that other installed packages bring, by entry points of the groups ``finetune_pipeline.NAME``."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from finetune_pipeline.faults import OutsideError


def load_plugins(name: str, registry: Mapping[str, object]) -> None:
    """Import the entry points of a group, whose modules register their members.

    Raises OutsideError, which names the package, if one cannot be imported or replaces a member that is there.
    """
    for entry in _entries(name):
        before = dict(registry)
        try:
            entry.load()
        except Exception as error:
            message = f"{_package(entry)} cannot be loaded: its {entry.group} {entry.name!r} ({entry.value}): {error}"
            raise OutsideError(message, "correct, update or uninstall that package") from error
        if replaced := sorted(member for member in before if registry.get(member) is not before[member]):
            message = f"{_package(entry)} replaces {', '.join(replaced)} of {entry.group}"
            raise OutsideError(message, "give its members other names, or uninstall it")


@cache
def plugin_versions(*names: str) -> dict[str, dict[str, str]]:
    """Return the versions of the packages with entry points of these groups, under one key; empty if there are none.

    For the settings of steps whose results depend on such members.
    """
    versions = {entry.dist.name: entry.dist.version for name in names for entry in _entries(name) if entry.dist}
    return {"plugins": dict(sorted(versions.items()))} if versions else {}


def _entries(name: str) -> list[EntryPoint]:
    return sorted(entry_points(group=f"finetune_pipeline.{name}"), key=lambda entry: (entry.name, entry.value))


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name} {entry.dist.version}" if entry.dist else f"the module {entry.value}"

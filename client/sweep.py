"""Frees the disk of what nobody needs any more."""

from typing import Any

from client.installer import Installer
from client.store import Store
from schemas.objects import ObjectStore


class Sweep:
    """Removes objects that no open task and no run needs; only between tasks.

    Parameters
    ----------
    store, objects, bundles

    Attributes
    ----------
    due : bool
        Whether something may have become needless since the last time.
    """

    def __init__(self, store: Store, objects: ObjectStore, bundles: Installer) -> None:
        self._store, self._objects, self._bundles = store, objects, bundles
        self.due = True

    def __call__(self) -> None:
        """Sweep, where it is due."""
        if not self.due:
            return
        self.due = False
        rows = self._store.open()
        needed = self._store.all_kept() | {self._store.get("model", "")}
        needed |= self._bundles.needed(rows)
        for row in rows:
            needed |= objects_of(row.body if row.answer is None else row.answer)
        parts = [path.stem for path in self._objects.folder.glob("*.part")]
        for name in {*self._objects.names(), *parts} - needed:
            self._objects.remove(name)
        self._bundles.tidy(rows)


def objects_of(body: dict[str, Any]) -> set[str]:
    """Names of the objects of a task or an answer."""
    if "payload" not in body:
        return set()
    return {body["payload"]["sha256"], *(one["sha256"] for one in body["objects"])}

"""What commands on many devices share: who is meant, the question, the change, what follows."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from server.fleet.commands.options import actor, confirm, say
from server.fleet.errors import NotFoundError

if TYPE_CHECKING:
    from server.fleet.hooks import Changes
    from server.fleet.keeper import Keeper
    from server.fleet.registry import Registry, Write

T = TypeVar("T")


def chosen(
    registry: "Registry",
    names: Iterable[str] | None,
    tag: str | None,
    states: tuple[str, ...],
    *,
    held: bool = False,
) -> list[str]:
    """Devices that were named, and those of a tag in one of the states; ``held``: quarantined."""
    from server.fleet.listing import device_rows, find

    with registry.read() as db:
        them = {row.id: None for row in find(db, names or ())}  # a set in their order
        for row in device_rows(db, tag=tag) if tag is not None else ():
            if row["state"] in states and (row["quarantined"] or not held):
                them[row["device"]] = None
    if not them:
        raise NotFoundError("no such device; name some, or a --tag that some have")
    return list(them)


def tell(wrong: list[str]) -> None:
    """What did not follow is an error: the registry is right, the broker may not be."""
    if wrong:
        raise RuntimeError("\n".join(["it is in the registry, but not everywhere:", *wrong]))


class _Undone(Exception):  # noqa: N818 - no defect: it ends a transaction
    """Nothing of it stays."""


def carry_out(
    keeper: "Keeper",
    verb: str,
    names: list[str],
    change: "Callable[[Write], list[str]]",
    follows: "Callable[[list[str]], Changes] | None" = None,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    """Ask, change devices in one transaction, and do what follows from it.

    A dry run does it and undoes it, so that what would be refused is refused then too.
    """
    if dry_run:
        with suppress(_Undone), keeper.registry.write(actor()) as write:
            change(write)
            raise _Undone
    if not confirm(verb, names, yes=yes, dry_run=dry_run):
        return
    with keeper.registry.write(actor()) as write:
        done = change(write)
    if follows is not None:
        tell(keeper.apply(follows(done)))
    say(f"{verb.removesuffix('e')}ed {len(done)}")


def in_parts(
    keeper: "Keeper",
    word: str,
    items: Sequence[T],
    change: "Callable[[Write, list[T]], list[T]]",
    done: list[T],
) -> None:
    """Change many, some hundred in a transaction, so that others have their turn in between.

    What is in ``done`` stays done where it ends early.
    """
    from server.fleet.listing import parts

    try:
        for part in parts(items):
            with keeper.registry.write(actor()) as write:
                changed = change(write, part)
            done += changed
            if len(part) < len(items):
                say(f"{word} {len(done)} of {len(items)}")
    except BaseException:
        if done:
            say(f"ended early, {word} {len(done)} of {len(items)}: run it again to go on")
        raise

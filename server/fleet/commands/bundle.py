"""``flwr-fleet bundle``: personal models as files, published to be rolled out."""

import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from server.fleet.commands.options import (
    Fleet,
    FleetOption,
    Format,
    Formats,
    actor,
    answer,
    columns,
    say,
)

if TYPE_CHECKING:
    from server.fleet.bundles import BundleFiles, Published

app = typer.Typer(help="Bundles: models as signed files; published here, then rolled out.")
_HEAD: Final = ("bundle", "sha256", "device", "task", "bits", "bytes", "published", "roll-outs")
_SHORT: Final = 12


def complete(incomplete: str) -> list[str]:
    """Names and versions that begin so, for the shell."""
    try:
        from server.fleet.bundles import listed

        with Fleet(None).registry() as registry, registry.read() as db:
            names = [f"{row['name']}@{row['version']}" for row in listed(db)]
    except Exception:  # noqa: BLE001 - a shell's completion has nobody to tell
        return []
    return [name for name in names if name.startswith(incomplete)]


Named = Annotated[
    str,
    typer.Argument(
        help="NAME (the newest), NAME@VERSION, or a hash's beginning.", autocompletion=complete
    ),
]


@app.command()
def publish(
    file: Annotated[
        Path,
        typer.Argument(
            help="A bundle, as flwr-sim export writes it; or a folder of DEVICE.flwb, each of "
            "them that device's own."
        ),
    ],
    sign: Annotated[
        bool, typer.Option("--sign", help="Sign it with the fleet's key, if it is not signed.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Left out: the bundle's own, or the folder's.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Left out: the next whole number of its name.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Whose own model it is; it goes to this device alone.")
    ] = None,
    note: Annotated[str, typer.Option(help="For your own memory.")] = "",
    fleet: FleetOption = None,
    format_: Formats = Format.table,
) -> None:
    """Verify a bundle, and keep it by its hash, to be rolled out.

    It is checked whole as a device does it (flwr-edge verify), in a process of its own: signature,
    sizes, hashes, operators, the answer to its reference input, memory and time. Publishing it
    again puts its file back where that is gone or spoilt, and changes nothing else. A difference
    needs its base published first.

    Example: flwr-fleet bundle publish walk.flwb --sign --name walk --note "learned in November"
    """
    from server.fleet import bundles

    opened = Fleet(fleet)
    public = opened.folder.signing_public.read_text(encoding="ascii").strip()
    terms: dict[str, Any] = {"fleet_key": public, "version": version, "note": note}
    terms["key"] = _key(opened) if sign else None
    with opened.registry() as registry:
        put = partial(bundles.publish, registry, actor(), _files(opened), **terms)
        if file.is_dir():
            _publish_each(put, file, name or file.resolve().name, format_)
            return
        say(f"verifying {file}")
        done = put(path=file, name=name, device=device)
        row = _shown(registry, done.sha256)
    word = "published" if done.new else "was published before:"
    said = row | {"new": done.new, "mended": done.mended}
    answer(said, format_, lambda: f"{word} {row['name']}@{row['version']}  {done.sha256}")
    if done.mended:
        say("its file was gone, or changed on the disk; it is whole again")
    if format_ is Format.table:
        say(_next(row))


@app.command("list")
def list_bundles(fleet: FleetOption = None, format_: Formats = Format.table) -> None:
    """List what was published, the newest first.

    Example: flwr-fleet bundle list --format json
    """
    from server.fleet.bundles import listed

    with Fleet(fleet).registry() as registry, registry.read() as db:
        rows = listed(db)
    none = "none; flwr-fleet bundle publish FILE"
    answer(rows, format_, lambda: columns(_HEAD, map(_cells, rows), none))


@app.command()
def show(bundle: Named, fleet: FleetOption = None, format_: Formats = Format.table) -> None:
    """Show what a bundle says of itself, and where it was rolled out.

    Example: flwr-fleet bundle show walk@2
    """
    from server.fleet.bundles import shown
    from server.fleet.rolled_out import rolled_out
    from server.fleet.rollouts import summaries
    from server.fleet.rollouts.plan import bundle_of

    opened = Fleet(fleet)
    with opened.registry() as registry, registry.read() as db:
        row = bundle_of(db, bundle)
        said = shown(row) | {"manifest": row.manifest, "file": str(_files(opened).path(row.id))}
        mine = rolled_out(db).get(row.id, ())
        said["rollouts"] = [each for each in summaries(db) if each["id"] in mine]
    answer(said, format_, lambda: _text(said))


def _next(row: dict[str, Any]) -> str:
    """How to roll it out; a bundle does not say whether it was made for one person alone."""
    named = shlex.quote(f"{row['name']}@{row['version']}")
    command = f"next: flwr-fleet rollout create --bundle {named}"
    if row["device"]:
        return f"{command} --group devices={row['device']}"
    return f"{command} --group rest\nwhere it is one person's own: --group devices=DEVICE"


def _publish_each(
    put: Callable[..., "Published"], folder: Path, name: str, format_: Format
) -> None:
    """Publish a folder, all that is good of it; what was refused is the end's error."""
    from schemas.base import ConfigError
    from server.fleet.errors import Refusal

    files = sorted(folder.glob("*.flwb"))
    if not files:
        raise ConfigError(str(folder), ["holds no DEVICE.flwb"])
    found: dict[str, str] = {}
    refused: list[str] = []
    for number, file in enumerate(files, 1):
        progress(f"{number} of {len(files)}: {file.name}; {len(refused)} refused")
        try:
            found[file.stem] = put(path=file, name=name, device=file.stem).sha256
        except (ConfigError, Refusal) as error:
            refused.append(str(error))
    progress("")
    lines = "\n".join(f"{device}  {sha}" for device, sha in found.items())
    answer({"published": found, "refused": refused}, format_, lambda: lines or "none")
    if refused:
        few = "\n".join(refused[:10])
        raise Refusal(f"{few}\n{len(refused)} of {len(files)} were refused; the others are here")
    next_ = f"flwr-fleet rollout create --bundle {shlex.quote(name)} --personal --group rest"
    say(f"next: {next_}")


def progress(line: str) -> None:
    """Overwrite the last line on a terminal; elsewhere nothing."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()


def _text(said: dict[str, Any]) -> str:
    manifest = said["manifest"]
    given, expected = manifest.get("input", {}), manifest.get("expected", {})
    rows = {
        "bundle": f"{said['name']}@{said['version']}",
        "sha256": said["id"],
        "file": f"{said['file']}, {said['bytes']} bytes",
        "published": said["published"],
        "device": said["device"],
        "task": f"{manifest.get('task')}: {', '.join(manifest.get('classes', []))}",
        "input": f"{given.get('time')} samples x {given.get('channels')} channels at "
        f"{given.get('hz')} Hz",
        "weights": f"{manifest.get('bits')} bits, form {manifest.get('form')}",
        "backbone": said["backbone"],
        "base": said["base"],
        "signer": said["signer"],
        "expected": ", ".join(f"{key} {value}" for key, value in expected.items() if value),
        "note": said["note"],
        "roll-outs": ", ".join(f"{one['id']} ({one['state']})" for one in said["rollouts"]),
    }
    return "\n".join(f"{key:<10} {value}" for key, value in rows.items() if value)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        f"{row['name']}@{row['version']}",
        row["id"][:_SHORT],
        row["device"] or "",
        row["task"] or "",
        row["bits"] or "",
        row["bytes"],
        row["published"],
        row["rollouts"],
    )


def _shown(registry: Any, sha: str) -> dict[str, Any]:
    from server.fleet.bundles import shown
    from server.fleet.registry import Bundle

    with registry.read() as db:
        return shown(db.get(Bundle, sha))


def _files(opened: Fleet) -> "BundleFiles":
    from server.fleet.bundles import BundleFiles

    return BundleFiles(opened.folder.bundles)


def _key(opened: Fleet) -> Any:
    from server.fleet.signer import signing_key

    return signing_key(opened.folder, opened.config)

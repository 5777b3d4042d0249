"""A fleet's folder with what roll-outs need of it, and no more: milliseconds."""

import shutil
from pathlib import Path
from typing import Any

from schemas.bundle import HEADER, parse
from schemas.fleet import FleetFolder
from schemas.signing import public_hex
from server.fleet.bundles import BundleFiles
from server.fleet.registry import Bundle, Device, Registry, Tag
from server.transport.ledger import Ledger
from tests.client.orders import KEY


def made(root: Path, migrated: Path, names: str = "", **config: Any) -> FleetFolder:
    """A folder whose signing key is the tests'; ``names`` are accepted devices, "a" is tagged."""
    folder = FleetFolder(root)
    for path in (folder.bundles, folder.objects):
        path.mkdir(parents=True)
    folder.file.write_text('name = "test"\n')
    folder.signing_public.write_text(f"{public_hex(KEY)}\n")
    shutil.copy(migrated, root / "registry.sqlite")
    with Registry(root / "registry.sqlite") as registry, registry.write("test") as tx:
        for name in names:
            tx.db.add(Device(id=name, state="accepted", created=tx.now, changed=tx.now))
            tx.db.flush()
        if "a" in names:
            tx.db.add(Tag(device="a", tag="beta"))
    ledger = Ledger(root / "registry.sqlite")
    for name in names:
        ledger.add_device(name)
    ledger.close()
    return folder


def published(
    folder: FleetFolder,
    data: bytes,
    name: str,
    version: str = "1",
    *,
    database: Path | None = None,
) -> str:
    """Keep a bundle as ``bundle publish`` does, without the process that verifies it; its hash."""
    where = database or folder.root / "registry.sqlite"
    sha = BundleFiles(folder.bundles).keep(data)
    length = HEADER.unpack_from(data)[2]
    manifest = parse(data[HEADER.size : HEADER.size + length]).model_dump(mode="json")
    with Registry(where) as registry, registry.write("test") as tx:
        fields = {"bytes": len(data), "base": manifest["base"], "manifest": manifest}
        tx.db.add(Bundle(id=sha, name=name, version=version, published=tx.now, **fields))
    return sha

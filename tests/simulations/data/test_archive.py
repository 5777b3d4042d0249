import io
import zipfile
from pathlib import Path

import pytest

from simulations.data.archive import open_archive
from simulations.data.base import DataError

FILES = {"set/a/data.txt": b"1 2\n", "set/b/data.txt": b"3\n", "__MACOSX/set/a/._data.txt": b"?"}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["zip", "nested", "folder", "folder of zip"])
def test_every_form_reads_the_same(tmp_path: Path, form: str) -> None:
    path = tmp_path / "it"
    if form == "zip":
        path.write_bytes(zipped(FILES))
    elif form == "nested":
        path.write_bytes(zipped({"readme": b"", "more/inner.zip": zipped(FILES)}))
    elif form == "folder of zip":
        path.mkdir()
        (path / "inner.zip").write_bytes(zipped(FILES))
    else:
        zipfile.ZipFile(io.BytesIO(zipped(FILES))).extractall(path)
    with open_archive(path, "inner.zip") as archive:
        assert archive.read(archive.find("a/data.txt")) == b"1 2\n"
        assert archive.under("set/b") == ["set/b/data.txt"]
        for ending in ("ata.txt", "c/data.txt"):
            with pytest.raises(DataError, match=f"it.*: no file {ending}"):
                archive.find(ending)
        with pytest.raises(DataError, match=r"2 files data.txt"):
            archive.find("data.txt")


def test_broken_zips_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.zip"
    whole = zipped({"readme": b"", "inner.zip": zipped(FILES)[:-20]})
    for content in (b"", b"<html>", whole[:-20], whole):
        path.write_bytes(content)
        with (
            pytest.raises(DataError, match=r"broken.zip: not a readable zip file"),
            open_archive(path, "inner.zip"),
        ):
            pass


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    content = bytearray(zipped(FILES))
    content[content.index(b"data.txt") + 9] ^= 0xFF
    (tmp_path / "it.zip").write_bytes(content)
    with (
        open_archive(tmp_path / "it.zip", "inner.zip") as archive,
        pytest.raises(DataError, match=r"set/a/data.txt: truncated or damaged"),
    ):
        archive.read("set/a/data.txt")

"""Standard streams that are closed, or cannot write what is said."""

import subprocess
import sys

import pytest

from schemas import streams

SAYS = """
import sys
from schemas import streams
streams.prepare()
print("F1 \N{FULL BLOCK}", sys.stdin.readline())
print("gone", file=sys.stderr)
"""
HELPS = [  # each with a letter that is not ASCII
    ("client.cli", "verify"),
    ("server.cli", "rollout", "create"),
    ("simulations.cli", "export"),
]


def shell(command: str, code: str = SAYS) -> subprocess.CompletedProcess[bytes]:
    words = ["sh", "-c", command, sys.executable, code]
    return subprocess.run(words, capture_output=True, input=b"in", check=False)


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        (">&-", b"", b"gone\n"),
        ("2>&-", "F1 █ in\n".encode(), b""),
        ("<&-", "F1 █ \n".encode(), b"gone\n"),
        ("<&- >&- 2>&-", b"", b""),
    ],
)
def test_a_closed_stream_is_the_null_device(closed, out, err):
    done = shell(f'PYTHONIOENCODING=utf-8 "$0" -c "$1" {closed}')
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)


def test_what_a_process_starts_finds_its_streams_taken():
    """A socket that got the number 1 would be written to."""
    code = """
import subprocess, sys
from schemas import streams
streams.prepare()
sys.exit(subprocess.run([sys.executable, "-c", "import os; os.fstat(0); os.fstat(1)"]).returncode)
"""
    assert shell('"$0" -c "$1" <&- >&-', code).returncode == 0


@pytest.mark.parametrize("words", HELPS, ids=lambda words: words[0])
def test_no_command_ends_at_a_letter_that_its_output_cannot_write(words):
    given = [*words[1:], "--help"]
    code = f"import sys; from {words[0]} import main; sys.argv[1:] = {given}; main()"
    done = shell('PYTHONIOENCODING=ascii "$0" -c "$1"', code)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout


def test_paths_that_are_no_text_are_written_as_they_are(monkeypatch, tmp_path):
    with (tmp_path / "out").open("w", encoding="utf-8", errors="surrogateescape") as file:
        monkeypatch.setattr(sys, "stdout", file)
        streams.prepare()
        sys.stdout.write("\udce9")
    assert (tmp_path / "out").read_bytes() == b"\xe9"

"""aarch64 on this machine: qemu, a Debian Python with ONNX Runtime, and this repository's library.

::

    root.py build                                        the library and the kernels' test program
    root.py program [--cpu cortex-a53] isa_test --cases 50
    root.py python [--cpu max] [--onnxruntime 1.20.1] [--daemon] script.py argument…

What is fetched is kept in ``$FLWR_EDGE_CACHE`` (else ``~/.cache/flwr-edge``): Debian's packages,
which apt checks by signature, and wheels, which pip checks by the hashes in this folder. Exit code
69 and one line on stderr: something needed cannot be had here. A build that fails exits with 1.
"""

import argparse
import compileall
import fcntl
import hashlib
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = Path(os.environ.get("FLWR_EDGE_CACHE") or Path.home() / ".cache" / "flwr-edge") / "arm"
UNAVAILABLE = 69
COMPILER = "aarch64-linux-gnu-g++"
QEMU = "qemu-aarch64-static"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# apt adds what these need.
PACKAGES = ["python3.11-minimal", "libpython3.11-stdlib", "libstdc++6"]
PYTHON = "usr/bin/python3.11"
PLATFORMS = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014"]
IN_PACKAGE = ["schemas", "edge_kernels", "client"]


class UnavailableError(Exception):
    """Something needed cannot be had on this machine."""


class BuildError(Exception):
    """The sources do not compile for aarch64."""


def need(command: str, package: str) -> str:
    """Return the path of a command."""
    path = shutil.which(command)
    if not path:
        raise UnavailableError(f"{command} is missing: apt-get install {package}")
    return path


def fetch(what: str, command: list[str]) -> None:
    """Run a command that may want the network; where it fails, its last line says why."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise UnavailableError(f"{what} failed: {lines[-1]}")


def compile_(command: list[str]) -> None:
    """Run a step of the build."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError((done.stdout + done.stderr)[-6000:])


def made(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache; one that is not there is made apart and then moved."""
    folder = CACHE / name
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{name}-") as scratch:
            part = Path(scratch) / "part"
            part.mkdir()
            make(part)
            bytecode(part, folder)
            part.rename(folder)
    return folder


def bytecode(part: Path, folder: Path) -> None:
    """Compile sources ahead, as if they lay in ``folder``: an emulated compiler is most of a start.

    A Python of another version finds nothing that it could read, and compiles for itself.
    """
    compileall.compile_dir(
        part,
        quiet=2,
        rx=re.compile("/tests?/|/onnxruntime/(transformers|tools|quantization)/"),
        stripdir=str(part),
        prependdir=str(folder),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


@contextmanager
def alone() -> Iterator[None]:
    """Keep others from making the same folders meanwhile."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_system(folder: Path) -> None:
    """Unpack Debian's Python for arm64 and all it needs, by apt with state folders of its own."""
    apt, unpack = need("apt-get", "apt"), need("dpkg-deb", "dpkg")
    if not KEYRING.is_file():
        raise UnavailableError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch)
        for part in ("lists/partial", "cache/archives/partial"):
            (state / part).mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text(
            f"deb [signed-by={KEYRING}] http://deb.debian.org/debian bookworm main\n"
            f"deb [signed-by={KEYRING}] http://deb.debian.org/debian-security "
            "bookworm-security main\n"
        )
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "20",
            "Dir::Cache": f"{state}/cache",
            "Dir::Etc::SourceList": f"{state}/sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::State": str(state),
            "Dir::State::status": f"{state}/status",
            "Debug::NoLocking": "true",
        }
        options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        fetch("apt-get update for arm64", [apt, *options, "--quiet", "update"])
        install = ["--yes", "--no-install-recommends", "--download-only", "install", *PACKAGES]
        fetch("apt-get download for arm64", [apt, *options, "--quiet", *install])
        for package in sorted((state / "cache" / "archives").glob("*.deb")):
            fetch("dpkg-deb", [unpack, "--extract", str(package), str(folder)])


def make_wheels(requirements: Path) -> Callable[[Path], None]:
    """Unpack wheels for arm64, each checked by its hash."""

    def make(folder: Path) -> None:
        if not importlib.util.find_spec("pip"):
            raise UnavailableError(f"{sys.executable} has no pip")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        platforms = [f"--platform={name}_aarch64" for name in PLATFORMS]
        target = ["--no-deps", "--no-compile", "--only-binary=:all:", f"--target={folder}"]
        command = [*pip, *target, *platforms, "--python-version=3.11", "--require-hashes"]
        fetch("pip install for aarch64", [*command, f"--requirement={requirements}"])

    return make


def wheels(name: str) -> Path:
    """Return the folder of the wheels that ``name``.txt lists."""
    requirements = HERE / f"{name}.txt"
    if not requirements.is_file():
        known = ", ".join(sorted(path.stem for path in HERE.glob("*.txt")))
        raise UnavailableError(f"no wheels are listed for {name}; there are: {known}")
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:8]
    return made(f"{name}-{digest}", make_wheels(requirements))


def build() -> Path:
    """Cross-compile the library and the kernels' test, and stage the package beside them."""
    cmake, compiler = need("cmake", "cmake"), need(COMPILER, "g++-aarch64-linux-gnu")
    folder = CACHE / f"build-{hashlib.sha256(bytes(REPOSITORY)).hexdigest()[:8]}"
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_EXE_LINKER_FLAGS": "-static",  # test programs then need no arm64 system
        "FLWR_EDGE_TESTS": "ON",
        "Python3_EXECUTABLE": sys.executable,
    }
    configure = [cmake, "-S", str(REPOSITORY / "edge_kernels"), "-B", str(folder)]
    compile_([*configure, *(f"-D{key}={value}" for key, value in settings.items())])
    jobs = str(os.cpu_count() or 1)
    targets = ["--target", "flwr_edge_ops", "isa_test", "integer_fuzz"]
    compile_([cmake, "--build", str(folder), "--parallel", jobs, *targets])
    package = folder / "package"
    shutil.rmtree(package, ignore_errors=True)
    for name in IN_PACKAGE:
        for source in (REPOSITORY / name).rglob("*.py"):
            to = package / source.relative_to(REPOSITORY)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, to)
    bytecode(package, package)
    compile_([cmake, "--install", str(folder), "--prefix", str(package)])
    return folder


def qemu(cpu: str) -> list[str]:
    """Return the command that runs an aarch64 program."""
    return [need(QEMU, "qemu-user-static"), "-cpu", cpu]


def python(cpu: str, onnxruntime: str, *, daemon: bool) -> tuple[list[str], dict[str, str]]:
    """Return the command of a Python in qemu, and its environment."""
    command = qemu(cpu)
    system = made("bookworm", make_system)
    paths = [build() / "package", wheels(f"onnxruntime-{onnxruntime}")]
    paths += [wheels("daemon")] if daemon else []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONNOUSERSITE": "1",
    }
    return [*command, "-L", str(system), str(system / PYTHON)], environment


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="aarch64 on this machine")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    program, interpreter = commands.add_parser("program"), commands.add_parser("python")
    interpreter.add_argument("--onnxruntime", default="1.24.4")
    interpreter.add_argument("--daemon", action="store_true", help="with the daemon's packages")
    for command in (program, interpreter):
        command.add_argument("--cpu", default="cortex-a53", help="a name that qemu knows")
        command.add_argument("rest", nargs=argparse.REMAINDER)
    return parser.parse_args()


def prepare(asked: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Make what is asked for; return the command to become, and its environment."""
    if asked.command == "python":
        command, environment = python(asked.cpu, asked.onnxruntime, daemon=asked.daemon)
        return command + asked.rest, environment
    folder = build()
    if asked.command == "build":
        return ["/bin/echo", str(folder)], dict(os.environ)
    name, *rest = asked.rest
    return [*qemu(asked.cpu), str(folder / name), *rest], dict(os.environ)


def main() -> None:
    """Make what is asked for, and become it."""
    asked = arguments()
    try:
        with alone():
            command, environment = prepare(asked)
    except UnavailableError as error:
        sys.stderr.write(f"aarch64: {error}\n")
        sys.exit(UNAVAILABLE)
    except BuildError as error:
        sys.exit(str(error))
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()

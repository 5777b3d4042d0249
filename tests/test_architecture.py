"""Rooms import downwards only, and a device loads nothing that it does not need."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "schemas": set(),
    "hypernet": {"schemas"},
    "edge_kernels": {"schemas"},
    "client": {"schemas", "edge_kernels"},
    "server": {"schemas", "hypernet", "edge_kernels"},
    "simulations": {"schemas", "hypernet", "edge_kernels", "client", "server"},
}
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
PUBLIC_FLOWER = ("flwr.app", "flwr.serverapp", "flwr.clientapp", "flwr.simulation")
HEAVY = {"torch", "flwr", "sqlalchemy", "onnx", "pandas", "sklearn", "matplotlib", "fastapi"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


@cache
def modules_of(path: Path) -> set[str]:
    return set(imported(ast.parse(path.read_text())))


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in packages)


IDS = [str(path.relative_to(ROOT)) for path in FILES]
in_every_file = pytest.mark.parametrize("path", FILES, ids=IDS)


@in_every_file
def test_rooms_import_downwards_only(path):
    room = path.relative_to(ROOT).parts[0]
    reached = {module.split(".")[0] for module in modules_of(path)} & set(MAY_IMPORT)
    assert reached <= MAY_IMPORT[room] | {room}


@in_every_file
def test_only_rooms_that_may_import_heavy_packages(path):
    room, *_ = path.relative_to(ROOT).parts
    heavy = {module.split(".")[0] for module in modules_of(path)} & HEAVY
    if path == ROOT / "client" / "app.py":
        heavy -= {"flwr"}
    if room == "hypernet":
        heavy -= {"torch", "onnx"}
    if room == "edge_kernels":  # its quantizers and benchmarks; never on a device: see below
        heavy -= {"onnx"}
    if path.is_relative_to(ROOT / "edge_kernels" / "quantize"):  # MobileQuant learns
        heavy -= {"torch"}
    if room in ("schemas", "client", "hypernet", "edge_kernels"):
        assert not heavy


@in_every_file
def test_only_flowers_public_modules(path):
    private = {
        module
        for module in modules_of(path)
        if within(module, ("flwr",)) and module != "flwr" and not within(module, PUBLIC_FLOWER)
    }
    if path.name != "flower_private.py":  # the one place that says what it leans on
        assert not private


def test_there_are_rooms_to_look_at():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"schemas", "client", "server"}
    assert len(FILES) > 30


def loaded(*modules: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing modules."""
    script = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


DEVICE = ("client.cli", "client.device", "client.learner", "client.windows", "edge_kernels")
SCHEMAS = tuple(f"schemas.{path.stem}" for path in sorted((ROOT / "schemas").glob("[a-z]*.py")))


def test_a_device_loads_only_what_it_needs():
    packages = loaded(*DEVICE, *SCHEMAS)
    assert packages >= {"client", "schemas", "numpy", "onnxruntime", "pydantic"}
    assert not packages & (HEAVY | {"server", "hypernet", "simulations", "scipy"})


def test_schemas_need_no_runtime():
    packages = loaded(*SCHEMAS)
    assert not packages & (HEAVY | set(MAY_IMPORT) - {"schemas"} | {"onnxruntime"})


def test_the_client_app_adds_flower_and_nothing_of_the_server():
    packages = loaded("client.app")
    assert "flwr" in packages
    assert not packages & {"torch", "onnx", "server", "hypernet", "simulations"}


def test_each_module_can_be_the_first_that_is_imported():
    """Modules that import each other in a circle work or not by who comes first."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if path.name != "__main__.py" and "migrations" not in path.parts
    ]
    script = f"""
import importlib, sys
ours, failed = {sorted(MAY_IMPORT)!r}, []
for name in {names!r}:
    for each in [n for n in sys.modules if n.partition(".")[0] in ours]:
        del sys.modules[each]
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed.append(f"{{name}}: {{error}}")
print("\\n".join(failed))
"""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == ""

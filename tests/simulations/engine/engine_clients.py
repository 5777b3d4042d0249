"""Client apps that the engine's tests run in real workers: good ones, bad ones, dying ones."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

app = ClientApp()
not_an_app = "text"


@app.train("echo")
def echo(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


@app.train("work")
def work(message: Message, context: Context) -> Message:
    """Depend on all that a client sees: node, state, configs, weights; and leave a state."""
    record: Any = message.content["arrays"]
    vector = record["vector"].numpy()
    past: Any = context.state.get("past", ArrayRecord())
    total = past["sum"].numpy() if "sum" in past else np.zeros_like(vector)
    total = total * 0.5 + vector * (1 + int(context.node_config["partition-id"]))
    context.state["past"] = ArrayRecord({"sum": Array(total)})
    return Message(RecordDict({"arrays": ArrayRecord({"vector": Array(total)})}), reply_to=message)


@app.train("count")
def count(message: Message, context: Context) -> Message:
    seen: Any = context.state.get("seen", ConfigRecord({"n": 0, "blob": b"\x00\xff"}))
    seen["n"] += 1
    context.state["seen"] = seen
    if message.content["config"].get("fail"):  # type: ignore[union-attr]
        raise RuntimeError("after the state was changed")
    return Message(RecordDict({"seen": MetricRecord({"n": seen["n"]})}), reply_to=message)


def _inheritable(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return os.get_inheritable(fd)
    return False


@app.train("look")
def look(message: Message, context: Context) -> Message:
    facts = {
        "run_config": str(context.run_config),
        "node_config": str(context.node_config),
        "run_id": context.run_id,
        "node_id": context.node_id,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "folder": str(Path.cwd()),
        "told": os.environ.get("ENGINE_CLIENTS", ""),
        "random": float(np.random.rand()),  # noqa: NPY002  clients may use it
        "inherited": [int(fd) for fd in os.listdir("/proc/self/fd") if _inheritable(int(fd))],  # noqa: PTH208
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        "ours": sorted(name for name in sys.modules if name.startswith(("simulations", "server"))),
    }
    return Message(RecordDict({"facts": ConfigRecord(facts)}), reply_to=message)


@app.train("fail")
def fail(message: Message, context: Context) -> Message:
    raise ZeroDivisionError("no windows")


@app.train("speak")
def speak(message: Message, context: Context) -> Message:
    print("said", flush=True)  # noqa: T201
    return Message(RecordDict(), reply_to=message)


@app.train("leave")
def leave(message: Message, context: Context) -> Message:
    sys.exit(3)


@app.train("refuse")
def refuse(message: Message, context: Context) -> Message:
    return Message(Error(77, "not today"), reply_to=message)


@app.train("nothing")
def nothing(message: Message, context: Context) -> Any:
    return None


@app.train("hang")
def hang(message: Message, context: Context) -> Message:
    time.sleep(600)
    raise AssertionError


@app.train("die")
def die(message: Message, context: Context) -> Message:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@app.train("exit")
def exit_(message: Message, context: Context) -> Message:
    os._exit(5)

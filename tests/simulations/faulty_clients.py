"""The learner, on some nodes broken: ``FAULTY`` says how, by node, as JSON."""

import json
import os
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from client.app import app as good

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    how = json.loads(os.environ["FAULTY"]).get(str(context.node_id))
    first = message.content.config_records["config"]["server-round"] == 1
    if how == "raise":
        raise ValueError("the sensor fell off\nand broke")
    if how == "hang" and first:
        time.sleep(600)
    if how == "exit" and first:
        os._exit(7)
    reply = good(message, context)
    if how == "nan":
        coded = dict(reply.content.array_records["delta"])
        coded["scales"] = Array(np.full_like(coded["scales"].numpy(), np.nan))
        reply.content["delta"] = ArrayRecord(coded)
    return reply


@app.query("graphs")
def graphs(message: Message, context: Context) -> Message:
    return good(message, context)


@app.query("install")
def install(message: Message, context: Context) -> Message:
    return good(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return good(message, context)

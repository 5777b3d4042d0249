"""Flower's records as a payload, and back: the server's side of what ``client/app.py`` does."""

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from schemas.payload import Payload, PayloadError


def payload_of(content: RecordDict) -> Payload:
    """What records hold, to be packed."""
    return Payload(
        arrays={
            name: {key: array.numpy() for key, array in record.items()}
            for name, record in content.array_records.items()
        },
        config={name: dict(record) for name, record in content.config_records.items()},
        metrics={name: dict(record) for name, record in content.metric_records.items()},
    )


def records_of(payload: Payload) -> RecordDict:
    """What a device sent, as Flower's records.

    Raises
    ------
    PayloadError
        Where Flower's records take no such value.
    """
    content = RecordDict()
    try:
        for name, arrays in payload.arrays.items():
            content[name] = ArrayRecord({key: Array(array) for key, array in arrays.items()})
        for name, config in payload.config.items():
            content[name] = ConfigRecord(config)
        for name, metrics in payload.metrics.items():
            content[name] = MetricRecord(metrics)
    except (TypeError, ValueError) as error:
        raise PayloadError(f"record {name!r}: {error}") from error
    return content

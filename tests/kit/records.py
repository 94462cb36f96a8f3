"""What trackers have recorded, read back with the tools' own readers, and a tracker that fails."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from normbench.trackers.tracker import Axis, Subject, trackers

Points = dict[str, list[tuple[int, float]]]
WANDB_BLOCK = 32768


@dataclass
class Recorded:
    """A record: points by series, settings as text, the state."""

    points: Points = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    state: str = ""


def in_tensorboard(folder: Path, run: str) -> Recorded:
    """From the event files of the run, with TensorBoard's reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import (
        SESSION_START_INFO_TAG,
        parse_session_start_info_plugin_data,
    )
    from tensorboard.util.tensor_util import make_ndarray

    found = Recorded()
    events = EventAccumulator(str(folder / run), {"tensors": 0}).Reload()
    for series in events.Tags()["tensors"]:
        values = [
            (event.step, make_ndarray(event.tensor_proto)) for event in events.Tensors(series)
        ]
        if series == "status/text_summary":
            ((_, (text,)),) = values
            found.state = text.decode().partition(":")[0]
        elif not series.endswith("/text_summary"):
            found.points[series] = [(step, float(value)) for step, value in values]
    start = events.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    for key, value in parse_session_start_info_plugin_data(start).hparams.items():
        kind = value.WhichOneof("kind")
        found.settings[key] = str(getattr(value, kind))
    return found


def in_mlflow(folder: Path, run: str) -> Recorded:
    """From the only active run of that name, with MLflow's client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("normbench")
    (found,) = client.search_runs([experiment.experiment_id], f"tags.`normbench.run` = '{run}'")
    points = {}
    for series in found.data.metrics:
        history = client.get_metric_history(found.info.run_id, series)
        points[series] = [(metric.step, metric.value) for metric in history]
    return Recorded(points, found.data.params, found.data.tags["normbench.state"])


def in_wandb(folder: Path, run: str) -> Recorded:
    """From the only offline record of the run, with the messages of wandb."""
    from wandb.proto import wandb_internal_pb2

    found = Recorded()
    (file,) = folder.glob(f"offline-run-*-{run}/*.wandb")
    records: list[Any] = []
    deadline = time.monotonic() + 30
    # wandb's process goes on writing after `finish`.
    while not any(record.HasField("exit") for record in records):
        assert time.monotonic() < deadline, "the record has no end"
        contents = _wandb_records(file.read_bytes())
        records = [wandb_internal_pb2.Record.FromString(content) for content in contents]
    for record in records:
        if record.HasField("run"):
            for item in record.run.config.update:
                found.settings[item.key] = str(json.loads(item.value_json))
        for item in record.summary.update:
            if item.key == "state":
                found.state = json.loads(item.value_json)
        row = {}
        for item in record.history.item:
            row[item.key or item.nested_key[0]] = json.loads(item.value_json)
        for series in row:
            axis, slash, _ = series.partition("/")
            if slash:
                found.points.setdefault(series, []).append((row[axis], row[series]))
    found.settings.pop("facts")
    found.settings.pop("_wandb", None)
    return found


def _wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file, which is a log as of LevelDB after a header of 7 bytes."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        left = WANDB_BLOCK - place % WANDB_BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        # Of a record in parts these are all but the last.
        if kind not in (2, 3):
            yield parts
            parts = b""


READERS: dict[str, Callable[[Path, str], Recorded]] = {
    "tensorboard": in_tensorboard,
    "mlflow": in_mlflow,
    "wandb": in_wandb,
}


def rows_of(run: Path) -> Points:
    """The points that the CSV files of a run have, but for what was not measured."""
    points: Points = {}
    for axis, name in (("epoch", "metrics.csv"), ("step", "steps.csv")):
        header, *lines = (run / name).read_text().splitlines()
        columns = header.split(",")
        for line in lines:
            row = dict(zip(columns, map(float, line.split(",")), strict=True))
            for column in set(columns) - {"epoch", "step", "steps"}:
                if not np.isnan(row[column]):
                    series = points.setdefault(f"{axis}/{column}", [])
                    series.append((int(row[axis]), row[column]))
    return points


class Failing:
    """A tracker that notes what it is told, and of which a method fails: open, log, end or none."""

    def __init__(self, where: str, told: list[str]) -> None:
        self.where = where
        self.told = told

    def open(self, folder: Path, subject: Subject, is_new: bool) -> Failing:
        self._fail("open")
        return self

    def log(self, axis: Axis, place: int, values: Any) -> None:
        self._fail("log", f" {axis} {place}")

    def end(self, state: str, reason: str | None, picture: bytes | None) -> None:
        self._fail("end")

    def _fail(self, method: str, what: str = "") -> None:
        self.told.append(method + what)
        # The numbers of a run are from streams of its own.
        np.random.default_rng().random()
        if self.where == method:
            raise OSError("the disk of the tracker\nis full")


@contextmanager
def failing(where: str) -> Iterator[list[str]]:
    """Registers the tracker `failing`; yields what it is told: "open", "log epoch 1", "end"."""
    told: list[str] = []
    tracker = Failing(where, told)
    trackers.register("failing", title="Failing")(lambda: tracker.open)
    try:
        yield told
    finally:
        del trackers._entries["failing"]

"""Records for MLflow (the extra `mlflow`): a SQLite file, or the server that the user has named.

MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are the user's, as everywhere in MLflow.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from normbench.trackers.tracker import PROJECT, Axis, Open, Subject, require_package, trackers

RUN = "normbench.run"  # the tag by which a run is found again
STATUS = {"done": "FINISHED", "interrupted": "KILLED"}  # of other states: FAILED
MAX_PARAMS, MAX_METRICS = 100, 1000  # in a request
LONGEST = 6000  # characters of a parameter's value


@trackers.register("mlflow", title="MLflow")
def mlflow() -> Open:
    """A run of the experiment `normbench` in FOLDER/mlflow.db, or at $MLFLOW_TRACKING_URI."""
    require_package("mlflow")
    return MlflowRun


class MlflowRun:
    """A run in MLflow. A resumed run goes on with the points that are there.

    Rows are sent with the row of their epoch. The record of a new run replaces an
    earlier one of the same id, which MLflow keeps among the deleted.
    """

    def __init__(self, folder: Path, subject: Subject, is_new: bool) -> None:
        self._metrics: list[Any] = []
        server = os.environ.get("MLFLOW_TRACKING_URI")
        with nullcontext() if server else _locked(folder):
            self._client = _client(server or f"sqlite:///{(folder / 'mlflow.db').absolute()}")
            experiment = _experiment(self._client, None if server else folder)
            query = f"tags.`{RUN}` = '{subject.run}'"
            found = self._client.search_runs([experiment], query)
            for run in found if is_new else found[1:]:
                self._client.delete_run(run.info.run_id)
            if is_new or not found:
                tags = {RUN: subject.run, "mlflow.note.content": subject.notes, **subject.facts}
                run = self._client.create_run(experiment, run_name=subject.run, tags=tags)
                self._send_settings(run.info.run_id, subject.settings)
            else:
                run = found[0]
                self._client.update_run(run.info.run_id, status="RUNNING")
        self._id = run.info.run_id
        self._known = {}
        for name in run.data.metrics:
            history = self._client.get_metric_history(self._id, name)
            self._known[name] = {metric.step for metric in history}

    def log(self, axis: Axis, place: int, values: Mapping[str, float]) -> None:
        """Keeps a point per column; sends all points kept with those of an epoch."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        for column, value in values.items():
            name = f"{axis}/{column}"
            if place not in self._known.setdefault(name, set()):
                self._known[name].add(place)
                self._metrics.append(Metric(name, value, now, place))
        if axis == "epoch":
            self._send()

    def end(self, state: str, reason: str | None, picture: bytes | None) -> None:
        """Sends the rest, the state as MLflow's status and as tags, and the picture."""
        self._send()
        self._client.set_tag(self._id, "normbench.state", state)
        self._client.set_tag(self._id, "normbench.reason", reason or "")
        if picture is not None:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "picture.png"
                file.write_bytes(picture)
                self._client.log_artifact(self._id, str(file))
        self._client.set_terminated(self._id, STATUS.get(state, "FAILED"))

    def _send(self) -> None:
        for start in range(0, len(self._metrics), MAX_METRICS):
            part = self._metrics[start : start + MAX_METRICS]
            self._client.log_batch(self._id, metrics=part)
        self._metrics = []

    def _send_settings(self, run_id: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:LONGEST]) for key, value in settings.items()]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + MAX_PARAMS])


def _client(uri: str) -> Any:
    # Otherwise MLflow reports its use to its makers, and tells how it makes its tables.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, folder: Path | None) -> str:
    """The id of the experiment, made where there is none; its files lie in the local folder."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = None if folder is None else (folder / "artifacts").absolute().as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _locked(folder: Path) -> FileLock:
    """Keeps runs that start together from making the same tables or the same experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "mlflow.lock")

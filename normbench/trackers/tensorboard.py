"""Records for TensorBoard (the extra `tensorboard`): a folder of event files per run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normbench.trackers.tracker import Axis, Open, Subject, require_package, trackers


@trackers.register("tensorboard", title="TensorBoard")
def tensorboard() -> Open:
    """Event files, which `tensorboard --logdir FOLDER` shows."""
    require_package("tensorboard")
    return EventFiles


class EventFiles:
    """The event file of a run, written anew when the run is resumed."""

    def __init__(self, folder: Path, subject: Subject, is_new: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self._subject = subject
        place = folder / subject.run
        for file in place.glob("events.out.tfevents.*"):
            file.unlink()
        # By the purge a TensorBoard that is open forgets the points of those files.
        self._writer = SummaryWriter(str(place), purge_step=0, flush_secs=10)
        results = {f"epoch/test_{metric.name}": 0.0 for metric in subject.metrics}
        experiment, session, _ = hparams(_plain(subject.settings), results)
        self._write(experiment)
        self._write(session)
        self._writer.add_text("about", subject.notes)

    def log(self, axis: Axis, place: int, values: Mapping[str, float]) -> None:
        """Writes a scalar per column, in double precision."""
        for column, value in values.items():
            meaning = self._subject.meaning(axis, column)
            self._write(_scalar(f"{axis}/{column}", value, meaning), place)
        if axis == "epoch":
            self._writer.flush()

    def end(self, state: str, reason: str | None, picture: bytes | None) -> None:
        """Writes the state as text and for the tab of hyperparameters, and closes the file."""
        from PIL import Image

        if picture is not None:
            with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image("picture", pixels, dataformats="HWC")
        self._writer.add_text("status", state if reason is None else f"{state}: {reason}")
        self._write(_session_end(is_done=state == "done"))
        self._writer.close()

    def _write(self, summary: Any, place: int | None = None) -> None:
        writer: Any = self._writer.file_writer
        writer.add_summary(summary, place)


def _scalar(name: str, value: float, meaning: str) -> Any:
    """A point of a series. torch's `add_scalar` has no place for a description."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.scalar.metadata import create_summary_metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    metadata = create_summary_metadata(display_name="", description=meaning)
    tensor = make_tensor_proto(np.float64(value))
    return Summary(value=[Summary.Value(tag=name, metadata=metadata, tensor=tensor)])


def _session_end(*, is_done: bool) -> Any:
    """The end of a session in the tab of hyperparameters, which knows success and failure."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, create_summary_metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    status = Status.Value("STATUS_SUCCESS" if is_done else "STATUS_FAILURE")
    data = HParamsPluginData(session_end_info=SessionEndInfo(status=status))
    metadata = create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=SESSION_END_INFO_TAG, metadata=metadata)])


def _plain(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Settings as hyperparameters, which know neither null nor lists."""
    kinds = bool | int | float | str
    plain: dict[str, bool | int | float | str] = {}
    for key, value in settings.items():
        plain[key] = value if isinstance(value, kinds) else json.dumps(value)
    return plain

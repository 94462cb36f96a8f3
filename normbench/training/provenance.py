"""What env.json says of a run: its task and data, and the machine and versions that trained it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from normbench import environment
from normbench.config.schema import RunConfig
from normbench.data import Source
from normbench.tasks.metric import TaskRecord
from normbench.tasks.task import Task


def environment_of(config: RunConfig, source: Source, task: Task) -> dict[str, Any]:
    """The content of env.json, for a run that begins or goes on now in this process."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": environment.command(),
        "task": TaskRecord(config.task.name, task.primary, task.metrics).to_json(),
        "data": {
            "name": source.name,
            "content": source.content,
            "classes": list(source.classes),
            "image_shape": list(source.image_shape),
            "num_train": source.num_train,
            "num_test": source.num_test,
        },
        # What a finished run's network is built again for.
        "network": {"takes": list(task.image_shape), "makes": list(task.output_shape)},
        "cost_id": config.cost_id(source.image_shape, task.output_shape[0]),
        "concurrent_runs": config.system.concurrent_runs,
        "runtime": config.runtime.model_dump(),
        "hardware": environment.hardware(config.runtime.device),
        "versions": environment.versions(),
        "git": environment.git(),
    }

"""Classification: losses and sums against torch, random arrays, and the task on record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kit.training import SOURCE, run_in, task_of
from torch.nn.functional import cross_entropy

from normbench.data.source import Split
from normbench.errors import NormbenchError
from normbench.runs.files import read_run
from normbench.tasks.classification import ACCURACY, LOSS
from normbench.tasks.metric import TaskRecord
from normbench.tasks.registry import tasks

OUTPUTS = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
BATCH = {"labels": torch.tensor([3, 1, 4, 1, 5, 9])}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_torch_s_cross_entropy_smoothed_in_training_only(smoothing: float) -> None:
    task = task_of(smoothing)
    plain = cross_entropy(OUTPUTS, BATCH["labels"])
    smoothed = cross_entropy(OUTPUTS, BATCH["labels"], label_smoothing=smoothing)
    assert task.assess(OUTPUTS, BATCH, training=True)[0] == smoothed
    assert task.assess(OUTPUTS, BATCH, training=False)[0] == plain
    assert (smoothed == plain) == (smoothing == 0)


def test_sums_count_the_images_whose_largest_logit_is_that_of_the_label() -> None:
    labels = OUTPUTS.argmax(1)
    task = task_of()
    for num_wrong in (0, 2, 6):
        given = labels.clone()
        given[:num_wrong] = (given[:num_wrong] + 1) % 10
        _, sums = task.assess(OUTPUTS, {"labels": given}, training=False)
        assert {name: value.item() for name, value in sums.items()} == {"accuracy": 6 - num_wrong}
    assert [LOSS.name, *sums] == [metric.name for metric in task.metrics]
    assert task.primary == ACCURACY
    assert task.output_shape == (10,)


def test_random_arrays_are_a_split_of_images_and_labels_of_all_classes() -> None:
    split = Split(task_of().random_arrays(200, np.random.default_rng(0)))
    assert split["images"].shape == (200, *SOURCE.image_shape)
    assert split["images"].dtype == np.uint8
    assert {*split["labels"].tolist()} == {*range(10)}
    again = task_of().random_arrays(200, np.random.default_rng(0))
    assert all(np.array_equal(again[name], split[name]) for name in ("images", "labels"))


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(NormbenchError, match=r"^task\.label_smoothing: should be less than 1"):
        tasks.build("classification", SOURCE, options={"label_smoothing": 1.0})


def test_a_run_s_record_of_its_task_is_read_without_the_task(tmp_path: Path) -> None:
    path = run_in(tmp_path, "epochs=1").path
    recorded = TaskRecord.from_json(read_run(path).environment["task"])
    assert recorded == TaskRecord("classification", ACCURACY, (LOSS, ACCURACY))

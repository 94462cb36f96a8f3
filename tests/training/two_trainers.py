"""Runs each of the two processes of test_several_processes.py: its share of several trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from kit.training import in_double, loader_of, model_of, never, split_of, task_of, trainer_of
from torch import Tensor, nn

from normbench.training.appearance import evaluate_appearance
from normbench.training.engine import Diverged, StepLog, Stopped, Trainer
from normbench.training.evaluate import evaluate
from normbench.training.processes import ALONE, Processes

NUMBER = 2
BATCH = 4  # of each process
# The images: the last step of an epoch is full, or has 2 + 1 images, or 1 + 0.
FULL, UNEQUAL, IDLE = 48, 51, 49
EPOCHS = 5  # 30 steps or more
Found = dict[str, Any]

# The norm of the processes and the norm of one process that they are to equal, each with options.
PAIRS: dict[str, tuple[tuple[str, Found], tuple[str, Found]]] = {
    "none": (("none", {}), ("none", {})),
    "gn": (("gn", {"num_groups": 2}), ("gn", {"num_groups": 2})),
    "ln": (("ln", {}), ("ln", {})),
    "sync_bn": (("sync_bn", {}), ("bn", {})),
}
IMAGES = {"full": FULL, "unequal": UNEQUAL, "idle": IDLE}
CASES = {f"{norm} {images}": (norm, images) for norm in PAIRS for images in IMAGES}


def trained(norm: str, images: int, processes: Processes, options: Found, **given: Any) -> Trainer:
    """A trainer at its beginning; one process alone takes what the others together take."""
    batch_size = BATCH * NUMBER // processes.number
    split = split_of(images)
    model = in_double(model_of(norm, **options))
    settings: Found = {"epochs": EPOCHS, "batch_size": batch_size, "split": split} | given
    return trainer_of(model=model, processes=processes, **settings)


def results(trainer: Trainer) -> Found:
    """The loss of every step; loss, accuracy and images of every epoch; the state at the end."""
    losses: list[float] = []
    epochs: list[list[float]] = []

    def on_step(log: StepLog | None) -> None:
        assert log is not None
        losses.append(log.loss)

    while not trainer.is_done:
        result = trainer.train_epoch(on_step, never)
        epochs.append([*result.means.values(), result.num_images])
    return {"losses": losses, "epochs": epochs, "state": trainer.model.state_dict()}


def interrupted(processes: Processes) -> dict[str, Tensor]:
    """The state after a training that was saved after step 10 and went on in another trainer."""
    first = trained("bn", UNEQUAL, processes, {}, accumulate=2)

    def is_tenth() -> bool:
        # Asked for in one process only.
        return processes.rank == 1 and first.step == 10

    state: Found = {}
    try:
        while not first.is_done:
            first.train_epoch(lambda log: None, is_tenth)
    except Stopped:
        state = first.state_dict()
    assert first.step == 10
    second = trained("bn", UNEQUAL, processes, {}, accumulate=2)
    # Only the main process reads checkpoints.
    second.load_state_dict(processes.from_main(state))
    return results(second)["state"]


def diverged(processes: Processes) -> str:
    """How the training ends where the loss of the second process alone is no number."""
    trainer = trained("gn", FULL, processes, {"num_groups": 2})
    if processes.rank == 1:
        task: Any = trainer.task
        assess = task.assess

        def no_number(*given: Any, **named: Any) -> Any:
            loss, sums = assess(*given, **named)
            return loss * float("nan"), sums

        task.assess = no_number
    logs: list[StepLog | None] = []
    try:
        trainer.train_epoch(logs.append, never)
    except Diverged as error:
        return f"{error} after {len(logs)} step"
    return "not at all"


def evaluated(processes: Processes) -> Found:
    """The evaluation of 1,100 images, in whole and shared batches."""
    trainer = trained("gn", FULL, processes, {"num_groups": 2})
    loader = loader_of(split_of(1100))
    found = evaluate(trainer.model, loader, task_of(), trainer.runtime, processes)
    # Its hook, which makes images float64, runs below another module.
    model = nn.Sequential(trainer.model)
    appearance = evaluate_appearance(model, loader, task_of(), trainer.runtime, processes)
    return {"means": found.means, "correct": found.correct, "appearance": appearance}


def process(rank: int, folder: str) -> None:
    """Saves what a process finds."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=NUMBER)
    processes = Processes(rank, NUMBER)
    found: Found = {}
    for case, (norm, images) in CASES.items():
        name, options = PAIRS[norm][0]
        found[case] = results(trained(name, IMAGES[images], processes, options))
    for images, number in IMAGES.items():
        found[f"bn {images}"] = results(trained("bn", number, processes, {}))
    more = {"accumulate": 2, "max_steps": 11}
    found["accumulated"] = results(trained("sync_bn", UNEQUAL, processes, {}, **more))
    found["never stopped"] = results(trained("bn", UNEQUAL, processes, {}, accumulate=2))["state"]
    found["interrupted"] = interrupted(processes)
    found["diverged"] = diverged(processes)
    found["evaluated"] = evaluated(processes)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def alone(norm: str, images: int, options: Found, **given: Any) -> Found:
    """The results of one process."""
    return results(trained(norm, images, ALONE, options, **given))

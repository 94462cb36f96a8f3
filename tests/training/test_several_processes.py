"""Several processes of one training: what they equal in one process. Two processes on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from kit.training import in_double, loader_of, model_of, split_of
from torch.nn.functional import cross_entropy
from two_trainers import (
    BATCH,
    CASES,
    IMAGES,
    NUMBER,
    PAIRS,
    UNEQUAL,
    alone,
    evaluated,
    process,
)

from normbench.training.processes import ALONE

# Of one worker: both processes train once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("several_processes")]
Found = dict[str, Any]
# Losses are logged in float32, and differ by 4e-7 at most; parameters, in float64, by 1e-15.
LOSS = {"rtol": 0.0, "atol": 2e-6}
STATE = {"rtol": 0.0, "atol": 1e-12}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("two-trainers")
    mp.spawn(process, args=(str(folder),), nprocs=NUMBER)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(NUMBER))
    return first, second


@pytest.mark.parametrize("case", CASES)
def test_processes_equal_one_process_at_the_whole_batch(
    found: tuple[Found, Found], case: str
) -> None:
    norm, images = CASES[case]
    name, options = PAIRS[norm][1]
    whole = alone(name, IMAGES[images], options)
    assert len(whole["losses"]) >= 30
    for part in found:
        torch.testing.assert_close(part[case]["losses"], whole["losses"], **LOSS)
        torch.testing.assert_close(part[case]["state"], whole["state"], **STATE)
        for epoch, wanted in zip(part[case]["epochs"], whole["epochs"], strict=True):
            (loss, accuracy, number), (loss_wanted, accuracy_wanted, number_wanted) = epoch, wanted
            assert loss == pytest.approx(loss_wanted, rel=1e-5)
            # Rounding may turn the answer for one image.
            assert accuracy == pytest.approx(accuracy_wanted, abs=1.01 / number)
            assert number == number_wanted == IMAGES[images]


def test_bn_of_processes_is_ghost_bn(found: tuple[Found, Found]) -> None:
    whole = alone("ghost_bn", IMAGES["full"], {"size": BATCH})
    for part in found:
        together = part["bn full"]
        torch.testing.assert_close(together["losses"], whole["losses"], **LOSS)
        # Running statistics aside.
        parameters = {name: whole["state"][name] for name, _ in model_of("bn").named_parameters()}
        own = {name: together["state"][name] for name in parameters}
        torch.testing.assert_close(own, parameters, **STATE)


@pytest.mark.parametrize("images", ["unequal", "idle"])
def test_every_image_counts_the_same_in_unequal_shares(
    found: tuple[Found, Found], images: str
) -> None:
    """bn by hand: the statistics of each share, and the mean over the images of the step."""
    wanted = by_hand(IMAGES[images])
    together = found[0][f"bn {images}"]["losses"][: len(wanted)]
    torch.testing.assert_close(together, wanted, **LOSS)


@pytest.mark.parametrize("case", ["bn full", "bn unequal", "bn idle", "sync_bn idle"])
def test_processes_end_with_the_same_network(found: tuple[Found, Found], case: str) -> None:
    first, second = (part[case] for part in found)
    assert first["losses"] == second["losses"]
    assert first["epochs"] == second["epochs"]
    same = {key: torch.equal(value, second["state"][key]) for key, value in first["state"].items()}
    assert all(same.values())
    assert any(key.endswith("running_mean") for key in same)


def test_accumulated_batches_equal_one_process(found: tuple[Found, Found]) -> None:
    whole = alone("bn", UNEQUAL, {}, accumulate=2, max_steps=11)
    for part in found:
        torch.testing.assert_close(part["accumulated"]["state"], whole["state"], **STATE)


def test_a_resumed_training_ends_with_the_same_bits(found: tuple[Found, Found]) -> None:
    for part in found:
        for key, value in part["never stopped"].items():
            assert torch.equal(value, part["interrupted"][key])


def test_all_processes_see_the_loss_of_one(found: tuple[Found, Found]) -> None:
    for part in found:
        assert part["diverged"] == "the loss of step 0 in epoch 1 is nan after 1 step"


def test_a_shared_evaluation_is_that_of_one_process(found: tuple[Found, Found]) -> None:
    whole = evaluated(ALONE)
    for part in found:
        assert torch.equal(part["evaluated"]["correct"], whole["correct"])
        for name in ("means", "appearance"):
            assert part["evaluated"][name] == pytest.approx(whole[name], rel=1e-12)


def by_hand(images: int) -> list[float]:
    """The losses of the first epoch of bn in shares, written out with torch alone."""
    model, loader = in_double(model_of("bn")), loader_of(split_of(images))
    decaying = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": decaying}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, 0.05, 0.9, 0, 5e-4, nesterov=True)
    losses = []
    for group in loader.shuffled(0, 3).split(BATCH * NUMBER):
        total = torch.zeros(())
        for share in group.tensor_split(NUMBER):
            if len(share):
                batch = loader.gather(share)
                outputs = model(batch["images"]).float()
                summed = cross_entropy(outputs, batch["labels"], reduction="sum")
                total = total + summed / len(group)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses

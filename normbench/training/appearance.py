"""Evaluation under changed appearance: how far accuracy and features move with colour and contrast.

Brightness, contrast, saturation and hue of the test images are changed by torchvision's functions
of uint8 images, each at two fixed strengths. All but hue are among the corruptions of ImageNet-C
(arXiv:1903.12261). Features are the inputs of the last linear layer that runs, the classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from normbench.data.loader import DeviceLoader
from normbench.errors import NormbenchError
from normbench.runs.columns import appearance_columns
from normbench.tasks.task import Batch, Task
from normbench.training.evaluate import EVAL_BATCH_SIZE
from normbench.training.evaluations import in_forward_order, outputs_of, watched
from normbench.training.processes import ALONE, Processes
from normbench.training.runtime import Runtime
from normbench.training.sums import Sums, exact_dtype

# Of brightness, contrast and saturation 1 keeps the image; hue is in parts of the colour circle.
STRENGTHS = {
    "brightness": (0.5, 1.5),
    "contrast": (0.5, 1.5),
    "saturation": (0.5, 1.5),
    "hue": (-0.25, 0.25),
}
CHANGES = [(kind, strength) for kind in STRENGTHS for strength in STRENGTHS[kind]]


def change_of(kind: str, strength: float) -> Callable[[Tensor], Tensor]:
    """The change of a kind at a strength, from and to uint8 images of shape (n, 3, h, w)."""
    # Takes a second to import: for runs that ask for it.
    from torchvision.transforms.v2 import functional

    adjust = getattr(functional, f"adjust_{kind}")
    return partial(adjust, **{f"{kind}_factor": strength})


def check_appearance(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Raises NormbenchError where images have no colours or the model has no linear layer."""
    asked = "train.appearance=true"
    if image_shape[0] != 3:
        raise NormbenchError(
            f"{asked}: images of {image_shape[0]} channels have no saturation and hue; allowed: 3"
        )
    if not linear_layers(model):
        raise NormbenchError(f"{asked}: the network has no linear layer, whose inputs are features")


def linear_layers(model: nn.Module) -> list[nn.Module]:
    """The linear layers of a model, in the order of its definition."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@torch.no_grad()
def evaluate_appearance(
    model: nn.Module,
    test: DeviceLoader,
    task: Task,
    runtime: Runtime,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """The primary metric and the feature shift under each kind of change, by column of metrics.csv.

    Both are means over the images and the kind's two strengths. The shift of an image is 1 - the
    cosine between its features as it is and changed. Batches are shared by `processes`. A compiled
    model runs uncompiled.
    """
    model.eval()
    sums = {kind: Sums(task, runtime.device, processes) for kind in STRENGTHS}
    shifts = {kind: torch.zeros_like(of_kind.totals["loss"]) for kind, of_kind in sums.items()}
    *_, classifier = in_forward_order(linear_layers(model), model, test, runtime)
    batches = torch.arange(len(test), device=runtime.device).split(EVAL_BATCH_SIZE)
    for indices in batches[processes.rank :: processes.number]:
        _, features = _seen(model, classifier, test.gather(indices), runtime)
        for kind, strength in CHANGES:
            batch = test.gather(indices, change_of(kind, strength))
            outputs, moved = _seen(model, classifier, batch, runtime)
            sums[kind].add(*task.assess(outputs, batch, training=False), len(indices))
            shifts[kind] += (1 - cosine_similarity(features, moved)).sum()
    found = {}
    for kind, of_kind in sums.items():
        means, (shift, count) = of_kind.means_with(shifts[kind], of_kind.count)
        found[f"test_{task.primary.name}_{kind}"] = means[task.primary.name]
        found[f"feature_shift_{kind}"] = shift / count
    return {name: found[name] for name in appearance_columns(task.primary.name)}


def _seen(
    model: nn.Module, classifier: nn.Module, batch: Batch, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """The outputs, and the features of each image as a vector."""
    inputs: list[Tensor] = []
    with watched([classifier], lambda _, given: inputs.append(given[0])):
        outputs = outputs_of(model, batch, runtime)
    features = inputs[-1].flatten(1)
    return outputs, features.to(exact_dtype(features.device))

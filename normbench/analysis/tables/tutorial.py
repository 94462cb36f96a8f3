"""What the tutorial claims that was the occasion for normbench.

It is silent on how its figures were obtained; its protocol is batch 64, 5 epochs of CIFAR-10, Adam
at 1e-3, on a network of four convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from normbench.analysis.decision_tree import load_tree
from normbench.analysis.protocol import PIXELS, Protocol
from normbench.analysis.stats import Ratio, ratio_over_processes
from normbench.analysis.study import Study

CONVOLUTIONAL = ("cnn", "resnet", None)  # None: a network of one's own
METRIC = "accuracy"  # the claims are about accuracy, and no other metric
BATCH = 64
SMALLEST = 1
PROTOCOL = Protocol(
    network="normresnet, widths 64, 128, 256, 512",
    epochs="5",
    optimizer="adam",
    lr="0.001",
    schedule="constant",
    augment="none",
    images="all",
    pixels=PIXELS["cifar10"],
    precision="fp32",
)


@dataclass(frozen=True)
class Claim:
    """A claim of the source about a norm.

    reached: test accuracy; relative_time: of an epoch, relative to bn; at_batch_1: in words.
    """

    reached: float
    relative_time: float
    at_batch_1: str


CLAIMS = {
    "bn": Claim(0.923, 1.00, "collapses"),
    "ln": Claim(0.901, 1.10, "stable"),
    "in": Claim(0.885, 1.20, "stable"),
    "gn": Claim(0.917, 1.05, "stable"),
}


def protocol_for(norm: str) -> Protocol:
    """The tutorial's protocol for a norm: gn has 4 groups."""
    return PROTOCOL.model_copy(update={"groups": "4" if norm == "gn" else None})


def of_cifar10(study: Study) -> pd.DataFrame:
    """The runs that can stand beside accuracies on CIFAR-10, whatever the copy of the images.

    The accuracies are of convolutional networks: runs of other kinds are left out. A run that did
    not begin knows no data: it counts where another run is on CIFAR-10.
    """
    tree = load_tree()
    kinds = [tree.kind_of(str(model)) for model in study.runs["model"]]
    runs = study.runs[[kind in CONVOLUTIONAL for kind in kinds]]
    is_on_it = runs["data"].isin(PIXELS)
    if study.primary.name != METRIC or not is_on_it.any():
        return runs[:0]
    return runs[is_on_it | runs["data"].isna()]


def has_claims(study: Study) -> bool:
    """Whether the tutorial claims anything about the runs."""
    runs = of_cifar10(study)
    return bool((runs["norm"].isin(CLAIMS) & (runs["batch_size"] == BATCH)).any())


def relative_time(study: Study, norm: str, batch_size: int = BATCH) -> Ratio | None:
    """Seconds of an epoch over bn's at a batch size, by rounds; None if not timed."""
    chosen = study.at(norm=norm, batch_size=batch_size).chosen
    return ratio_over_processes(study.clock(chosen.runs["run"]), study.clock_of_bn)

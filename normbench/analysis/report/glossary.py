"""The terms of a page, explained at its end: those that it uses, and no other."""

from __future__ import annotations

import re

# By term: the pattern by which a page uses it, where that is not the word itself; what it means.
TERMS: dict[str, tuple[str, str]] = {
    "95 % interval": (
        r"95 % (Student-t |Wilson)?'?s? ?interval|±",
        "The range that the true mean is taken to lie in; computed so, it holds the truth in 95 of "
        "100 cases. ± is half of its width.",
    ),
    "accuracy": (r"accuracy", "The share of images whose class the network names rightly."),
    "batch size": (
        r"batch sizes?",
        "The images that one training step sees together; BatchNorm takes its mean and variance "
        "over them.",
    ),
    "bf16, fp32": (
        r"bf16|fp32",
        "Numbers of 16 and of 32 bits in which a network computes: bf16 is quicker and coarser.",
    ),
    "CIFAR-10": (
        r"cifar10",
        "60,000 small colour photographs (32 x 32 pixels) of ten classes; cifar10-jpeg is a copy "
        "with slight losses by JPEG compression.",
    ),
    "diverged": (r"diverged", "The loss became infinite or no number, and training ended there."),
    "epoch": (r"epochs?", "One pass over all training images."),
    "held out": (
        r"held[ -]out",
        "Training images that no run is trained on, kept to choose settings without the test set.",
    ),
    "Holm": (
        r"Holm",
        "A rule that makes p-values larger the more comparisons there are, since among many one "
        "looks decided by chance.",
    ),
    "learning rate": (r"lr|learning rates?", "How far each training step changes the weights."),
    "loss": (
        r"loss(es)?",
        "What training makes small; the more wrong and the surer a network is, the larger.",
    ),
    "nats": (
        r"nats",
        "The unit of the loss of classification, the mean of -log(probability of the right class): "
        "0 is perfect, 2.3 is guessing among ten classes.",
    ),
    "normresnet": (
        r"normresnet",
        "The network of the comparison: convolutions of 3 x 3, each with a norm and a ReLU, then "
        "an average and a linear layer. Despite its name it has no skip connections.",
    ),
    "p": (
        r"p (=|<) [\d.]+|p-values?",
        "How often chance alone would make a difference this large; below 0.05 it counts as "
        "decided.",
    ),
    "paired": (r"paired", "Compared seed by seed: both runs began alike and saw the same order."),
    "points": (
        r"points",
        "Percentage points: from 70 % to 72 % are 2 points.",
    ),
    "seed": (
        r"seeds?",
        "The number that chance starts from: each seed gives other initial weights and another "
        "order of images, so that several show how far results scatter.",
    ),
    "synthetic": (
        r"synthetic",
        "Images drawn by a program, of ten shapes and textures; for trying things out, and no "
        "evidence about photographs.",
    ),
    "undecided": (
        r"undecided",
        "These runs do not tell which of two norms is better. It does not mean that they are "
        "equally good.",
    ),
}


def terms_in(text: str) -> list[tuple[str, str]]:
    """The terms that a text uses, with what they mean, in the order of the alphabet."""
    found = []
    for term in sorted(TERMS, key=str.casefold):
        pattern, meaning = TERMS[term]
        if re.search(rf"(?<!\w)({pattern})(?!\w)", text):
            found.append((term, meaning))
    return found

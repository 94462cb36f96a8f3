"""The protocol behind an accuracy on CIFAR-10, in words, and what differs between two protocols."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from normbench.analysis.captions import networks
from normbench.analysis.settings import images_of
from normbench.runs.records import at

# How a value is said, where the value alone says too little.
PHRASES = {
    "groups": "{} groups",
    "epochs": "{} epochs",
    "lr": "rate {}",
    "schedule": "schedule {}",
    "weight_decay": "weight decay {}",
    "label_smoothing": "label smoothing {}",
    "augment": "augmentation {}",
    "images": "{} training images",
}
# Names of fields where the field's own says too little.
NAMES = {"lr": "rate", "augment": "augmentation", "reported": "which epoch"}
USUAL = ("all", "original pixels")  # what nobody expects otherwise, so that `not` says nothing
# With another network these are only named: their values say little of the difference then.
MINOR = ("optimizer", "lr", "schedule", "weight_decay", "augment")
AUGMENT = {"standard": "flip and crop"}
PIXELS = {"cifar10": "original pixels", "cifar10-jpeg": "JPEG copy"}
SCALED = {"linear": " * batch / {}", "sqrt": " * sqrt(batch / {})"}
BETAS = [0.9, 0.999]  # Adam's usual ones, not told


class Protocol(BaseModel):
    """How an accuracy came about, in words, as far as is known: None is unknown, or has no meaning.

    groups: of group normalization. lr: the peak, or the rule by which it depends on the batch size.
    images: `all`, or `5,000 of 50,000`. pixels: as published, or of a lossy copy. reported: the
    epoch whose accuracy is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    network: str | None = None
    groups: str | None = None
    epochs: str | None = None
    optimizer: str | None = None
    lr: str | None = None
    schedule: str | None = None
    weight_decay: str | None = None
    label_smoothing: str | None = None
    augment: str | None = None
    images: str | None = None
    pixels: str | None = None
    precision: str | None = None
    reported: str | None = None

    @property
    def known(self) -> dict[str, str]:
        """The fields that are known."""
        return self.model_dump(exclude_none=True)

    def phrase(self, name: str) -> str:
        """A field in words: `2 epochs`."""
        value = self.known[name]
        if name == "epochs" and value == "1":
            return "1 epoch"
        return PHRASES.get(name, "{}").format(value)

    def __str__(self) -> str:
        return "; ".join(self.phrase(name) for name in self.known)


def protocol_of(config: Mapping[str, Any], environment: Mapping[str, Any]) -> Protocol:
    """The protocol of a run, from its flat configuration and its env.json."""
    augment = config["data.augment"]
    return Protocol(
        network=networks([config]),
        groups=config.get("norm.num_groups"),
        epochs=config["epochs"],
        optimizer=_optimizer(config),
        lr=_rate(config),
        schedule=_schedule(config),
        weight_decay=f"{config['optim.weight_decay']:g}",
        label_smoothing=f"{config.get('task.label_smoothing', 0):g}",
        augment=AUGMENT.get(augment, augment),
        images=_images(config, environment),
        pixels=PIXELS.get(at(environment, "data.name")),
        precision=config["runtime.precision"],
        reported="final epoch",
    )


def differences(here: Protocol, there: Protocol) -> str:
    """What differs among what is known of both: `2 epochs, not 100; JPEG copy`.

    Of another network the fields in MINOR are named without values. Empty where nothing that is
    known differs.
    """
    values, others = here.known, there.known
    differing = [name for name in values if values[name] != others.get(name, values[name])]
    told, named = [], []
    for name in differing:
        if name == "network":
            told.append(_other_network(values[name], others[name]))
        elif name in MINOR and "network" in differing:
            named.append(_title(name))
        elif others[name] in USUAL:
            told.append(here.phrase(name))
        else:
            told.append(f"{here.phrase(name)}, not {others[name]}")
    if named:
        told.append(f"also {', '.join(named)}")
    return "; ".join(told)


def unknown_of(there: Protocol, here: Protocol) -> str:
    """What is known of a protocol here and not of the other: `weight decay, which epoch`."""
    unknown = [name for name in here.known if name not in there.known]
    return ", ".join(map(_title, unknown))


def common(protocols: Collection[Protocol]) -> Protocol:
    """The fields of which all protocols say the same."""
    first, *others = protocols
    fields = first.known
    for other in others:
        fields = {name: fields[name] for name in fields if fields[name] == other.known.get(name)}
    return Protocol(**fields)


def _other_network(here: str, there: str) -> str:
    """`normresnet, not ResNet-56`; with the widths where these alone differ."""
    names = [network.partition(",")[0] for network in (here, there)]
    return f"{here if names[0] == names[1] else names[0]}, not {there}"


def _title(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def _optimizer(config: Mapping[str, Any]) -> str:
    parts = [config["optim.name"]]
    if config.get("optim.momentum"):
        parts.append(f"momentum {config['optim.momentum']:g}")
    if config.get("optim.nesterov"):
        parts.append("nesterov")
    if config.get("optim.betas", BETAS) != BETAS:
        parts.append(f"betas {config['optim.betas']}")
    if config.get("optim.agc"):
        parts.append(f"gradients clipped to {config['optim.agc']:g} of the weights")
    if config.get("optim.decay_norm"):
        parts.append("norms decay, too")
    if config["train.accumulate"] > 1:
        parts.append(f"{config['train.accumulate']} batches a step")
    return ", ".join(parts)


def _rate(config: Mapping[str, Any]) -> str:
    rule = SCALED.get(config["optim.lr_scaling"], "")
    return f"{config['optim.lr']:g}{rule.format(config['optim.reference_batch_size'])}"


def _schedule(config: Mapping[str, Any]) -> str:
    parts = [config["optim.schedule"]]
    if config["optim.warmup_fraction"]:
        parts.append(f"warm-up {100 * config['optim.warmup_fraction']:g} %")
    if config["train.max_steps"]:
        parts.append(f"at most {config['train.max_steps']} steps")
    return ", ".join(parts)


def _images(config: Mapping[str, Any], environment: Mapping[str, Any]) -> str | None:
    """The images trained on, without those held out; None where a run did not begin."""
    known = images_of(config, environment)
    if known is None:
        return None
    trained, _, available = known
    return "all" if trained == available else f"{trained:,} of {available:,}"

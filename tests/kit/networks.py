"""Networks of other people: small ones with one trait each, torchvision's and timm's."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from normbench.norms import NormSpec

Make = Callable[[], nn.Module]
CHANNELS = 8


def conv(in_channels: int = CHANNELS, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(in_channels, CHANNELS, 3, padding=1, bias=bias)


class Block(nn.Module):
    """A residual block as torchvision has it: a single ReLU module, called at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(), nn.BatchNorm2d(CHANNELS)
        self.conv2, self.bn2 = conv(), nn.BatchNorm2d(CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.width = CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class FunctionalBlock(Block):
    """The same with functions and a method, and a module that is called under one name."""

    def __init__(self) -> None:
        super().__init__()
        self.bn3, self.silu = nn.BatchNorm2d(CHANNELS), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y)).relu_()
        return torch.relu(self.silu(self.bn3(y)) + x)


class PreActivation(Block):
    """Norm and ReLU before the convolution: no layer alone feeds them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu(self.bn1(x)))
        return self.conv2(self.relu(self.bn2(y))) + x


def stem(*blocks: nn.Module) -> nn.Module:
    """The blocks between a convolution and a head: images (n, 3, h, w) to (n, 10)."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))
    return nn.Sequential(conv(3), nn.BatchNorm2d(CHANNELS), nn.ReLU(), *blocks, head)


def one_relu_for_all() -> nn.Module:
    """A plain stack whose only ReLU stands at three places."""
    relu = nn.ReLU()
    parts: list[nn.Module] = []
    for _ in range(3):
        parts += [conv(), nn.BatchNorm2d(CHANNELS), relu]
    return stem(*parts)


class Untraceable(nn.Module):
    """Asks what its values are, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = stem(Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x if x.mean() > 0 else -x)


class CallsItself(nn.Module):
    """A network whose own forward calls the activation, as torchvision's DenseNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(3), nn.BatchNorm2d(CHANNELS)
        self.head = nn.Linear(CHANNELS, 10)

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        y = functional.hardswish(self.norm(self.conv(x)))
        if scale is not None:
            y = y * scale
        return self.head(y.mean((2, 3)))


SMALL: dict[str, Make] = {
    "residual": lambda: stem(Block(), Block()),
    "functional": lambda: stem(FunctionalBlock()),
    "pre_activation": lambda: stem(PreActivation(), PreActivation()),
    "one_relu": one_relu_for_all,
    "calls_itself": CallsItself,
}

# (name, norms of each class, norms that an activation alone follows, norms that a layer feeds)
TORCHVISION = {
    "resnet18": (20, 9, 20),
    "resnet50": (53, 33, 53),
    "vgg11_bn": (8, 8, 8),
    "mobilenet_v2": (52, 35, 52),
    "mobilenet_v3_small": (34, 23, 34),
    "densenet121": (121, 121, 59),
    "efficientnet_b0": (49, 33, 49),
    "googlenet": (57, 57, 57),
    "shufflenet_v2_x0_5": (56, 37, 56),
    "regnet_y_400mf": (53, 33, 53),
    "mnasnet0_5": (52, 35, 52),
}
TIMM = {
    "resnet18": (20, 9, 20),
    "mobilenetv3_small_050": (34, 23, 34),
    "efficientnet_lite0": (49, 33, 49),
    "densenet121": (121, 121, 59),
    "regnetx_002": (44, 27, 44),
    "convnext_atto": (17, 0, 13),
}
OPTIONS = {
    "googlenet": {"init_weights": False, "aux_logits": False},
    "vgg11_bn": {"init_weights": False},
}
# All of the above: the number of norms, of those that an activation alone follows, of those that
# a convolution alone feeds.
COUNTS = {
    **{f"torchvision-{name}": counts for name, counts in TORCHVISION.items()},
    **{f"timm-{name}": counts for name, counts in TIMM.items()},
}


def network(name: str) -> nn.Module:
    """A network of COUNTS with 10 outputs and initial values of the present seed."""
    package, _, model = name.partition("-")
    if package == "timm":
        return timm.create_model(model, num_classes=10)
    options = OPTIONS.get(model, {})
    with warnings.catch_warnings():
        made = getattr(torchvision.models, model)(weights=None, num_classes=10, **options)
    if model == "vgg11_bn":
        # In place of 120 million weights far from any norm.
        made.classifier = nn.Linear(512 * 7 * 7, 10)
    return made


def norm_options(model: nn.Module) -> dict[str, float]:
    """The eps and momentum of a network's BatchNorms, which are all alike."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    (options,) = {(norm.eps, norm.momentum) for norm in norms}
    return dict(zip(("eps", "momentum"), options, strict=True))


def activating(activation: type[nn.Module], eps: float = 1e-5, momentum: float = 0.1) -> NormSpec:
    """BatchNorm, and a BatchNorm with the activation inside where one follows.

    With it a network computes what it did, if exactly the right activations are taken away.
    """

    def norm(num_features: int) -> nn.Module:
        return nn.BatchNorm2d(num_features, eps, momentum)

    def norm_act(num_features: int) -> nn.Module:
        return nn.Sequential(norm(num_features), activation())

    return NormSpec("batch", norm, norm_act)


def computed(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Outputs and gradients in training, then outputs in evaluation, from equal random numbers."""
    torch.manual_seed(0)
    model.zero_grad()
    y = model.train()(images)
    y.square().sum().backward()
    found = {"training": y.detach()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.clone()
    with torch.no_grad():
        found["evaluation"] = model.eval()(images)
    return found

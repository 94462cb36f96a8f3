"""Sites of norms in a model: shapes, refusals, and shapes for lazy layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kit.norms import NAMES
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import UninitializedParameter

from normbench.models import Layers, materialize, models, norm_sites, unsupported
from normbench.norms import NormSpec, norms
from normbench.norms.spec import Refusal

Build = Callable[[Layers], nn.Module]


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def build(layers: Layers, widths: tuple[int, ...]) -> nn.Module:
    return models.build("normresnet", layers, 10, options={"widths": widths})


def conv_and_norm(spec: NormSpec) -> nn.Module:
    layers = Layers(spec, seed=0)
    return nn.Sequential(layers.conv(3, 4, 3), layers.norm_act(4))


def test_the_sites_of_the_norms_are_the_shapes_that_reach_them() -> None:
    sites = norm_sites(partial(build, widths=(4, 8, 16)), (3, 9, 8))
    assert sites == [(4, 9, 8), (8, 5, 4), (16, 3, 2)]


def test_a_site_has_any_number_of_places() -> None:
    def of_tokens(layers: Layers) -> nn.Module:
        return nn.Sequential(nn.Flatten(2), layers.norm(3))

    assert norm_sites(of_tokens, (3, 4, 5)) == [(3, 20)]
    assert unsupported(norms.build("in"), [(3, 20)], batch_size=1) is None
    assert unsupported(norms.build("in"), [(3, 1)], batch_size=1) is not None


@pytest.mark.parametrize(
    ("norm", "options", "batch", "size", "reason"),
    [
        ("bn", {}, 1, 8, "one value per channel has no variance: a batch of 1 on a 1x1 map"),
        ("bn", {}, 2, 8, None),
        ("bn", {}, 1, 16, None),
        ("in", {}, 64, 8, "one value per sample and channel has no variance: a 1x1 map"),
        ("in", {}, 1, 16, None),
        ("ln", {}, 1, 8, None),
        ("gn", {"num_groups": 3}, 64, 32, "num_groups=3 does not divide 4 channels"),
        ("gn", {}, 1, 8, "num_groups=4 leaves one value per group: 4 channels on a 1x1 map"),
        ("gn", {"num_groups": 2}, 1, 8, None),
        ("none", {}, 1, 1, None),
    ],
)
def test_unsupported_names_the_reason_or_accepts(
    norm: str, options: dict[str, Any], batch: int, size: int, reason: str | None
) -> None:
    sites = norm_sites(partial(build, widths=(4, 4, 4, 4)), (3, size, size))
    refusal = unsupported(norms.build(norm, options=options), sites, batch)
    assert refusal == (None if reason is None else Refusal(reason))


@pytest.mark.parametrize("name", ["lazy_bn", "ln_chw", "bn", "switchable"])
def test_materialize_gives_lazy_layers_their_parameters_and_keeps_no_statistics(name: str) -> None:
    model = materialize(conv_and_norm(norms.build(name)), (3, 5, 6))
    assert model.training
    assert not any(isinstance(p, UninitializedParameter) for p in model.parameters())
    for key, buffer in model.named_buffers():
        value = 1 if key.endswith("running_var") else 0
        assert torch.equal(buffer, torch.full_like(buffer, value))


@pytest.mark.parametrize(
    ("name", "options"),
    [("bn", {"track_running_stats": False}), ("bn", {}), ("ghost_bn", {}), ("rms", {})],
)
def test_materialize_accepts_maps_of_one_pixel_that_unsupported_accepts(
    name: str, options: dict[str, Any]
) -> None:
    spec = norms.build(name, options=options)
    assert unsupported(spec, [(4, 1, 1)], batch_size=8) is None
    materialize(conv_and_norm(spec), (3, 1, 1))


def learns_from_its_images(build: Build, spec: NormSpec, shape: tuple[int, ...]) -> bool:
    """Whether a step of training works, and the logits depend on the images."""
    # In float64, where what float32 would round to equal logits still tells images apart, and the
    # rounding of a group's only value, over sqrt(eps), is some 1e-14.
    try:
        model = materialize(build(Layers(spec, seed=0)), shape[1:]).double()
        logits = model(images(*shape))
        cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=0.1)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        first, second = (model(images(*shape, seed=seed)) for seed in (1, 2))
        return bool((first - second).abs().max() > 1e-10)
    # By torch, also for groups that do not divide the channels, and by EvoNorm where n - 1 = 0.
    except (ValueError, ZeroDivisionError):
        return False


def assert_unsupported_decides(
    norm: tuple[str, dict[str, Any]], widths: list[int], batch: int, size: int
) -> None:
    name, options = norm
    spec, make = norms.build(name, options=options), partial(build, widths=tuple(widths))
    refusal = unsupported(spec, norm_sites(make, (3, size, size)), batch)
    works = learns_from_its_images(make, spec, (batch, 3, size, size))
    assert works == (refusal is None), refusal


SIZES = st.sampled_from([1, 2, 4, 7, 8])
GROUPS = [("gn", {"num_groups": num_groups}) for num_groups in (2, 3, 8)]


@given(
    st.sampled_from([("bn", {}), ("ln", {}), ("in", {}), ("none", {}), *GROUPS]),
    st.lists(st.sampled_from([3, 8, 16]), min_size=1, max_size=4),
    st.integers(1, 3),
    SIZES,
)
def test_accepted_norms_train_and_refused_norms_do_not(
    norm: tuple[str, dict[str, Any]], widths: list[int], batch: int, size: int
) -> None:
    assert_unsupported_decides(norm, widths, batch, size)


# EvoNorm-S0 and -S1 with a value per group are refused, although they do something: they divide by
# eps alone.
OF_ANY_KIND = [
    *((name, {}) for name in NAMES if name not in ("evonorm_s0", "evonorm_s1")),
    ("bn", {"track_running_stats": False}),
    ("ghost_bn", {"size": 2}),
    ("in", {"affine": True}),
]


# Widths from 8: in narrower networks every ReLU can be dead.
@pytest.mark.slow
@settings(max_examples=100)
@given(
    st.sampled_from(OF_ANY_KIND),
    st.lists(st.sampled_from([8, 16]), min_size=1, max_size=3),
    st.integers(1, 3),
    SIZES,
)
def test_accepted_norms_of_any_kind_train_and_refused_norms_do_not(
    norm: tuple[str, dict[str, Any]], widths: list[int], batch: int, size: int
) -> None:
    # Of a single pixel every ReLU can be dead where nothing is normalized.
    assume(norm[0] not in ("none", "dyt", "derf") or batch * size > 1)
    assert_unsupported_decides(norm, widths, batch, size)

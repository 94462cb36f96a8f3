"""Certificates against what theory says of each norm, and against layers made to show one property each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.certificates import Certificate, certify
from normbench.norms import NormSpec, norms
from normbench.timing.footprint import saved_bytes

Run = Callable[..., tuple[int, str, str]]
REPOSITORY = Path(__file__).parents[2]

BATCH = {
    "batch_renorm",
    "bn",
    "bn_custom",
    "evonorm_b0",
    "ghost_bn",
    "ibn",
    "lazy_bn",
    "switchable",
    "sync_bn",
    "ws_bn",
}
CENTRED = {  # the axes of each norm's mean, by its paper
    **dict.fromkeys(("bn", "bn_custom", "lazy_bn", "sync_bn", "ws_bn", "ibn"), "n h w"),
    "ghost_bn": "n/2 h w",  # 32 samples by 16
    **dict.fromkeys(("ln", "ln_chw"), "c h w"),
    **dict.fromkeys(("gn", "ws_gn"), "c/4 h w"),
    **dict.fromkeys(("in", "in_affine"), "h w"),
    "ln_c": "c",
}
PER_SAMPLE = ("ln", "ln_chw", "ln_c", "gn", "ws_gn")


@pytest.fixture(scope="module")
def certificates() -> dict[str, Certificate]:
    return {entry.name: certify(norms.build(entry.name)) for entry in norms}


def having(certificates: dict[str, Certificate], attribute: str) -> set[str]:
    return {
        name
        for name, found in certificates.items()
        if not found.refused and getattr(found, attribute)
    }


def test_only_adain_is_refused_and_why(certificates: dict[str, Certificate]) -> None:
    assert {name for name, found in certificates.items() if found.refused} == {"adain"}
    assert "style image" in str(certificates["adain"].refused)


def test_mean_and_variance_are_over_the_axes_of_the_paper(
    certificates: dict[str, Certificate],
) -> None:
    for moment in ("mean_0_over", "variance_1_over"):
        found = {name: getattr(certificate, moment) for name, certificate in certificates.items()}
        assert {name: axes for name, axes in found.items() if axes} == {
            name: (axes,) for name, axes in CENTRED.items()
        }


def test_the_norms_of_the_batch_and_only_they_see_batch_mates_and_only_in_training(
    certificates: dict[str, Certificate],
) -> None:
    assert having(certificates, "batch_mates_matter_in_training") == BATCH
    assert having(certificates, "batch_mates_matter_in_evaluation") == set()
    assert {entry.name for entry in norms if norms.build(entry.name).scope == "batch"} == BATCH


def test_whatever_has_state_and_nothing_else_evaluates_in_another_way(
    certificates: dict[str, Certificate],
) -> None:
    """Batch Renorm is corrected to be what it is in evaluation, wherever its correction is not cut off."""
    others = set(certificates) - having(certificates, "evaluates_as_it_trains") - {"adain"}
    assert others == (BATCH | {"spectral_norm"}) - {"batch_renorm"}
    with_state = {
        name
        for name, found in certificates.items()
        if found.under_activation_checkpointing != "no state"
    }
    assert with_state - {"adain"} == others | {"batch_renorm"}


def test_accumulation_is_exact_but_for_norms_of_the_batch_and_moving_state(
    certificates: dict[str, Certificate],
) -> None:
    inexact = set(certificates) - having(certificates, "gradient_accumulation_is_exact") - {"adain"}
    assert inexact == (BATCH | {"spectral_norm"}) - {"ghost_bn"}


def test_checkpointing_updates_every_state_twice(certificates: dict[str, Certificate]) -> None:
    for name in BATCH - {"batch_renorm"}:
        assert certificates[name].under_activation_checkpointing == "state updated twice"
    renorm = certificates[
        "batch_renorm"
    ].under_activation_checkpointing  # it corrects by statistics that have moved
    assert renorm == "state updated twice; gradient differs"
    assert (
        certificates["spectral_norm"].under_activation_checkpointing
        == "state updated twice; gradient differs"
    )


@pytest.mark.parametrize(
    "name", ["bn", "bn_custom", "lazy_bn", "sync_bn", "ghost_bn", "ws_bn", "ibn"]
)
def test_batch_statistics_cancel_what_is_common_to_a_channel(
    certificates: dict[str, Certificate], name: str
) -> None:
    found = certificates[name]
    assert found.ignores_scale_of == found.ignores_shift_of == ("channel", "batch")


@pytest.mark.parametrize("name", ["in", "in_affine"])
def test_instance_statistics_cancel_everything(
    certificates: dict[str, Certificate], name: str
) -> None:
    found = certificates[name]
    assert found.ignores_scale_of == found.ignores_shift_of == ("sample", "channel", "batch")


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_statistics_of_a_sample_cancel_what_is_common_to_it(
    certificates: dict[str, Certificate], name: str
) -> None:
    found = certificates[name]
    assert found.ignores_scale_of == found.ignores_shift_of == ("sample", "batch")


def test_norms_without_a_mean_cancel_scale_and_no_shift(
    certificates: dict[str, Certificate],
) -> None:
    expected = {
        "rms": ("sample", "batch"),
        "frn": ("sample", "channel", "batch"),
        "evonorm_b0": ("channel", "batch"),
    }
    for name, scales in expected.items():
        assert (certificates[name].ignores_scale_of, certificates[name].ignores_shift_of) == (
            scales,
            (),
        )
    for name in (
        "none",
        "dyt",
        "evonorm_s0",
        "scaled_ws",
        "weight_norm",
        "spectral_norm",
        "batch_renorm",
    ):
        assert (certificates[name].ignores_scale_of, certificates[name].ignores_shift_of) == (
            (),
            (),
        )


def test_which_norms_ignore_the_scale_of_the_weights(certificates: dict[str, Certificate]) -> None:
    """rms would, but its convolution has a bias, which is not scaled; EvoNorm-S0 sees the scale in its sigmoid, Batch
    Renorm beside its running statistics."""
    assert set(certificates) - having(certificates, "ignores_scale_of_weights") == {
        *("adain", "none", "dyt", "rms", "evonorm_s0", "batch_renorm")
    }
    assert having(certificates, "standardizes_weights") == {"ws_gn", "ws_bn", "scaled_ws"}


def test_on_one_pixel_instance_norms_are_refused_and_at_batch_1_those_of_the_batch(
    certificates: dict[str, Certificate],
) -> None:
    usable = {name: found for name, found in certificates.items() if not found.refused}
    assert all(found.at_batch_1 == "works" for found in usable.values())
    instance = {"in", "in_affine", "ibn"}
    assert {
        name for name, found in usable.items() if found.on_1x1_maps.startswith("refused: ")
    } == instance
    alone = {
        name
        for name, found in usable.items()
        if found.at_batch_1_on_1x1_maps.startswith("refused: ")
    }
    assert alone == (instance | BATCH) - {"switchable"}
    assert {
        name for name, found in usable.items() if found.at_batch_1_on_1x1_maps == "keeps only signs"
    } == {"frn"}


def test_saved_bytes_are_those_of_what_autograd_needs(certificates: dict[str, Certificate]) -> None:
    assert certificates["none"].saved_bytes == 4.0  # ReLU's output
    for name in ("bn", "ln", "in", "gn"):
        assert certificates[name].saved_bytes == 8.0  # the norm's input, too
    x = torch.randn(5, 7, requires_grad=True)
    assert saved_bytes(lambda x: x + 1, x, []) == 0
    assert (
        saved_bytes(lambda x: (x * x).exp(), x, []) == 2 * x.numel() * 4
    )  # x once, and exp's output
    linear = nn.Linear(7, 3)
    assert saved_bytes(linear, x, list(linear.parameters())) == x.numel() * 4


class Shown(nn.Module):
    """A function of x, and a buffer that counts calls in training if `counts`."""

    def __init__(self, function: Callable[[Tensor], Tensor], counts: bool) -> None:
        super().__init__()
        self.function, self.counts = function, counts
        if counts:
            self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.counts and self.training:
            self.calls += 1
        return self.function(x)


def of(function: Callable[[Tensor], Tensor], **more: Any) -> Certificate:
    counts = more.pop("counts", False)
    return certify(NormSpec("undeclared", lambda num_features: Shown(function, counts), **more))


def test_the_finest_axes_are_named_and_those_that_follow_are_not() -> None:
    def by_halves(x: Tensor) -> Tensor:
        return torch.cat([half - half.mean((0, 2, 3), keepdim=True) for half in x.chunk(2)])

    halves = of(by_halves)
    assert halves.mean_0_over == ("n/2 h w",)
    assert halves.variance_1_over == ()
    both = of(
        lambda x: (
            x
            - x.mean((2, 3), keepdim=True)
            - (x - x.mean((2, 3), keepdim=True)).mean(1, keepdim=True)
        )
    )
    assert both.mean_0_over == ("h w", "c")
    assert of(lambda x: x).mean_0_over == ()


def test_a_constant_forgets_its_input_and_a_sign_keeps_only_that() -> None:
    assert of(lambda x: 0 * x).at_batch_1 == "forgets its input"
    assert of(torch.sign).at_batch_1 == "keeps only signs"
    assert of(torch.tanh).at_batch_1 == "works"
    refusing = of(torch.tanh, refuse=lambda shape: "one" if shape[0] == 1 else None)
    assert (refusing.at_batch_1, refusing.on_1x1_maps) == ("refused: one", "works")


def test_state_is_counted_and_its_double_update_seen() -> None:
    assert of(torch.tanh, counts=True).under_activation_checkpointing == "state updated twice"
    assert of(torch.tanh).under_activation_checkpointing == "no state"


def test_a_layer_that_adds_the_mean_of_the_batch_sees_its_mates_in_both_modes() -> None:
    found = of(lambda x: x + x.mean())
    assert found.batch_mates_matter_in_training
    assert found.batch_mates_matter_in_evaluation
    assert found.evaluates_as_it_trains


# The command


def test_the_committed_table_is_what_the_command_prints(normbench: Run) -> None:
    code, out, _ = normbench("norms", "--markdown")
    assert code == 0
    assert out == (REPOSITORY / "results" / "norms.md").read_text()


def test_the_catalogue_names_every_norm_with_its_paper_state_and_parameters(normbench: Run) -> None:
    code, out, _ = normbench("norms")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()[2:]}
    assert rows.keys() == {entry.name for entry in norms}
    assert "arXiv:1803.08494" in rows["gn"]
    assert "2 per channel + 1" in rows["bn"]
    assert "2 per channel + 6" in rows["switchable"]
    assert rows["adain"].split()[-2] == "none"
    assert "1, on 1x1 maps 2" in rows["bn"]
    assert "1, on 1x1 maps none" in rows["in"]


def test_a_certificate_is_text_for_people_and_json_for_programs(normbench: Run) -> None:
    code, out, _ = normbench("norms", "gn")
    assert code == 0
    assert out.startswith("gn: GroupNorm\n")
    assert "norm.num_groups=4, norm.eps=1e-05, norm.affine=true" in out
    assert [line.split()[-3:] for line in out.splitlines() if line.startswith("mean 0 over")] == [
        ["c/4", "h", "w"]
    ]
    code, out, _ = normbench("norms", "gn", "--json")
    found = json.loads(out)
    assert (code, found["name"], found["certificate"]["ignores_scale_of"]) == (
        0,
        "gn",
        ["sample", "batch"],
    )
    code, out, _ = normbench("norms", "adain", "--json")
    assert json.loads(out)["certificate"].keys() == {"refused"}


def test_check_prints_a_line_for_every_demand(normbench: Run) -> None:
    code, out, _ = normbench("norms", "gn", "--check")
    assert code == 0
    assert all(line.startswith("gn: ok     ") for line in out.splitlines())
    assert len(out.splitlines()) > 8
    assert normbench("norms", "adain", "--check")[:2] == (
        0,
        f"adain: not tried: {norms.build('adain').refuse((1,) * 4)}\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gm"], "unknown norm 'gm': did you mean 'gn'? allowed: adain, batch_renorm, bn, "),
        (
            ["gn", "--json", "--check"],
            "--json, --markdown and --check are different outputs: choose one",
        ),
    ],
)
def test_a_wrong_question_is_one_line(normbench: Run, arguments: list[str], message: str) -> None:
    code, out, err = normbench("norms", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"normbench: {message}")
    assert len(err.splitlines()) == 1

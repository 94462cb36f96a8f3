"""Certificates against the theory of each norm, and against layers with a single property each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.norms import NAMES
from kit.text import steers
from torch import Tensor, nn

from normbench.certificates import Certificate, catalogue, certify
from normbench.certificates.catalogue import Facts
from normbench.models import Layers, models
from normbench.norms import NormSpec, norms
from normbench.norms.spec import Refusal
from normbench.timing.footprint import saved_bytes

Run = Callable[..., tuple[int, str, str]]
Certificates = dict[str, Certificate]
FAN_INS, PARTS = (27, 2304), (1, 2, 4, 8, 16)
REPOSITORY = Path(__file__).parents[2]

BATCH = {
    *("bn", "bn_custom", "lazy_bn", "sync_bn", "ws_bn", "ghost_bn", "batch_renorm"),
    *("evonorm_b0", "evonorm_b1", "evonorm_b2", "ibn", "switchable", "ebn", "bcn"),
    *("bin", "iternorm", "mabn", "online"),
}
# The axes of each norm's mean, from the paper.
CENTRED = {
    **dict.fromkeys(("bn", "bn_custom", "lazy_bn", "sync_bn", "ws_bn", "ibn", "ebn"), "n h w"),
    **dict.fromkeys(("bin", "iternorm"), "n h w"),
    "ghost_bn": "n/2 h w",  # 32 samples in chunks of 16
    **dict.fromkeys(("ln", "ln_chw"), "c h w"),
    **dict.fromkeys(("gn", "ws_gn", "bcn"), "c/4 h w"),
    **dict.fromkeys(("in", "in_affine"), "h w"),
    "ln_c": "c",
}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Facts, Certificate]]:
    """Every norm as the catalogue lists it, and its certificate."""
    listed = [catalogue.listed(name, {}) for name in NAMES]
    return [(facts, certify(spec)) for facts, spec in listed]


@pytest.fixture(scope="module")
def certificates(pairs: list[tuple[Facts, Certificate]]) -> Certificates:
    return {facts["name"]: certificate for facts, certificate in pairs}


def having(certificates: Certificates, attribute: str) -> set[str]:
    return {name for name, found in certificates.items() if getattr(found, attribute)}


def test_the_committed_table_is_that_of_the_code(
    pairs: list[tuple[Facts, Certificate]],
) -> None:
    committed = (REPOSITORY / "results" / "norms.md").read_text()
    assert catalogue.as_markdown(pairs) + "\n" == committed


def test_mean_and_variance_are_over_the_axes_of_the_paper(certificates: Certificates) -> None:
    scaled = CENTRED | {"ebn": "n c h w"}
    del scaled["iternorm"]  # whitens in part with 5 iterations
    for moment, axes in (("mean_0_over", CENTRED), ("variance_1_over", scaled)):
        found = {name: getattr(certificates[name], moment) for name in NAMES}
        assert found == {name: (axes[name],) if name in axes else () for name in NAMES}


def test_norms_of_the_batch_and_no_more_see_batch_mates_and_only_in_training(
    certificates: Certificates,
) -> None:
    # mabn's running average comes out where its correction is not clipped, as Batch Renorm's does.
    assert having(certificates, "batch_mates_matter_in_training") == BATCH - {"mabn"}
    assert having(certificates, "batch_mates_matter_in_evaluation") == set()
    assert {name for name in NAMES if norms.build(name).scope == "batch"} == BATCH


def test_norms_with_state_and_no_more_evaluate_in_another_way(certificates: Certificates) -> None:
    """Except Batch Renorm and mabn: their correction, where not clipped, gives what evaluation
    gives."""
    others = set(NAMES) - having(certificates, "evaluates_as_it_trains")
    corrected = {"batch_renorm", "mabn"}
    assert others == (BATCH | {"spectral_norm"}) - corrected
    without_state = {
        name for name in NAMES if certificates[name].under_activation_checkpointing == "no state"
    }
    assert set(NAMES) - without_state == others | corrected


def test_accumulation_is_exact_but_for_norms_of_the_batch_and_moving_state(
    certificates: Certificates,
) -> None:
    """Ghost BatchNorm's in parts that are multiples of its chunks, online's in all."""
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(NAMES, PARTS)
    expected |= dict.fromkeys(BATCH | {"spectral_norm"}, ())
    expected["ghost_bn"] = (16,)
    expected["online"] = PARTS  # it takes samples one by one in any case
    found = {name: certificates[name].accumulates_exactly_in_parts_of for name in NAMES}
    assert found == expected
    smaller = certify(norms.build("ghost_bn", options={"size": 4}))
    assert smaller.accumulates_exactly_in_parts_of == (4, 8, 16)


def test_batch_renorm_is_bn_in_its_warm_up_and_no_fact_mixes_the_two(
    certificates: Certificates,
) -> None:
    late, bn = certificates["batch_renorm"], certificates["bn"]
    assert late.in_warm_up == replace(bn, saved_bytes=late.saved_bytes)
    assert (bn.at_batch_2_on_1x1_maps, late.at_batch_2_on_1x1_maps) == ("keeps only signs", "works")
    assert having(certificates, "in_warm_up") == {"batch_renorm", "mabn"}
    # Without a warm-up there is but the late regime, from the second batch on.
    at_once = certify(norms.build("batch_renorm", options={"warmup_steps": 0, "ramp_steps": 0}))
    assert at_once == replace(late, in_warm_up=None)


def test_checkpointing_updates_every_state_twice(certificates: Certificates) -> None:
    """The state of a backward pass gets the gradient of the first pass, too."""
    for name in ("mabn", "online"):
        found = certificates[name].under_activation_checkpointing
        assert found == "state differs; gradient differs"
    for name in (BATCH | {"spectral_norm"}) - {"mabn", "online"}:
        # Batch Renorm and spectral norm compute with state that the first pass has moved.
        differs = name in ("batch_renorm", "spectral_norm")
        wanted = "state updated twice" + "; gradient differs" * differs
        assert certificates[name].under_activation_checkpointing == wanted


def test_statistics_cancel_scale_and_shift_common_to_their_axes(
    certificates: Certificates,
) -> None:
    """A norm without a mean cancels no shift."""
    channel, sample = ("channel", "batch"), ("sample", "batch")
    both = ("sample", "channel", "batch")
    expected = dict.fromkeys(NAMES, ((), ()))
    for name in ("bn", "bn_custom", "lazy_bn", "sync_bn", "ghost_bn", "ws_bn", "ibn", "bcn", "bin"):
        expected[name] = (channel, channel)
    for name in ("in", "in_affine"):
        expected[name] = (both, both)
    for name in ("ln", "ln_chw", "ln_c", "gn", "ws_gn"):
        expected[name] = (sample, sample)
    expected |= {"rms": (sample, ()), "simple": (sample, ())}
    expected |= {"frn": (both, ()), "ebn": (("batch",), channel)}
    expected["iternorm"] = (("batch",), channel)
    expected |= {"evonorm_b0": (channel, ()), "evonorm_b2": (channel, ())}
    expected["switchable"] = (("batch",), ("batch",))
    for name, found in certificates.items():
        assert (found.ignores_scale_of, found.ignores_shift_of) == expected[name], name


def test_which_norms_ignore_the_scale_of_the_weights(certificates: Certificates) -> None:
    """Not rms and simple, whose convolution has an unscaled bias, nor EvoNorm-S, for its sigmoid,
    and -B1, for its x + 1, nor Batch Renorm, for its running statistics; scaled WS's eps counts at
    a large fan-in. Not mabn and online, which divide by earlier statistics."""
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(NAMES, FAN_INS)
    without = ("none", "dyt", "derf", "rms", "simple", "batch_renorm", "mabn", "online")
    of_evonorm = ("evonorm_s0", "evonorm_s1", "evonorm_s2", "evonorm_b1")
    expected |= dict.fromkeys((*without, *of_evonorm), ())
    expected["scaled_ws"] = FAN_INS[:1]
    found = {name: certificates[name].ignores_scale_of_weights_of_fan_in for name in NAMES}
    assert found == expected
    without_eps = certify(norms.build("scaled_ws", options={"weight_eps": 1e-12}))
    assert without_eps.ignores_scale_of_weights_of_fan_in == FAN_INS


def test_the_order_of_samples_matters_to_chunks_and_to_recursions_alone(
    certificates: Certificates,
) -> None:
    assert having(certificates, "order_of_samples_matters") == {"ghost_bn", "online"}
    assert certify(norms.build("ghost_bn", options={"size": 32})).order_of_samples_matters is False


def test_every_norm_commutes_with_shifts_but_for_an_affine_per_element(
    certificates: Certificates,
) -> None:
    assert set(NAMES) - having(certificates, "commutes_with_shifts") == {"ln_chw"}


@pytest.mark.parametrize(("group_size", "within"), [(64, "c"), (4, "c/4")])
def test_iternorm_gives_its_groups_the_identity_as_covariance_with_enough_iterations(
    certificates: Certificates, group_size: int, within: str
) -> None:
    """5 iterations leave directions of small variance; no other norm has it on correlated maps."""
    assert {name for name in NAMES if certificates[name].identity_covariance_within != "-"} == set()
    options = {"group_size": group_size, "iterations": 20}
    found = certify(norms.build("iternorm", options=options))
    assert found.identity_covariance_within == within
    assert found.variance_1_over == ("n h w",)


def test_which_norms_standardize_weights_and_where_eps_leaves_filters_unequal(
    certificates: Certificates,
) -> None:
    found = {name: certificates[name].standardizes_weights_of_fan_in for name in NAMES}
    standardizing = {"ws_gn": FAN_INS[:1], "ws_bn": FAN_INS[:1], "scaled_ws": FAN_INS}
    assert found == dict.fromkeys(NAMES, ()) | standardizing
    without_eps = certify(norms.build("ws_bn", options={"weight_eps": 1e-12}))
    assert without_eps.standardizes_weights_of_fan_in == FAN_INS


def test_the_fan_ins_are_the_smallest_and_the_largest_of_normresnet() -> None:
    model = models.build("normresnet", Layers(norms.build("none"), seed=0), 10)
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    fan_ins = [conv.weight[0].numel() for conv in convolutions]
    assert (min(fan_ins), max(fan_ins)) == FAN_INS


@pytest.mark.parametrize("name", ["rms", "bn", "evonorm_s0"])
def test_a_layer_that_computes_in_float32_says_so_and_has_the_same_facts(
    certificates: Certificates, name: str
) -> None:
    spec = norms.build(name)
    makes = {"norm": InFloat32.of(spec.norm)}
    if spec.norm_act is not None:
        makes["norm_act"] = InFloat32.of(spec.norm_act)
    found = certify(replace(spec, **makes))
    assert certificates[name].computes_in == "float64"
    assert found == replace(certificates[name], computes_in="float32")
    facts, _ = catalogue.listed(name, {})
    assert f"in float64, but {name} (float32)." in catalogue.as_markdown([(facts, found)])


def test_on_one_pixel_instance_norms_are_refused_and_at_batch_1_those_of_the_batch(
    certificates: Certificates,
) -> None:
    instance = {"in", "in_affine", "ibn"}
    for name, found in certificates.items():
        assert found.at_batch_1 == "works"
        assert found.on_1x1_maps.startswith("refused: ") == (name in instance)
        refused = name in (instance | BATCH) - {"switchable", "mabn", "online"}
        assert found.at_batch_1_on_1x1_maps.startswith("refused: ") == refused


def test_of_one_pixel_frn_keeps_signs_and_so_do_norms_of_the_batch_of_two_images(
    certificates: Certificates,
) -> None:
    """Two values with mean 0 and variance 1 are 1 and -1."""
    signs = "keeps only signs"
    two = {"bn", "bn_custom", "lazy_bn", "sync_bn", "ws_bn", "ghost_bn", "frn", "bin"}
    assert {n for n in NAMES if certificates[n].at_batch_2_on_1x1_maps == signs} == two
    for attribute in ("on_1x1_maps", "at_batch_1_on_1x1_maps"):
        assert {n for n in NAMES if getattr(certificates[n], attribute) == signs} == {"frn"}
    x = torch.randn(2, 4, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    y = nn.BatchNorm2d(4, eps=1e-12).double()(x)
    torch.testing.assert_close(y, (x - x.flip(0)).sign())


def test_saved_bytes_are_those_of_what_autograd_needs(certificates: Certificates) -> None:
    assert certificates["none"].saved_bytes == 4.0  # ReLU's output
    for name in ("bn", "ln", "in", "gn"):
        assert certificates[name].saved_bytes == 8.0  # and the norm's input
    x = torch.randn(5, 7, requires_grad=True)
    size = x.numel() * x.element_size()
    assert saved_bytes(lambda x: x + 1, x, []) == 0
    assert saved_bytes(lambda x: (x * x).exp(), x, []) == 2 * size  # x once, and exp's output
    linear = nn.Linear(7, 3)
    assert saved_bytes(linear, x, list(linear.parameters())) == size


class InFloat32(nn.Module):
    """A layer within, computed in float32; the output has the input's type."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    @classmethod
    def of(cls, make: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
        return lambda num_features: cls(make(num_features))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer.float()(x.float())
        return y.to(x.dtype)


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


def of(function: Callable[[Tensor], Tensor], counts: bool = False, **more: Any) -> Certificate:
    return certify(NormSpec("undeclared", lambda num_features: Shown(function, counts), **more))


def centred(x: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    return x - x.mean(axes, keepdim=True)


def test_the_finest_axes_are_named_and_coarser_axes_are_not() -> None:
    halves = of(lambda x: torch.cat([centred(half, (0, 2, 3)) for half in x.chunk(2)]))
    assert halves.mean_0_over == ("n/2 h w",)
    assert halves.variance_1_over == ()
    assert of(lambda x: centred(centred(x, (2, 3)), 1)).mean_0_over == ("h w", "c")
    assert of(lambda x: x).mean_0_over == ()


def test_a_constant_forgets_its_input_and_a_sign_keeps_only_that() -> None:
    assert of(lambda x: 0 * x).at_batch_1 == "forgets its input"
    assert of(torch.sign).at_batch_1 == "keeps only signs"
    refusing = of(torch.tanh, refuse=lambda shape: Refusal("one") if shape[0] == 1 else None)
    assert (refusing.at_batch_1, refusing.on_1x1_maps) == ("refused: one", "works")


def test_state_is_counted_and_its_double_update_seen() -> None:
    assert of(torch.tanh, counts=True).under_activation_checkpointing == "state updated twice"
    assert of(torch.tanh).under_activation_checkpointing == "no state"


def test_a_layer_that_adds_the_mean_of_the_batch_sees_its_mates_in_both_modes() -> None:
    found = of(lambda x: x + x.mean())
    assert found.batch_mates_matter_in_training
    assert found.batch_mates_matter_in_evaluation
    assert found.evaluates_as_it_trains


def test_a_layer_that_counts_its_samples_or_pixels_knows_their_order() -> None:
    by_sample = of(lambda x: x * torch.arange(len(x))[:, None, None, None])
    assert (by_sample.order_of_samples_matters, by_sample.commutes_with_shifts) == (True, True)
    by_pixel = of(lambda x: x * torch.arange(x.shape[-1]))
    assert (by_pixel.order_of_samples_matters, by_pixel.commutes_with_shifts) == (False, False)


# The command.


def test_the_catalogue_names_every_norm_with_its_paper_state_and_parameters(normbench: Run) -> None:
    code, out, _ = normbench("norms")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()[2:]}
    assert list(rows) == NAMES
    assert "arXiv:1803.08494" in rows["gn"]
    assert "2 per channel + 1" in rows["bn"]
    assert "2 per channel + 6" in rows["switchable"]
    assert "1 per channel + 1 per pair of channels" in rows["iternorm"]
    assert "1, on 1x1 maps 3 (2: only signs) " in rows["bn"]
    assert "1, on 1x1 maps none (1: only signs) " in rows["frn"]
    assert "1, on 1x1 maps none" in rows["in"]


def test_a_certificate_is_text_for_people_and_json_and_markdown_for_programs(
    normbench: Run,
) -> None:
    code, out, _ = normbench("norms", "gn")
    assert code == 0
    assert out.startswith("gn: GroupNorm\n")
    assert "norm.num_groups=4, norm.eps=1e-05, norm.affine=true" in out
    [line] = [line for line in out.splitlines() if line.startswith("mean 0 over")]
    assert line.split()[-3:] == ["c/4", "h", "w"]
    code, out, _ = normbench("norms", "gn", "--json")
    found = json.loads(out)
    assert (code, found["name"]) == (0, "gn")
    assert found["certificate"]["ignores_scale_of"] == ["sample", "batch"]
    code, out, _ = normbench("norms", "gn", "--markdown")
    assert code == 0
    assert out.startswith("# Every norm and its certificate\n")
    assert out.count("\n| gn ") == 3


def test_of_a_norm_that_refuses_every_network_only_the_reason_is_known(normbench: Run) -> None:
    five = ("norms", "gn", "norm.num_groups=5")
    reason = "num_groups=5 does not divide 16 channels"
    code, out, _ = normbench(*five, "--json")
    assert (code, json.loads(out)["certificate"]) == (0, {"refused": reason})
    code, out, _ = normbench(*five, "--check")
    tried = "it works with none of 16, 32, 48, 64, 96, 128 channels"
    assert (code, out) == (1, f"gn: not tried: {reason}; {tried}: choose other options\n")
    assert normbench(*five, "--markdown")[1].count("\n| gn ") == 1


def test_check_prints_a_line_for_every_demand(normbench: Run) -> None:
    code, out, _ = normbench("norms", "gn", "--check")
    assert code == 0
    assert all(line.startswith("gn: ok     ") for line in out.splitlines())
    assert len(out.splitlines()) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("gm", "unknown norm 'gm': did you mean 'gn'? allowed: batch_renorm, bcn, "),
        ("gn --json --check", "--json and --check are different outputs: choose one"),
    ],
)
def test_a_wrong_question_is_one_line(normbench: Run, arguments: str, message: str) -> None:
    code, out, err = normbench("norms", *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"normbench: {message}")
    assert len(err.splitlines()) == 1


def test_the_docstring_of_an_own_norm_steers_nothing_and_ends_no_cell() -> None:
    facts, spec = catalogue.listed("bn", {})
    own = facts | {"name": "a|b\x1b[2J", "title": "\u202e\n", "summary": "\r\ud800"}
    certificate = certify(spec)
    on_terminal = catalogue.as_text([own]), catalogue.certificate_text(own, certificate)
    in_markdown = catalogue.as_markdown([(own, certificate)])
    for text in (*on_terminal, in_markdown):
        assert not steers(text)
        assert "\\x1b[2J" in text
    rows = [line for line in in_markdown.splitlines() if line.startswith("| a")]
    assert [line.count("|") - line.count(r"\|") for line in rows] == [9, 15, 9]


def test_a_certificate_is_computed_on_one_thread_and_leaves_the_number_as_it_was() -> None:
    """Two threads take 7 times the processor time on inputs of this size."""
    seen = set()

    class Noting(nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return x

    torch.set_num_threads(2)
    try:
        certify(NormSpec(scope="none", norm=lambda num_features: Noting()))
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(1)

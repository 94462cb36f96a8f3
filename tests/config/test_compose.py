"""From YAML files and key=value to a RunConfig: refusals, and the identity of a run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from kit.tiny import tiny
from omegaconf import OmegaConf

import normbench.config.compose
from normbench.config.compose import compose, config_dir, groups
from normbench.config.schema import (
    ADDED,
    ADDED_OPTIONS,
    LOADER,
    RunConfig,
    flatten,
    from_yaml,
    validate,
)
from normbench.data import sources
from normbench.errors import NormbenchError
from normbench.models import models
from normbench.norms import norms
from normbench.registry import Registry
from normbench.tasks.registry import tasks
from normbench.training.optim import optimizers
from normbench.training.resolve import resolve

REGISTRY_OF: dict[str, Registry[Any]] = {
    "task": tasks,
    "norm": norms,
    "model": models,
    "data": sources,
    "optim": optimizers,
}
CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]
ENTRIES = [(group, entry.name) for group, registry in REGISTRY_OF.items() for entry in registry]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of configs/, read by compose in place of configs/."""
    folder = tmp_path / "configs"
    shutil.copytree(config_dir(), folder)
    monkeypatch.setattr(normbench.config.compose, "config_dir", lambda: folder)
    # pytest removes the folders of passed tests, and gives their names to later tests.
    normbench.config.compose._kept.cache_clear()
    normbench.config.compose._groups.cache_clear()
    return folder


def refusal(*overrides: str, flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(NormbenchError) as caught:
        compose(overrides, flags)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    return message


# Refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # names
        (["norm=gm"], "unknown norm 'gm': did you mean 'gn'? allowed: batch_renorm, bcn, "),
        (["optim=adma"], "unknown optim 'adma': did you mean 'adam'? allowed: adam, adamw, sgd"),
        (["norm="], "unknown norm '': allowed: "),
        (["norm=null"], "norm=None: give one name of batch_renorm, bcn, "),
        (["nrom=bn"], "unknown key 'nrom': did you mean 'norm'? allowed: batch_size, "),
        (
            ["optim.lrr=1"],
            "unknown key of optim adam 'optim.lrr': did you mean 'optim.lr'? allowed",
        ),
        (["norm=gn", "norm.num_group=2"], "unknown key of norm gn 'norm.num_group': did you mean "),
        (["augment=none"], "unknown key 'augment': did you mean 'data.augment'?"),
        (["norm=gn", "norm.momentum=0.1"], "unknown key of norm gn 'norm.momentum': "),
        (["optim.lr.x=3"], "unknown key 'optim.lr.x': 'optim.lr' is a value, not a section"),
        (["data.content=abc"], "unknown key of data cifar10 'data.content': "),
        (["sweep=batch_size"], "unknown key 'sweep': "),
        (["name=x"], "unknown key 'name': "),
        (["=3"], "unknown key '': "),
        # types
        (["optim.lr=abc"], "optim.lr: should be a valid number, not 'abc'"),
        (["optim.lr="], "optim.lr: should be a valid number, not ''"),
        (["optim.lr=true"], "optim.lr: should be a valid number, not True"),
        (["optim.lr=null"], "optim.lr: should be a valid number, not None"),
        (["batch_size=8.0"], "batch_size: should be a valid integer, not 8.0"),
        (["batch_size=true"], "batch_size: should be a valid integer, not True"),
        (["batch_size='8'"], "batch_size: should be a valid integer, not '8'"),
        (["runtime.compile=1"], "runtime.compile: should be a valid boolean, not 1"),
        (
            ["runtime.channels_last=1"],
            "runtime.channels_last: should be true, false or fast, not 1",
        ),
        (["data.mean=0.5"], "data.mean: should be a list, not 0.5"),
        (["data.mean=[0.5,0.5,x]"], "data.mean.2: should be a valid number, not 'x'"),
        # ranges
        (["batch_size=0"], "batch_size: should be greater than or equal to 1, not 0"),
        (["seed=-1"], "seed: should be greater than or equal to 0, not -1"),
        (["optim.lr=0"], "optim.lr: should be greater than 0, not 0"),
        (["optim.lr=nan"], "optim.lr: should be a finite number, not nan"),
        (["optim.lr=inf"], "optim.lr: should be a finite number, not inf"),
        (["data.val_fraction=1.0"], "data.val_fraction: should be less than 1, not 1.0"),
        (["data.std=[0.5,0,0.5]"], "data.std.1: should be greater than 0, not 0"),
        (
            ["optim.schedule=cosin"],
            "optim.schedule: should be 'constant', 'cosine' or 'one_cycle', ",
        ),
        # twice
        (["norm=bn", "norm=gn"], "'norm' is given twice: as 'bn' and in 'norm=gn'"),
        (["seed=1", "optim.lr=1", "seed=1"], "'seed' is given twice: as 1 and in 'seed=1'"),
        # not key=value, or Hydra's own
        (
            ["batch_size"],
            "cannot read 'batch_size': write key=value, as in batch_size=8 or norm=gn",
        ),
        ([""], "cannot read '': "),
        (["+x=1"], "'+x=1': keys are neither added nor deleted, only set: write key=value"),
        (["++seed=1"], "'++seed=1': keys are neither added nor deleted"),
        (["~seed"], "'~seed': keys are neither added nor deleted"),
        (["hydra=x"], "'hydra=x': Hydra's own settings and packages have no effect here"),
        (["hydra.run.dir=x"], "'hydra.run.dir=x': Hydra's own settings"),
        (["hydra/launcher=x"], "'hydra/launcher=x': Hydra's own settings"),
        (["norm@model=bn"], "'norm@model=bn': Hydra's own settings and packages"),
        # several values
        (["norm=bn,gn"], "'norm=bn,gn' is several values for one run: use sweep for that"),
        (["norm='bn,gn'"], "norm=bn,gn is several values for one run: use sweep for that"),
        (["batch_size=1,2"], "'batch_size=1,2' is several values for one run: use sweep for that"),
        (["seed=range(0,3)"], "'seed=range(0,3)' is several values for one run"),
        (["optim.lr=interval(0,1)"], "'optim.lr=interval(0,1)' is several values for one run"),
        (["norm=glob(*)"], "'norm=glob(*)' is several values for one run"),
        (["norm=[bn,gn]"], "norm=['bn', 'gn']: give one name of batch_renorm, bcn, "),
        # sections and names
        (["system=3"], "'system' is a section: set one of system.runs_dir, "),
        (["optim={lr: 1}"], "optim={'lr': 1}: give one name of adam, adamw, sgd"),
        (["norm.name=gn"], "'norm.name' cannot be set: choose with norm=NAME"),
        # interpolations
        (
            ["optim.lr=${nope}"],
            "cannot resolve an interpolation: Interpolation key 'nope' not found",
        ),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_line(overrides: list[str], message: str) -> None:
    assert refusal(*overrides).startswith(message)


def test_a_flag_and_an_override_for_one_key_are_given_twice() -> None:
    twice = refusal("norm=gn", flags={"norm": "bn"})
    assert twice == "'norm' is given twice: as 'bn' and in 'norm=gn'"
    twice = refusal("optim.lr=1", flags={"optim.lr": 0.1})
    assert twice == "'optim.lr' is given twice: as 0.1 and in 'optim.lr=1'"


def test_a_wrong_flag_is_refused_like_an_override() -> None:
    assert refusal(flags={"norm": "gm"}) == refusal("norm=gm")
    assert refusal(flags={"batch_size": 0}) == refusal("batch_size=0")
    assert refusal(flags={"norm": "bn,gn"}).startswith("norm=bn,gn is several values for one run")


TRAIN = "accumulate: 1\nmax_steps: null\nbn_evaluations: false\nlog_every: 100\n"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("norm/gn.yaml", "name: gn\nnum_groups: [4", "a config file is not YAML: "),
        ("train.yaml", "defaults: [norm: bn\n", "a config file is not YAML: "),
        ("norm/gn.yaml", "defaults: [nowhere]\nname: gn\n", "the config files do not compose: "),
        ("train/default.yaml", "accumulate: 1\nmax_steps: null\n", "train.log_every: Field req"),
        ("runtime/default.yaml", "colour: red\n", "runtime.device: Field required"),
        (
            "train/default.yaml",
            f"{TRAIN}warmup: 3\n",
            "train.warmup: Extra inputs are not permitted",
        ),
    ],
)
def test_a_broken_file_is_one_line_too(configs: Path, file: str, text: str, message: str) -> None:
    (configs / file).write_text(text)
    complaint = refusal("norm=gn")
    assert complaint.startswith(message)
    assert "not YAML" not in message or Path(file).name in complaint


# Composition


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_config_file_composes_to_a_run_of_its_own(group: str, choice: str) -> None:
    chosen, base = compose([f"{group}={choice}"]), compose()
    assert group not in REGISTRY_OF or getattr(chosen, group).name == choice
    assert (chosen.fingerprint == base.fingerprint) == (chosen == base)


@pytest.mark.parametrize("place", [0, -1])
def test_choices_give_what_hydra_gives_of_all_together(place: int) -> None:
    """Oracle: one composition of every group's choice, first or last, at once."""
    choices = {group: names[place] for group, names in groups().items()}
    overrides = [f"{group}={choice}" for group, choice in choices.items()]
    with hydra.initialize_config_dir(str(config_dir().absolute()), version_base="1.3"):
        together = hydra.compose("train", overrides=overrides)
    wanted = OmegaConf.to_container(together, resolve=True)
    assert normbench.config.compose._merge(choices, config_dir()) == wanted


def test_a_file_that_sets_more_than_its_group_is_refused(configs: Path) -> None:
    (configs / "norm" / "gn.yaml").write_text("# @package _global_\nepochs: 3\n")
    with pytest.raises(NormbenchError, match=r"norm/gn.yaml sets epochs; allowed: keys of norm"):
        compose(["norm=gn"])


@pytest.mark.parametrize("group", REGISTRY_OF)
def test_every_registered_name_has_a_config_file_and_every_file_a_name(group: str) -> None:
    assert groups()[group] == sorted(entry.name for entry in REGISTRY_OF[group])


@pytest.mark.parametrize(("group", "name"), ENTRIES)
def test_a_config_file_holds_the_signature_s_options_and_defaults(group: str, name: str) -> None:
    options = getattr(compose([f"{group}={name}"]), group).options
    defaults = REGISTRY_OF[group].check(name, {})
    for key, value in defaults.items():
        # YAML has lists, not tuples.
        defaults[key] = list(value) if isinstance(value, tuple) else value
    assert options == defaults
    for key, value in defaults.items():
        assert type(options[key]) is type(value), key


def test_flags_and_overrides_give_equal_configs() -> None:
    overrides = ["norm=gn", "norm.num_groups=2", "batch_size=8", "system.runs_dir=/tmp/a b"]
    flags = {"norm": "gn", "batch_size": 8, "system.runs_dir": "/tmp/a b"}
    assert compose(overrides) == compose(["norm.num_groups=2"], flags)


def test_a_config_is_frozen_and_composing_again_finds_the_files_values() -> None:
    config = compose(["optim.lr=7"])
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert compose().optim.lr == 1e-3


def test_an_interpolation_takes_the_value_it_names() -> None:
    assert compose(["seed=5", "epochs=${seed}"]).epochs == 5


@pytest.fixture
def by_hydra(cache_dir: Path) -> Iterator[None]:
    """Hydra composes anew, although the choices were composed before."""
    normbench.config.compose._kept.cache_clear()
    yield
    normbench.config.compose._kept.cache_clear()


@pytest.mark.usefixtures("by_hydra")
def test_composing_leaves_hydra_and_the_working_directory_as_they_were(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compose()
    assert not GlobalHydra.instance().is_initialized()
    assert Path.cwd() == tmp_path
    assert list(tmp_path.iterdir()) == [cache_dir]


@pytest.mark.usefixtures("by_hydra")
def test_composing_inside_a_program_that_uses_hydra_does_not_disturb_it(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        compose(["norm=gn"])
        assert GlobalHydra.instance().is_initialized()
        assert hydra.compose("theirs").a == 1
    assert not GlobalHydra.instance().is_initialized()


# The identity of a run

DATA = tiny("model.widths=[4]", "runtime.device=cpu")
SPELLINGS = [True, False, 0, 1, 2, 3, 0.25, [0.25, 0.25], [0.25, 0.25, 0.25], [2], "a"]
SPELLINGS += [["a"], "linear", "cosine", "standard", "bf16", "cpu", "bar"]


def settable(config: RunConfig) -> dict[str, Any]:
    values = flatten(config.model_dump(mode="json"))
    del values["data.content"]
    return {key: value for key, value in values.items() if not key.endswith(".name")}


def changed(key: str, value: Any) -> RunConfig:
    """The source protocol with another value at `key`."""
    for spelling in SPELLINGS:
        if spelling == value:
            continue
        try:
            return compose([], {key: spelling})
        except NormbenchError:
            continue
    raise AssertionError(f"no other valid value for {key} among SPELLINGS: add one")


def test_a_run_id_says_model_norm_batch_and_seed() -> None:
    config = compose(["norm=gn", "batch_size=8", "seed=3"])
    assert re.fullmatch(r"normresnet-gn-b8-s3-[0-9a-f]{12}", config.run_id)
    assert config.run_id.endswith(config.fingerprint)


def test_every_key_but_paths_and_system_changes_the_run_id_and_no_two_alike() -> None:
    base = compose()
    fingerprints = {key: changed(key, value).fingerprint for key, value in settable(base).items()}
    unchanged = {key for key in fingerprints if fingerprints[key] == base.fingerprint}
    assert unchanged == {key for key in fingerprints if key.startswith("system.")} | {"data.root"}
    # The unchanged keys have the same fingerprint.
    assert len(set(fingerprints.values())) == len(fingerprints) - len(unchanged) + 1


def test_a_run_keeps_the_id_that_it_had_before_a_setting_was_there() -> None:
    config = compose()
    values = config.model_dump(mode="json")
    for section, setting, before in ADDED:
        assert values[section].pop(setting) == before
        assert setting not in config.identity()[section]
    assert validate(values).run_id == config.run_id


def test_a_run_keeps_the_id_that_it_had_before_an_option_was_there() -> None:
    chosen = {"task": "style", "data": "image_folder"}
    for section, option, before in ADDED_OPTIONS:
        config = compose([f"{section}={chosen[section]}"])
        values = config.model_dump(mode="json")
        assert values[section].pop(option) == before
        assert option not in config.identity()[section]
        assert validate(values).run_id == config.run_id


def test_the_content_of_the_data_is_part_of_the_run_id() -> None:
    config = compose(DATA)
    data = config.data.model_copy(update={"content": "other images"})
    assert config.fingerprint != config.model_copy(update={"data": data}).fingerprint


SETTINGS = ["norm=gn", "norm.num_groups=2", "batch_size=8", "optim=sgd", "optim.lr=1", "seed=4"]


@given(st.permutations(SETTINGS))
def test_the_order_of_overrides_does_not_change_the_run_id(overrides: list[str]) -> None:
    assert compose(overrides).run_id == compose(sorted(overrides)).run_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("optim.lr=1", "optim.lr=1.0"),
        ("optim.lr=1e-3", "optim.lr=0.001"),
        ("data.mean=[0,0,0]", "data.mean=[0.0,0.0,0.0]"),
        ("norm.eps=1", "norm.eps=1.0"),
        ("norm.momentum=1", "norm.momentum=1.0"),
        ("optim.betas=[0,0]", "optim.betas=[0.0,0.0]"),
    ],
)
def test_a_number_spelled_differently_is_the_same_run(one: str, other: str) -> None:
    first, second = (resolve(compose([*DATA, setting]))[0] for setting in (one, other))
    assert first.run_id == second.run_id


COUNT = st.integers(1, 10**6)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="$"), min_size=1)
FLAGS = st.fixed_dictionaries(
    {},
    optional={
        "norm": st.sampled_from(groups()["norm"]),
        "batch_size": COUNT,
        "seed": st.integers(0, 2**63),
        "optim.lr": st.floats(1e-300, 1e300),
        "optim.weight_decay": st.floats(0, 1),
        "data.mean": st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3),
        "data.limit_train": st.none() | COUNT,
        "model.widths": st.lists(COUNT, min_size=1, max_size=40),
        "system.runs_dir": PATHS,
        "system.cache_dir": st.none() | st.just("") | PATHS,
    },
)


@given(FLAGS)
def test_a_config_written_as_yaml_reads_back_as_the_same_config(flags: dict[str, Any]) -> None:
    config = compose([], flags)
    again = from_yaml(config.to_yaml())
    assert again == config
    assert again.run_id == config.run_id


# YAML that normbench never wrote

LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{place}: &a{place} [{', '.join([f'*a{place - 1}'] * 9)}]\n" for place in range(1, 30)
)
MERGES = "m: " + "{<<: [&m {" * 3 + "x: 1" + "}, *m]}" * 3


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "a: &a [1]\nb: *a", "&a [*a]"])
def test_aliases_are_refused_before_they_are_followed(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        yaml.load(text, LOADER)
    with pytest.raises(NormbenchError, match="not one that normbench wrote"):
        from_yaml(text)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_a_megabyte_of_nesting_is_refused_in_one_line(opening: str) -> None:
    with pytest.raises(NormbenchError, match="not one that normbench wrote"):
        from_yaml(opening * (10**6 // len(opening)))


@pytest.mark.parametrize("depth", [300, 500, 900])
def test_nesting_that_yaml_takes_is_refused_in_one_line_too(depth: int) -> None:
    with pytest.raises(NormbenchError):
        from_yaml("seed: " + "[" * depth + "]" * depth)


@given(st.lists(st.sampled_from(["*", "&", "*a", "&a b", "2 * 3", "**"]), min_size=1))
def test_a_sign_of_an_alias_in_a_text_is_text(words: list[str]) -> None:
    content = {"norm": {"name": words[0], "note": words}, "again": words[:]}
    assert yaml.load(yaml.safe_dump(content), LOADER) == content


def test_equal_lists_of_a_configuration_are_written_without_aliases() -> None:
    config = compose(tiny())
    shared = [1, 2]
    values = config.model_dump(mode="json")
    options = {"a": shared, "b": shared, "c": {"d": shared}}
    values["norm"] = {"name": "bn", **options}
    text = RunConfig.model_validate(values).to_yaml()
    assert "*" not in text
    assert from_yaml(text).norm.options == options

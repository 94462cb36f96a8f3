"""Folders of images as people have them: of many sizes, grey, and without a test set."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kit.runs import in_study, one_run
from PIL import Image, ImageOps

from normbench.config.compose import compose
from normbench.config.schema import from_yaml
from normbench.data.cache import load, remember
from normbench.data.formats import images as decoding
from normbench.data.formats.image_folder import _draw
from normbench.data.source import DataHome, Source, Split, sources
from normbench.errors import NormbenchError
from normbench.training.resolve import resolve

Run = Callable[..., tuple[int, str, str]]
SIZES = [(40, 24), (24, 40), (50, 50), (16, 16), (7, 90)]


def image_of(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth colours, so that a wrong place or filter changes every pixel."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images of a class, each of another size, without train/ and test/."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index, size in enumerate(SIZES):
            image = image_of(size, 10 * number + index)
            image.save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


def source_of(root: Path | None, **options: object) -> Source:
    home = DataHome(Path("cache"), workers=2)
    given = {} if root is None else {"root": str(root)}
    return sources.build("image_folder", home, options=given | options)


def refusal(root: Path, **options: object) -> str:
    with pytest.raises(NormbenchError) as caught:
        source_of(root, **options).decode()
    return str(caught.value)


def as_set(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split["images"]}


def fitted(path: Path) -> bytes:
    """The pixels of a file as Pillow fits them into 12 x 12."""
    return np.asarray(ImageOps.fit(Image.open(path), (12, 12))).transpose(2, 0, 1).tobytes()


def test_images_of_any_size_are_those_that_pillow_fits(photos: Path) -> None:
    source = source_of(photos, size=12, test_fraction=0.2)
    assert source.image_shape == (3, 12, 12)
    train, test = source.decode()
    expected = set()
    for path in photos.glob("*/*.png"):
        expected.add(fitted(path))
    assert as_set(train) | as_set(test) == expected
    assert len(expected) == len(train) + len(test) == 10


def test_fitting_cuts_the_longer_side_alike_and_nothing_of_the_shorter(photos: Path) -> None:
    # Black but for a white middle third of the longer side, of which a square keeps all.
    for path in photos.glob("*/*.png"):
        pixels = np.zeros((30, 90, 3), np.uint8)
        pixels[:, 30:60] = 255
        image = Image.fromarray(pixels)
        (image if path.stem in "024" else image.rotate(90, expand=True)).save(path)
    train, test = source_of(photos, size=30, test_fraction=0.2).decode()
    assert (train["images"] == 255).all()
    assert (test["images"] == 255).all()


def test_a_photo_that_was_turned_by_its_camera_stands_upright(photos: Path) -> None:
    upright = image_of((24, 40), 99)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.rotate(90, expand=True).save(photos / "cat" / "turned.png", exif=exif)
    upright.save(photos / "cat" / "upright.png")
    train, test = source_of(photos, size=12, test_fraction=0.2).decode()
    images = [image.tobytes() for split in (train, test) for image in split["images"]]
    assert len(images) == len(set(images)) + 1


def test_without_a_size_the_line_names_the_setting(photos: Path) -> None:
    assert refusal(photos, test_fraction=0.2).endswith("; data.size=32 resizes and crops")


@given(count=st.integers(2, 40), fraction=st.floats(0.01, 0.99))
def test_a_split_takes_the_fraction_of_every_class_and_leaves_none_empty(
    count: int, fraction: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("flat")
    for name in ("a", "b"):
        (root / name).mkdir()
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(b"")
    # The files are found, split and hashed before one is decoded.
    source = source_of(root, size=8, test_fraction=fraction)
    wanted = min(max(round(fraction * count), 1), count - 1)
    assert (source.num_test, source.num_train) == (2 * wanted, 2 * (count - wanted))
    shutil.rmtree(root)


def test_the_split_is_known_by_names_alone(photos: Path, tmp_path: Path) -> None:
    _, test = source_of(photos, size=12, test_fraction=0.4).decode()
    moved = tmp_path / "elsewhere" / "photos"
    shutil.copytree(photos, moved)
    _, again = source_of(moved, size=12, test_fraction=0.4).decode()
    np.testing.assert_array_equal(test["images"], again["images"])
    assert source_of(moved, size=12, test_fraction=0.4).content == (
        source_of(photos, size=12, test_fraction=0.4).content
    )
    # Frozen: by another rule, runs of before would have other test images.
    names = [Path("cat") / f"{index}.png" for index in range(10)]
    assert "".join(path.stem for path in sorted(names, key=_draw)) == "8075312964"
    assert {fitted(photos / "cat" / f"{index}.png") for index in (0, 3)} < as_set(test)


def test_more_test_images_are_those_of_before_and_more(photos: Path) -> None:
    fewer, more = (
        source_of(photos, size=12, test_fraction=share).decode()[1] for share in (0.2, 0.6)
    )
    assert as_set(fewer) < as_set(more)


def test_a_split_folder_is_the_same_data_as_the_folders_it_would_be(
    photos: Path, tmp_path: Path
) -> None:
    flat = source_of(photos, size=12, test_fraction=0.4)
    train, test = flat.decode()
    split = tmp_path / "split" / "photos"
    for path in sorted(photos.glob("*/*.png")):
        side = "test" if fitted(path) in as_set(test) else "train"
        (split / side / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, split / side / path.parent.name)
    apart = source_of(split, size=12)
    assert apart.content == flat.content
    for one, other in zip(apart.decode(), (train, test), strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])
        np.testing.assert_array_equal(one["labels"], other["labels"])


def test_the_content_follows_size_and_split(photos: Path) -> None:
    choices = [(12, 0.2), (16, 0.2), (12, 0.4)]
    contents = {source_of(photos, size=size, test_fraction=f).content for size, f in choices}
    assert len(contents) == 3


def test_what_cannot_be_split_is_one_line(photos: Path) -> None:
    assert refusal(photos).endswith("data.test_fraction=0.2 splits a folder of CLASS/*.png")
    for path in (photos / "dog").glob("[1-4].png"):
        path.unlink()
    told = f"data.test_fraction=0.2: '{photos / 'dog'}' holds one image; needed are 2"
    assert refusal(photos, test_fraction=0.2) == told
    (photos / "train").mkdir()
    told = f"data.test_fraction=0.2: '{photos}' has a train/ of its own: leave the setting out"
    assert refusal(photos, test_fraction=0.2) == told


@pytest.mark.parametrize(
    "setting",
    [
        "size=0",
        "size=-3",
        "size=5000",
        "size=1.5",
        "size=big",
        "test_fraction=0",
        "test_fraction=1",
    ],
)
def test_a_wrong_value_is_one_line_and_exit_code_2(
    setting: str, photos: Path, normbench: Run
) -> None:
    for command in (["data", "import", "photos"], ["train", "data=image_folder"]):
        code, out, errors = normbench(*command, f"data.{setting}")
        assert (code, out, errors.count("\n")) == (2, "", 1)
        assert f"data.{setting.partition('=')[0]}: " in errors


def test_grey_images_are_told_and_have_three_equal_channels(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (photos / "cat").iterdir():
        Image.open(path).convert("L").save(path)
    train, _ = source_of(photos, size=12, test_fraction=0.2).decode()
    told = f"note: 5 of 10 images in '{photos}' are grey: each of the three channels has"
    assert capsys.readouterr().err == f"{told} their values\n"
    is_grey = (train["images"] == train["images"][:, :1]).all(axis=(1, 2, 3))
    assert is_grey.tolist() == (train["labels"] == 0).tolist()


def test_an_import_remembers_its_settings(photos: Path, normbench: Run) -> None:
    settings = ("data.size=12", "data.test_fraction=0.2")
    code, out, errors = normbench("data", "import", "photos", *settings)
    assert (code, errors) == (0, "")
    assert out == "folder-photos: 8 + 2 images; train with data=image_folder\n"
    by_root = ["data=image_folder", "data.root=photos", *settings]
    ids = set()
    for chosen in (["data=image_folder"], by_root, ["data=image_folder", *settings]):
        config, source = resolve(compose(chosen))
        assert source.image_shape == (3, 12, 12)
        ids.add(config.run_id)
    assert len(ids) == 1, "the same images are the same run"
    other, source = resolve(compose(["data=image_folder", "data.size=16"]))
    assert (source.image_shape, source.num_test) == ((3, 16, 16), 2)
    assert other.run_id not in ids


def test_data_import_takes_no_setting_of_anything_else(photos: Path, normbench: Run) -> None:
    for setting in ("batch_size=4", "data.root=x", "seed=1"):
        code, _, errors = normbench("data", "import", "photos", setting)
        assert (code, errors.count("\n")) == (2, 1)
    code, _, errors = normbench("data", "import", "photos", "data.siz=3")
    assert (code, "did you mean 'size'?" in errors) == (2, True)


def test_a_configuration_from_before_has_the_same_id() -> None:
    config = compose(["data=image_folder", "data.root=x"])
    values = yaml.safe_load(config.to_yaml())
    assert values["data"].pop("size") is None
    assert values["data"].pop("test_fraction") is None
    assert from_yaml(yaml.safe_dump(values)).run_id == config.run_id
    assert not {"size", "test_fraction"} & config.identity()["data"].keys()


def test_what_was_imported_before_there_were_settings_is_recalled(
    photos: Path, cache_dir: Path
) -> None:
    home = DataHome(cache_dir)
    source = sources.build(
        "image_folder", home, options={"root": str(photos), "size": 8, "test_fraction": 0.2}
    )
    load(source, home)
    remember("image_folder", photos, source, home)
    file = cache_dir / "imported.json"
    imports = json.loads(file.read_text())
    assert imports["image_folder"].pop("options") == {}
    file.write_text(json.dumps(imports))
    assert sources.build("image_folder", home).content == source.content


def test_decoding_shows_a_bar_on_a_terminal_alone(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(decoding, "BAR_SECONDS", 0)
    told = {}
    for kind in (Terminal, io.StringIO):
        stream = kind()
        monkeypatch.setattr(sys, "stderr", stream)
        source_of(photos, size=12, test_fraction=0.2).decode()
        told[kind] = stream.getvalue()
    assert "decoding" in told[Terminal]
    assert "8/8" in told[Terminal] or "/8 " in told[Terminal]
    assert told[io.StringIO] == ""


def test_sizes_side_by_side_need_no_hashes_in_a_table() -> None:
    runs = [
        one_run(seed=seed, **{"data.size": size, "data.content": f"images-fit{size}"})
        for size in (16, 32)
        for seed in (0, 1)
    ]
    assert in_study(*runs).settings == ["model", "batch_size", "lr", "data.size"]
    strange = one_run(seed=2, **{"data.size": 32, "data.content": "other images"})
    assert "data.content" in in_study(*runs, strange).settings

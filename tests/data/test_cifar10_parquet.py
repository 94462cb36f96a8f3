"""CIFAR-10 in the Hugging Face layout, on a tiny imitation of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from kit.hostile import STAND_INS, in_little_memory, put_in_place_of, sparse
from numpy.typing import NDArray
from PIL import Image

from normbench.data.formats import cifar10_parquet
from normbench.data.source import DataHome, Source, sources
from normbench.errors import NormbenchError

ROWS = {"train": 30, "test": 10}
IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])

UNREADABLE = "is damaged: it cannot be decoded as a PNG or JPEG image"
PATH_ONLY = pyarrow.struct([("path", pyarrow.string())])


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10_parquet, "ROWS", ROWS)


def pixels(split: str, row: int) -> NDArray[np.uint8]:
    """A smooth picture, so that JPEG keeps it nearly."""
    start = np.random.default_rng((split == "test", row)).integers(0, 150, 3)
    return (np.linspace(0, 100, 32)[:, None, None] + start).repeat(32, axis=1).astype(np.uint8)


@lru_cache
def encoded(split: str, row: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(split, row)).save(buffer, format=kind)
    return buffer.getvalue()


def rows_of(split: str, kind: str = "PNG") -> list[dict[str, Any]]:
    rows = []
    for row in range(ROWS[split]):
        image = {"bytes": encoded(split, row, kind), "path": None}
        rows.append({"img": image, "label": (row * 7) % 10})
    return rows


def write(path: Path, rows: list[dict[str, Any]], schema: pyarrow.Schema | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = schema or pyarrow.schema([("img", IMAGE), ("label", pyarrow.int64())])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)


def write_all(root: Path, kind: str = "PNG", shards: int = 2, folder: str = "plain_text") -> Path:
    for split in ROWS:
        rows = rows_of(split, kind)
        size = -(-len(rows) // shards)
        for shard in range(shards):
            name = f"{split}-{shard:05}-of-{shards:05}.parquet"
            write(root / folder / name, rows[shard * size : (shard + 1) * size])
    return root


def source_of(root: Path) -> Source:
    home = DataHome(root.parent / "cache")
    return sources.build("cifar10_parquet", home, options={"root": str(root)})


def refusal(root: Path) -> str:
    with pytest.raises(NormbenchError) as caught:
        source_of(root).decode()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_first_rows(
    root: Path, change: Callable[[list[dict[str, Any]]], object], split: str = "train"
) -> Path:
    """Writes an imitation with a file a split, after `change` of the rows of `split` in place."""
    write_all(root, shards=1)
    rows = rows_of(split)
    change(rows)
    write(root / "plain_text" / f"{split}-00000-of-00001.parquet", rows)
    return root


@pytest.mark.parametrize("folder", ["plain_text", ""], ids=["in plain_text", "directly"])
@pytest.mark.parametrize("shards", [1, 3])
def test_png_files_are_decoded_exactly_in_the_order_of_files_and_rows(
    tmp_path: Path, folder: str, shards: int
) -> None:
    source = source_of(write_all(tmp_path / "root", shards=shards, folder=folder))
    assert (source.name, source.image_shape) == ("cifar10", (3, 32, 32))
    assert (source.num_train, source.num_test) == (30, 10)
    for split, decoded in zip(ROWS, source.decode(), strict=True):
        assert (decoded["images"].dtype, decoded["labels"].dtype) == (np.uint8, np.int64)
        expected = [pixels(split, row).transpose(2, 0, 1) for row in range(ROWS[split])]
        np.testing.assert_array_equal(decoded["images"], expected)
        assert decoded["labels"].tolist() == [(row * 7) % 10 for row in range(ROWS[split])]


def test_jpeg_bytes_are_decoded_and_named_for_what_they_are(tmp_path: Path) -> None:
    source = source_of(write_all(tmp_path / "root", kind="JPEG"))
    assert source.name == "cifar10-jpeg"
    train, _ = source.decode()
    expected = np.array([pixels("train", row).transpose(2, 0, 1) for row in range(30)])
    differences = np.abs(train["images"].astype(int) - expected)
    assert 0 < differences.max() <= 8


def test_the_content_follows_the_bytes_not_the_place(tmp_path: Path) -> None:
    one, other = write_all(tmp_path / "one"), write_all(tmp_path / "other")
    assert source_of(one).content == source_of(other).content

    def swap_labels(rows: list[dict[str, Any]]) -> None:
        rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]

    same = write_all(tmp_path / "same", shards=1)
    swapped = with_first_rows(tmp_path / "swapped", swap_labels)
    assert source_of(same).content != source_of(swapped).content


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == f"data.root: there is no folder '{tmp_path}/nowhere'"
    root = write_all(tmp_path / "root", shards=1)
    (root / "plain_text/test-00000-of-00001.parquet").unlink()
    assert refusal(root) == f"data.root: no test-*.parquet in '{root}' or its plain_text/"


@pytest.mark.parametrize(
    ("schema", "given"),
    [
        ([("image", IMAGE), ("label", pyarrow.int64())], "image: struct<"),
        ([("img", IMAGE), ("fine_label", pyarrow.int64())], "fine_label: int64"),
        ([("img", pyarrow.binary()), ("label", pyarrow.int64())], "img: binary"),
        ([("img", IMAGE), ("label", pyarrow.string())], "label: string"),
        ([("img", PATH_ONLY), ("label", pyarrow.int64())], "img: struct<path"),
    ],
)
def test_other_columns_are_listed_beside_the_expected_ones(
    tmp_path: Path, schema: list[tuple[str, Any]], given: str
) -> None:
    root = write_all(tmp_path / "root", shards=1)
    write(root / "plain_text/train-00000-of-00001.parquet", [], pyarrow.schema(schema))
    message = refusal(root)
    assert message.startswith(f"'{root}/plain_text/train-00000-of-00001.parquet' has columns ")
    assert given in message
    assert message.endswith("; expected img: struct<bytes, path>, label: int64")


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    for name in ("train", "test"):
        root = write_all(tmp_path / name, shards=1)
        path = root / "plain_text" / f"{name}-00000-of-00001.parquet"
        path.write_bytes(path.read_bytes()[:100])
        assert refusal(root).startswith(f"'{path}' is not a readable parquet file: ")


@pytest.mark.parametrize(
    "fields",
    [
        [("img", IMAGE), ("label", pyarrow.float64())],
        [("img", IMAGE), ("label", pyarrow.decimal128(5, 0))],
        [("img", IMAGE), ("label", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))],
        [("img", IMAGE), ("label", pyarrow.bool_())],
        [("img", IMAGE), ("label", pyarrow.list_(pyarrow.int64()))],
        [("img", pyarrow.list_(IMAGE)), ("label", pyarrow.int64())],
        [("img", pyarrow.struct([("bytes", pyarrow.string())])), ("label", pyarrow.int64())],
        [("img", pyarrow.struct([("bytes", pyarrow.int64())])), ("label", pyarrow.int64())],
        [("img", pyarrow.struct([("bytes", IMAGE)])), ("label", pyarrow.int64())],
        [("img", IMAGE), ("label", pyarrow.int64()), ("label", pyarrow.int64())],
        [("img", IMAGE), ("label", pyarrow.int64()), ("img", IMAGE)],
        [("img", IMAGE), ("label\n\x1b[31m", pyarrow.int64())],
        [("img", IMAGE)] + [(f"column {number}", pyarrow.int64()) for number in range(500)],
    ],
)
def test_odd_types_are_refused_in_a_line(tmp_path: Path, fields: list[tuple[str, Any]]) -> None:
    root = write_all(tmp_path / "root", shards=1)
    path = root / "plain_text/train-00000-of-00001.parquet"
    schema = pyarrow.schema(fields)
    pyarrow.parquet.write_table(schema.empty_table(), path)
    message = refusal(root)
    assert message.startswith(f"'{path}' has columns img: ")
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize("kind", [pyarrow.uint8(), pyarrow.int32(), pyarrow.uint64()])
@pytest.mark.parametrize("encoded", [pyarrow.binary(), pyarrow.large_binary()])
def test_labels_and_bytes_of_other_widths_are_read_alike(
    tmp_path: Path, kind: Any, encoded: Any
) -> None:
    root = write_all(tmp_path / "root", shards=1)
    expected = source_of(root).decode()[0]
    image = pyarrow.struct([("bytes", encoded), ("path", pyarrow.string())])
    schema = pyarrow.schema([("img", image), ("label", kind)])
    path = root / "plain_text/train-00000-of-00001.parquet"
    write(path, rows_of("train"), schema)
    train, _ = source_of(root).decode()
    np.testing.assert_array_equal(train["images"], expected["images"])
    np.testing.assert_array_equal(train["labels"], expected["labels"])
    rows = rows_of("train")
    rows[5]["label"] = None
    write(path, rows, schema)
    assert "CIFAR-10 has 0 to 9" in refusal(root)


def test_a_label_beyond_int64_is_refused(tmp_path: Path) -> None:
    root = write_all(tmp_path / "root", shards=1)
    rows = rows_of("train")
    rows[5]["label"] = 2**64 - 1
    path = root / "plain_text/train-00000-of-00001.parquet"
    write(path, rows, pyarrow.schema([("img", IMAGE), ("label", pyarrow.uint64())]))
    assert refusal(root).startswith(f"'{path}' ")


def test_many_row_groups_are_read_in_order(tmp_path: Path) -> None:
    root = write_all(tmp_path / "root", shards=1)
    expected = source_of(root).decode()[0]
    path = root / "plain_text/train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path), path, row_group_size=7)
    train, _ = source_of(root).decode()
    np.testing.assert_array_equal(train["images"], expected["images"])
    np.testing.assert_array_equal(train["labels"], expected["labels"])


def test_rows_and_bytes_are_judged_by_the_footer_before_any_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_all(tmp_path / "root")
    source = source_of(root)
    monkeypatch.setattr(cifar10_parquet, "_read", lambda path: pytest.fail("read"))
    monkeypatch.setattr(cifar10_parquet, "MAX_BYTES", 1000)
    with pytest.raises(NormbenchError) as caught:
        source.decode()
    message = str(caught.value)
    assert message.startswith(f"'{root}/plain_text': ")
    assert message.endswith(" bytes of train columns; at most 1,000 are read")
    monkeypatch.setattr(cifar10_parquet, "ROWS", {"train": 31, "test": 10})
    with pytest.raises(NormbenchError, match="30 train rows, CIFAR-10 has 31"):
        source.decode()


@pytest.mark.slow
def test_an_image_repeated_without_end_is_held_once(tmp_path: Path) -> None:
    root = write_all(tmp_path / "root", shards=1)
    # Images of 100 MB, of which a dictionary in the file holds a single one.
    image = pyarrow.array([bytes(10**8)], pyarrow.binary())
    indices = pyarrow.array([0] * ROWS["train"], pyarrow.int32())
    repeated = pyarrow.DictionaryArray.from_arrays(indices, image)
    labels = pyarrow.array([row % 10 for row in range(ROWS["train"])])
    table = pyarrow.table(
        {"img": pyarrow.StructArray.from_arrays([repeated], ["bytes"]), "label": labels}
    )
    path = root / "plain_text/train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False)
    program = """
import sys; from pathlib import Path
from normbench.data.formats import cifar10_parquet
from normbench.data.source import DataHome, sources
from normbench.errors import NormbenchError
cifar10_parquet.ROWS = {"train": 30, "test": 10}
options = {"root": sys.argv[1]}
try:
    sources.build("cifar10_parquet", DataHome(Path("nowhere")), options=options).decode()
except NormbenchError as error:
    print(error)
"""
    message = in_little_memory(program, str(root), gib=2.0)
    assert message == f"image 0 of '{path}' {UNREADABLE}\n"


@pytest.mark.parametrize(("kind", "make"), STAND_INS.items())
def test_what_stands_in_the_place_of_a_file_is_named(
    tmp_path: Path, kind: str, make: Callable[[Path], object]
) -> None:
    root = write_all(tmp_path / "root", shards=1)
    path = root / "plain_text/test-00000-of-00001.parquet"
    put_in_place_of(path, make)
    assert refusal(root) == f"'{path}' is {kind}; it must be a file"


def test_a_file_that_is_too_large_is_named_with_the_limit(tmp_path: Path) -> None:
    root = write_all(tmp_path / "root", shards=1)
    path = root / "plain_text/test-00000-of-00001.parquet"
    sparse(path)
    size = "has 1,099,511,627,776 bytes; at most 1,073,741,824 are read"
    assert refusal(root) == f"'{path}' {size}"


def test_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    root = with_first_rows(tmp_path / "one less", lambda rows: rows.pop(), "test")
    assert refusal(root) == f"'{root}/plain_text': 9 test rows, CIFAR-10 has 10"
    root = with_first_rows(tmp_path / "none", lambda rows: rows.clear())
    assert refusal(root) == f"'{root}/plain_text': 0 train rows, CIFAR-10 has 30"


# With 30 rows of seven-fold numbers, the class 9 is that of the rows 7, 17 and 27 alone.
@pytest.mark.parametrize(("places", "label"), [([4], 10), ([4], -1), ([4], None), ([7, 17, 27], 0)])
def test_labels_that_are_not_0_to_9_are_refused(
    tmp_path: Path, places: list[int], label: int | None
) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for place in places:
            rows[place]["label"] = label

    message = refusal(with_first_rows(tmp_path / "labels", change))
    assert message.startswith(f"'{tmp_path}/labels/")
    assert message.endswith("CIFAR-10 has 0 to 9")


# Row 0 is also read before decoding, to see whether the images are JPEG.
@pytest.mark.parametrize("row", [0, 17])
@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (None, "is empty"),
        ({"bytes": None}, "is empty"),
        ({"bytes": b""}, UNREADABLE),
        ({"bytes": b"\xff\xd8\xff no JPEG"}, UNREADABLE),
        ({"bytes": encoded("train", 0)[:-40]}, UNREADABLE),
    ],
)
def test_a_missing_or_damaged_image_is_named_by_its_row_and_file(
    tmp_path: Path, row: int, image: dict[str, bytes | None] | None, fault: str
) -> None:
    root = with_first_rows(tmp_path / "root", lambda rows: rows[row].update(img=image))
    where = f"image {row} of '{root}/plain_text/train-00000-of-00001.parquet'"
    assert refusal(root) == f"{where} {fault}"


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8)).save(buffer, format="PNG")
    image = {"bytes": buffer.getvalue()}
    root = with_first_rows(tmp_path / "root", lambda rows: rows[3].update(img=image), "test")
    where = f"image 3 of '{root}/plain_text/test-00000-of-00001.parquet'"
    size = "is 16x8 pixels, the others 32x32: all images must have one size"
    assert refusal(root) == f"{where} {size}"

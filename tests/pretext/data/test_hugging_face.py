"""Hugging Face's data sets, written by their own library and read back; and a hub that cannot be reached."""

import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from processes import Launcher

from pretext.data import LabeledDataset, open_dataset, open_labeled
from pretext.data.source import digest_of_keys
from pretext.errors import ImageError, UserError
from transfer.targets import open_targets

if os.environ.get("CI") == "true":
    import datasets
else:
    datasets = pytest.importorskip("datasets")

COUNT = 5
LABELS = [0, 1, 1, 0, 1]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def encoded(shade: int, **options: Any) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(np.full((30, 40, 3), shade, np.uint8))
    image.save(out, options.pop("kind", "PNG"), **options)
    return out.getvalue()


def table(labels: list[int] | None = LABELS, **columns: Any) -> Any:
    features = {"id": datasets.Value("int64"), "image": datasets.Image()}
    rows: dict[str, Any] = {"id": list(range(COUNT)), "image": [encoded(40 * i) for i in range(COUNT)]}
    if labels is not None:
        features["label"] = datasets.ClassLabel(names=["cat", "dog"])
        rows["label"] = labels
    features |= {name: feature for name, (feature, _) in columns.items()}
    rows |= {name: values for name, (_, values) in columns.items()}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def check(source: LabeledDataset, first: str) -> None:
    assert isinstance(source, LabeledDataset)
    assert source.key(0) == first
    assert len(source) == COUNT
    for index in range(COUNT):
        got = source.read(index)
        assert (got.mode, got.size) == ("RGB", (40, 30))
        assert (np.asarray(got) == 40 * index).all()
    assert source.classes == ["cat", "dog"]
    assert source.labels.tolist() == LABELS
    assert source.digest() == digest_of_keys(source)


def test_saved_folder_and_dictionary(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "one")
    check(open_labeled(f"hf:{tmp_path}/one:train"), "one/train/0000000")
    datasets.DatasetDict({"train": table(), "test": table(None)}).save_to_disk(tmp_path / "both")
    check(open_labeled(f"hf:{tmp_path}/both:train"), "both/train/0000000")
    assert len(open_dataset(f"hf:{tmp_path}/both:test")) == COUNT
    with pytest.raises(UserError, match=r"no split tset in it: there are train, test; did you mean test\?"):
        open_dataset(f"hf:{tmp_path}/both:tset")


def test_parquet_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "all" / "data").mkdir(parents=True)
    table().to_parquet(tmp_path / "x.parquet")
    table().to_parquet(tmp_path / "all" / "data" / "train-00000-of-00001.parquet")
    check(open_labeled(f"hf:{tmp_path}/x.parquet:train"), "x.parquet/train/0000000")
    check(open_labeled(f"hf:{tmp_path}/all:train"), "all/train/0000000")
    check(open_labeled(f"hf:{tmp_path}/all:default:train"), "all/default/train/0000000")
    assert len(open_dataset(f"hf:{tmp_path}/all:train[1:4]")) == 3
    with pytest.raises(UserError, match=r"all:test: Unknown split .*train"):
        open_dataset(f"hf:{tmp_path}/all:test")
    saved = datasets.load_dataset("parquet", data_files=str(tmp_path / "x.parquet"), split="train")
    saved.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="it has the split train, not test"):
        open_dataset(f"hf:{tmp_path}/saved:test")


def test_images_go_through_the_one_decoder(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    rows = [
        {"bytes": encoded(9, kind="JPEG", exif=turned), "path": None},
        {"bytes": encoded(9)[:60], "path": "cut.png"},
        None,
        {"bytes": encoded(9, kind="JPEG"), "path": None},
    ]
    features = datasets.Features({"photo": datasets.Image()})
    datasets.Dataset.from_dict({"photo": rows}, features=features).to_parquet(tmp_path / "x.parquet")
    source = open_dataset(f"hf:{tmp_path}/x.parquet:val")
    assert source.read(0).size == (30, 40)
    assert source.read(3, shorter=8).size == (20, 15)  # the half: its shorter side is 8 or more, a quarter is 7.5
    for index, says in ((1, "truncated"), (2, "has no image here")):
        with pytest.raises(ImageError, match=rf"^x\.parquet/val/000000{index}: .*{says}"):
            source.read(index)
    with pytest.raises(UserError, match=r"no column of labels \(of type ClassLabel,.*there are photo;"):
        open_labeled(f"hf:{tmp_path}/x.parquet:val")


def test_a_folder_of_image_files(tmp_path: Path) -> None:
    for index, label in enumerate(LABELS):
        file = tmp_path / "files" / "train" / ["cat", "dog"][label] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(40 * index))
    source = open_labeled(f"hf:{tmp_path}/files:train")
    shades = [int(np.asarray(source.read(index)).mean()) // 40 for index in range(COUNT)]
    assert [LABELS[shade] for shade in shades] == source.labels.tolist()
    assert sorted(shades) == list(range(COUNT))
    (tmp_path / "files" / "train" / "cat" / "0.png").unlink()
    with pytest.raises(ImageError, match=r"the file .*/0\.png is gone"):
        source.read(shades.index(0))


def test_labels_that_are_missing(tmp_path: Path) -> None:
    table([-1] * COUNT).save_to_disk(tmp_path / "hidden")
    assert len(open_dataset(f"hf:{tmp_path}/hidden:test")) == COUNT
    with pytest.raises(UserError, match="5 of 5 images have no label"):
        open_labeled(f"hf:{tmp_path}/hidden:test")
    table([0, 1, None, 0, 1]).save_to_disk(tmp_path / "hole")  # type: ignore[list-item]
    with pytest.raises(UserError, match="1 of 5 images have no label"):
        open_labeled(f"hf:{tmp_path}/hole:test")


def test_which_columns(tmp_path: Path) -> None:
    other = (datasets.Image(), [encoded(200)] * COUNT)
    kinds = (datasets.ClassLabel(names=["a", "b", "c"]), [2] * COUNT)
    table(mask=other, coarse=kinds).select_columns(["mask", "coarse", "image", "label"]).save_to_disk(tmp_path / "x")
    check(open_labeled(f"hf:{tmp_path}/x:train"), "x/train/0000000")
    table().select_columns(["id"]).save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match=r"no column of images \(of type Image,.*there are id;"):
        open_dataset(f"hf:{tmp_path}/none:train")
    table().select([]).save_to_disk(tmp_path / "empty")
    with pytest.raises(UserError, match="empty"):
        open_dataset(f"hf:{tmp_path}/empty:train")


def test_a_data_set_with_code_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    with pytest.raises(UserError) as caught:
        open_dataset(f"hf:{folder}:train")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


def test_pickles(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "one")
    check(pickle.loads(pickle.dumps(open_labeled(f"hf:{tmp_path}/one:train"))), "one/train/0000000")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached(launcher: Launcher, tmp_path: Path) -> None:
    code = """
import time
time.sleep = lambda seconds: None  # the library tries again for half a minute
from pretext.errors import UserError
from pretext.data import open_dataset
try:
    open_dataset("hf:nobody/nothing:train")
except UserError as error:
    print(error)
"""
    closed = "http://127.0.0.1:9"  # nothing listens there: a real refusal
    own = {"HF_ENDPOINT": closed, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = launcher.run(code=code, env=own)
    (line,) = done.stdout.decode().splitlines()
    assert line.startswith("hf:nobody/nothing:train: the hub cannot be reached (")
    assert "or give a local dataset: hf:FOLDER:SPLIT" in line and "hf:FILE.parquet:SPLIT" in line


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf:", "write hf:DATA:SPLIT"),
        ("hf:imagenet-1k", "write hf:DATA:SPLIT"),
        ("hf:a:b:c:d", "write hf:DATA:SPLIT"),
        ("hf:{}/nowhere:train", "no file or folder .*/nowhere; write hf:FOLDER:SPLIT"),
        ("hf:here.parquet:train", r"no file or folder here\.parquet"),
        ("hf:~nobody-at-all/x:train", "no file or folder"),
        ("hf:two words:train", "not a file and not a valid name on the hub"),
        ("hf:{}:validation", "Unknown split"),
        ("hf:{}/notes.txt:train", r"notes\.txt is not a parquet file; write hf:FOLDER:SPLIT"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for opener in (open_dataset, open_labeled):
        with pytest.raises(UserError, match=says) as caught:
            opener(name.format(tmp_path))
        assert "\n" not in str(caught.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"^hf:imagenet-1k:train: needs .*pip install 'pretint\[hf\]'$"):
        open_dataset("hf:imagenet-1k:train")


def rows_of(source: Any) -> list[int]:
    """Which rows of ``shades`` these are."""
    return [int(np.asarray(source.read(index)).mean()) for index in range(len(source))]


def shades(first: int, count: int) -> Any:
    rows = {"image": [encoded(shade) for shade in range(first, first + count)], "label": [0, 1] * (count // 2)}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    return datasets.Dataset.from_dict(rows, features=features)


CUTS = {
    "train[:70%]": range(25),
    "train[70%:]": range(25, 36),
    "train[:10]": range(10),
    "train[-5:]": range(31, 36),
    "train[10:-20]": range(10, 16),
    "train[10%:20%]": range(4, 7),
    "train[:1_0]": range(10),
    "train": range(36),
    "train[:2]+train[30:32]": [0, 1, 30, 31],
    "train[1:2]+train[:1]": [1, 0],
}


@pytest.mark.parametrize("kind", ["without splits", "of one split", "of two splits", "parquet", "folder"])
def test_a_split_is_cut_as_the_library_cuts_it(tmp_path: Path, kind: str) -> None:
    whole, path = shades(0, 36), tmp_path / "one"
    if kind == "without splits":
        whole.save_to_disk(path)
    elif kind == "of two splits":
        datasets.DatasetDict({"train": whole, "test": shades(100, 4)}).save_to_disk(path)
    else:
        path.mkdir()
        whole.to_parquet(path / "train-00000-of-00001.parquet")
        if kind == "of one split":
            file = str(path / "train-00000-of-00001.parquet")
            datasets.load_dataset("parquet", data_files={"train": file}, split="train").save_to_disk(path / "saved")
            path = path / "saved"
        elif kind == "parquet":
            path = path / "train-00000-of-00001.parquet"
    for split, rows in CUTS.items():
        source = open_labeled(f"hf:{path}:{split}")
        assert rows_of(source) == list(rows), split
        assert source.labels.tolist() == [row % 2 for row in rows], split
        assert len({source.key(index) for index in range(len(source))}) == len(source)
    for split, says in (
        ("train[:0]", "split is empty|no data"),
        ("train[:150%]", "boundaries must be"),
        ("train[x:]", "Unrecognized instruction"),
        ("train[:50%](near)", "rounding must be"),
        ("train[:5%](pct1_dropremainder)", "less than 100 elements"),
        ("train[:3]+other", "other"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            open_dataset(f"hf:{path}:{split}")
        assert "\n" not in str(caught.value)


def test_splits_are_joined_and_rounded(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": shades(0, 150), "test": shades(200, 4)}).save_to_disk(tmp_path / "both")
    assert rows_of(open_dataset(f"hf:{tmp_path}/both:train[:1%]+test[1:]")) == [0, 1, 201, 202, 203]  # 1.5 is near 2
    assert rows_of(open_dataset(f"hf:{tmp_path}/both:train[:1%](pct1_dropremainder)")) == [0]
    with pytest.raises(UserError, match=r"no split tset in it: there are train, test; did you mean test\?"):
        open_dataset(f"hf:{tmp_path}/both:train+tset[:50%]")


def test_a_set_without_splits_goes_by_one_name(tmp_path: Path) -> None:
    shades(0, 6).save_to_disk(tmp_path / "one")
    shades(0, 6).to_parquet(tmp_path / "one.parquet")
    for path in (tmp_path / "one", tmp_path / "one.parquet"):
        assert rows_of(open_dataset(f"hf:{path}:test[2:]")) == [2, 3, 4, 5]
        with pytest.raises(UserError, match="no splits, so train and test would be the same"):
            open_dataset(f"hf:{path}:train+test")
        with pytest.raises(UserError, match="no configuration french: it has none; leave it out"):
            open_dataset(f"hf:{path}:french:train")
        train, test = f"hf:{path}:train", f"hf:{path}:test"
        with pytest.raises(UserError, match="all 6 test images are also training images"):
            open_targets(train, test)
        assert open_targets(f"{train}[:50%]", f"{train}[50%:]").n_shared == 0
        assert open_targets(f"{train}[:4]", f"{train}[2:]").n_shared == 2


@pytest.mark.parametrize("image", ["struct", "binary", "large_binary"])
@pytest.mark.parametrize("label", ["int64", "uint8", "string", "large_string", "bool"])
def test_parquet_as_pandas_and_pyarrow_write_it(tmp_path: Path, image: str, label: str) -> None:
    import pyarrow
    import pyarrow.parquet

    values: list[Any] = [10, 9, 10, 2, 9] if "int" in label else ["dog", "cat", "dog", "ant", "cat"]
    values = [True, False, True, False, False] if label == "bool" else values
    cells: list[Any] = [encoded(40 * i) for i in range(COUNT)]
    if image == "struct":
        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        cells = [{"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(cells)]
    else:
        kind = getattr(pyarrow, image)()
    kind_of_label = pyarrow.bool_() if label == "bool" else getattr(pyarrow, label)()
    columns = {"id": list(range(COUNT)), "image": pyarrow.array(cells, kind)}
    columns["label"] = pyarrow.array(values, kind_of_label)
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    source = open_labeled(f"hf:{tmp_path}/x.parquet:train")
    assert rows_of(source) == [0, 40, 80, 120, 160]
    names = ["False", "True"] if label == "bool" else ["2", "9", "10"] if "int" in label else ["ant", "cat", "dog"]
    assert source.classes == names, "numbers in order of their size"
    assert [source.classes[one] for one in source.labels] == [str(value) for value in values]
    again = pickle.loads(pickle.dumps(source))
    assert rows_of(again) == rows_of(source) and again.labels.tolist() == source.labels.tolist()
    part = open_labeled(f"hf:{tmp_path}/x.parquet:train[2:4]")
    assert rows_of(part) == [80, 120] and len(part.classes) == 2


def test_labels_of_values_that_are_missing_or_differ(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    def write(name: str, labels: list[Any], first: int = 0) -> str:
        cells = [encoded(first + at) for at in range(len(labels))]
        pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": labels}), tmp_path / f"{name}.parquet")
        return f"hf:{tmp_path}/{name}.parquet:train"

    for labels, count in (([3, None, 4], 1), ([3, -1, -1], 2), (["a", "", "b"], 1)):
        with pytest.raises(UserError, match=f"{count} of 3 images have no label"):
            open_labeled(write("hole", labels))
        assert len(open_dataset(write("hole", labels))) == 3
    train = write("train", [5, 7, 30, 5])
    assert open_targets(train, write("test", [30, 7, 5], 100)).test.labels.tolist() == [2, 1, 0]
    with pytest.raises(UserError, match=r"different classes: 7 only in hf:.*train\.parquet"):
        open_targets(train, write("fewer", [30, 5], 100))  # 30 must not become label 1
    accent = write("accent", ["Ba\u0308r", "Bb", "B\u00e4r"])
    assert open_labeled(accent).classes == ["Bb", "B\u00e4r"] and open_labeled(accent).labels.tolist() == [1, 0, 1]
    for labels in ([0.5, 1.5], [[0], [1]]):
        with pytest.raises(UserError, match=r'dataset\.class_encode_column\("COLUMN"\)$'):
            open_labeled(write("float", labels))


def test_a_column_of_paths_names_the_call(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"image": ["a.png"], "label": [0]}).save_to_disk(tmp_path / "paths")
    with pytest.raises(UserError, match=r'dataset\.cast_column\("image", datasets\.Image\(\)\)$'):
        open_dataset(f"hf:{tmp_path}/paths:train")
    two = {"thumb": [encoded(1)], "photo": [encoded(2)]}
    datasets.Dataset.from_dict(two).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match=r"there are thumb, photo; make one with"):
        open_dataset(f"hf:{tmp_path}/two:train")

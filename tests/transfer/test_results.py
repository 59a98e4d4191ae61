"""A result is one file: what is written is read, and nothing wrong is ever read back."""

import base64
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import answers, ranking, result, row, truth

from pretext.errors import UserError
from pretext.store import seal
from transfer.metrics import AveragePrecision
from transfer.metrics.classification import mean_average_precision
from transfer.results import (
    Result,
    code_digest,
    find_results,
    read_result,
    require_comparable,
    write_result,
)


def without_answers(one: Result) -> dict[str, Any]:
    found = asdict(one)
    for each in found["rows"]:
        del each["outcomes"]
    return found | {"file": ""}


@pytest.fixture
def multilabel() -> Result:
    return result(rows=[row("conv1", ranking(0.5, 0)), row("conv2", ranking(1.0, 1), 0.6)], metric="mAP")


def test_top1_survives(tmp_path: Path) -> None:
    made = result(rows=[row("conv1", answers(0.3, 0, 401)), row("conv2", answers(1.1, 1, 401), None, "k=20")])
    write_result(tmp_path / "new" / "a.json", made)
    back = read_result(tmp_path / "new" / "a.json")
    assert without_answers(back) == without_answers(made) and back == made
    assert back.file == str(tmp_path / "new" / "a.json") and [one.name for one in back.rows] == ["conv1", "conv2, k=20"]
    for was, now in zip(made.rows, back.rows, strict=True):
        assert np.array_equal(was.outcomes[0].correct, now.outcomes[0].correct)  # type: ignore[arg-type]


def test_multilabel_survives(tmp_path: Path, multilabel: Result) -> None:
    write_result(tmp_path / "a.json", multilabel)
    back = read_result(tmp_path / "a.json")
    assert back == multilabel and back.metric == "mAP"
    for was, now in zip(multilabel.rows, back.rows, strict=True):
        assert np.array_equal(was.outcomes[0].truth, now.outcomes[0].truth)  # type: ignore[arg-type]
        assert was.outcomes[0].value == now.outcomes[0].value
        assert np.array_equal(was.outcomes[0].resampled, now.outcomes[0].resampled), "the order is all that counts"


def test_ranks_keep_ties(tmp_path: Path) -> None:
    known = truth()
    rng = np.random.default_rng(0)
    outcome = AveragePrecision((rng.integers(-3, 3, known.shape) / 7 + (known == 1)).astype(np.float32), known)
    write_result(tmp_path / "a.json", result(rows=[row("conv1", outcome)], metric="mAP"))
    scores = read_result(tmp_path / "a.json").rows[0].outcomes[0].scores
    assert scores is not None and outcome.scores is not None
    assert mean_average_precision(scores, known) == outcome.value
    assert np.array_equal(scores[:, None] < scores[None], outcome.scores[:, None] < outcome.scores[None])


def test_samples_survive(tmp_path: Path) -> None:
    samples = [answers(0.3, seed) for seed in range(5)]
    made = result(rows=[row("conv1", samples, 0.4, "4 shots"), row("conv1", samples[:1], 0.5, "8 shots")])
    write_result(tmp_path / "a.json", made)
    back = read_result(tmp_path / "a.json")
    assert len(back.rows[0].outcomes) == 5
    assert back.rows[0].spread == pytest.approx(np.std([one.value for one in samples], ddof=1))
    assert back.rows[0].score.value == pytest.approx(np.mean([one.value for one in samples]))
    assert back.best is None, "rows that were given other images are not chosen among"


def test_the_best_row_is_chosen_on_held_out_images() -> None:
    rows = [row("conv1", answers(0.9, 0), 0.3), row("conv2", answers(0.2, 1), 0.6), row("conv3", answers(0.5, 2), 0.6)]
    assert result(rows=rows).best == "conv2"
    assert result(rows=[row("conv1", answers(0.9, 0), None)]).best is None


def test_the_file_is_readable(tmp_path: Path) -> None:
    write_result(tmp_path / "a.json", result())
    text = (tmp_path / "a.json").read_text()
    found = json.loads(text)
    assert list(found)[:3] == ["format", "network", "protocol"] and list(found)[-2:] == ["objects", "seal"]
    assert found["rows"][2]["score"].keys() == {"value", "low", "high"} and found["best"] == "conv3"
    assert found["cost"]["peak_bytes"] == 10**9 and found["settings"]["rates"] == [0.1, 0.01]
    outcome = found["objects"][found["outcomes"][0][0]]
    data = zlib.decompress(base64.b64decode(found["objects"][outcome["correct"]]["data"]))
    assert np.frombuffer(data, np.bool_).mean() == found["rows"][0]["score"]["value"], "as anybody can read it"


Damage = Callable[[dict[str, Any]], Any]


def change(*path: Any, to: Any) -> Damage:
    def damage(found: dict[str, Any]) -> None:
        inner: Any = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        change("format", to="pretint result 99"),
        change("network", to=None),
        change("network", "seed", to="0"),
        change("network", "seed", to=-1),
        change("network", "name", to=["a"]),
        change("n_test", to=399),
        change("n_fit", to="many"),
        change("n_test", to=True),
        change("n_test", to=10**40),
        change("n_test", to=4.5),
        change("metric", to="F1"),
        change("mode", to="both"),
        change("metric", to="mAP"),
        change("classes", to=[]),
        change("classes", to="abc"),
        change("fraction", to=float("nan")),
        change("fraction", to=None),
        change("view_size", to=0),
        change("rows", to=[]),
        change("rows", 0, "stage", to="conv2"),
        change("rows", 0, "score", "value", to=0.9),
        change("rows", 0, "score", "low", to=0.9),
        change("rows", 0, "score", "low", to="0"),
        change("rows", 0, "holdout", to=0.99),
        change("rows", 0, "chosen", to=[]),
        change("objects", 0, "data", to="not base64!"),
        change("objects", 0, "data", to="AAAA"),
        change("objects", 0, "kind", to="|O8"),
        change("objects", 0, "shape", to=[-400]),
        change("objects", 0, "shape", to=[2**40]),
        change("objects", 1, "class", to="Metric"),
        change("objects", 1, "class", to="AveragePrecision"),
        change("objects", 1, "correct", to=99),
        change("objects", to=[]),
        change("outcomes", 0, to=[]),
        change("outcomes", 0, to=[0]),
        change("outcomes", 0, to=[99]),
        change("outcomes", to=[]),
        change("best", to="conv1"),
        change("skipped", to=[["a"]]),
        change("settings", to=[1]),
        change("versions", to={"torch": 2}),
        lambda found: found.pop("split"),
        lambda found: found["rows"].pop(),
    ],
)
def test_a_hand_made_file_is_refused_in_one_line(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "a.json"
    write_result(path, result())
    found = json.loads(path.read_text())
    del found["seal"]
    damage(found)
    text = json.dumps(found)[:-1].encode()  # seal() refuses NaN
    path.write_bytes(text + f', "seal": "{hashlib.sha256(text).hexdigest()[:16]}"}}'.encode())
    with pytest.raises(UserError, match=r"a\.json: not a result, or damaged") as caught:
        read_result(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def packed(values: Any) -> str:
    return base64.b64encode(zlib.compress(np.asarray(values).tobytes())).decode()


@pytest.mark.parametrize(
    "damage",
    [
        change("objects", 0, "data", to=packed(np.zeros(300 * 3, "<u4"))),  # other ranks than the number says
        change("objects", 0, "data", to=packed(np.zeros(299 * 3, "<u4"))),
        change("objects", 0, "data", to=packed(np.zeros(10**7, "<u4"))),  # a bomb
        change("objects", 0, "data", to="AAAA"),
        change("objects", 1, "data", to=packed(np.full(300 * 3, 2, "<i1"))),
        change("objects", 1, "data", to=packed(np.zeros(300 * 3, "<i1"))),
        change("objects", 2, "truth", to=0),
        change("classes", to=["a", "b"]),
        change("n_test", to=2**60),
    ],
)
def test_nonsense_scores(tmp_path: Path, multilabel: Result, damage: Damage) -> None:
    path = tmp_path / "a.json"
    write_result(path, multilabel)
    found = json.loads(path.read_text())
    del found["seal"]
    damage(found)
    path.write_bytes(seal(found))
    with pytest.raises(UserError, match="or damaged"):
        read_result(path)


def test_no_bit_flip_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_result(path, result())
    content = path.read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(content), 100).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError) as caught:
            read_result(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": "pretint result 2"}',
        b'{"format": "pretint result 3"}',
    ],
)
def test_no_result(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match="not a result, or damaged"):
        read_result(tmp_path / "a.json")


def test_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_result(path, result())
    content = path.read_bytes()
    for share in (0.3, 0.9, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match="or damaged"):
            read_result(path)


def test_found_in_files_runs_and_folders(tmp_path: Path) -> None:
    for seed in range(3):
        run = tmp_path / "runs" / f"color{seed}"
        for one in (result(f"color{seed}", seed), result(f"random{seed}", seed, kind="random")):
            write_result(run / "results" / f"{one.network.name}.json", one)
    (run / "settings.json").write_text("{}")  # a run holds other things too
    file = next((run / "results").glob("*.json"))
    assert len(find_results([file])) == 1
    assert len(find_results([run])) == len(find_results([run / "results"])) == 2
    assert len(find_results([tmp_path / "runs"])) == 6
    assert len(find_results([tmp_path / "runs", run, file])) == 6, "each once"
    with pytest.raises(UserError, match="nowhere: does not exist"):
        find_results([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no results there"):
        find_results([tmp_path])
    with pytest.raises(UserError, match="damaged"):
        find_results([run / "settings.json"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"protocol": "knn"}, "other protocol: knn instead of modern"),
        ({"settings": {"dims": 1}}, "other protocol settings"),
        (
            {"test_digest": "e" * 64, "test": "other"},
            r"other test data: other \(eeeeeeee\) instead of photos/test \(bbbb",
        ),
        ({"train_digest": "e" * 64}, "other training data"),
        ({"n_train": 7}, "other training images: 7 instead of 1000"),
        ({"classes": ("cat", "dog", "bird")}, "other classes"),
        ({"fraction": 0.01}, "other share of the labels"),
        ({"view_ratio": 0.875}, "other part of an image"),
        ({"skipped": (("x.jpg", "empty"),)}, "other unreadable images"),
        ({"rows": [row("conv1", answers(0.5, 0, 401))]}, "other test images: 401 instead of 400"),
        ({"rows": [row("conv1", ranking(1, 0))]}, "other metric: mAP instead of top-1"),
    ],
)
def test_different_evaluations_are_not_compared(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        require_comparable([result("first"), result("second", **changed)])


def test_what_may_differ() -> None:
    same = {"rates": (0.1, 0.01), "dims": 9600}  # as a file says it or as Python does
    require_comparable(
        [result(), result("b", 1, evaluation_seed=3, view_size=64, mode="augmented", settings=same, split="another")]
    )
    require_comparable([])


def test_scores_must_be_finite() -> None:
    known = truth()
    with pytest.raises(AssertionError):
        AveragePrecision(np.full(known.shape, np.nan, dtype=np.float32), known)


def test_the_code_has_a_digest() -> None:
    assert len(code_digest()) == 64 and set(code_digest()) <= set("0123456789abcdef")

"""Evaluations as a whole: read back, killed, stopped, at once, out of room, and given what no one should give."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import QUICK, Interrupt, read_numbers, start_evaluation, write_class_images
from tiers import one_fast
from waits import wait_until

import pretint.cli
import transfer.evaluation
import transfer.probes.knn
import transfer.probes.svm
from pretext.engine.signals import ENDINGS
from pretext.errors import UserError
from transfer.probes.heads import Heads
from transfer.probes.knn import KnnSettings, knn
from transfer.probes.linear import ProbeSettings, probe
from transfer.probes.svm import SvmSettings, svm
from transfer.protocols import PROTOCOLS, SvmProtocol
from transfer.results import Result


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller protocols, for the processes that are started too."""
    monkeypatch.setitem(PROTOCOLS, "modern", QUICK)
    machines = PROTOCOLS["voc07_svm"]
    assert isinstance(machines, SvmProtocol)
    monkeypatch.setitem(PROTOCOLS, "voc07_svm", replace(machines, costs=(0.01, 0.1, 1.0)))
    fewer = {"costs": (0.1, 1.0), "shots": (1, 4), "samples": 2}
    monkeypatch.setitem(PROTOCOLS, "voc07_svm_lowshot", replace(machines, **fewer))  # type: ignore[arg-type]


Judge = Callable[..., list[Result]]

PARTS = ".*.partial/*.pt"
"""What an unfinished evaluation saves, in the folder of results."""


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy: even a call that is refused may leave a lock beside the results."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def judge(run: Path, sets: Path, tmp_path: Path) -> Judge:
    """Judges a copy of the run, with a cache of its own."""

    def call(job: Any = probe, kind: type = ProbeSettings, place: Path = tmp_path, **changed: Any) -> list[Result]:
        common = {
            "train": str(sets / "train"),
            "test": str(sets / "test"),
            "workers": 0,
            "cache": str(place / "cache"),
            "stages": ["conv1", "conv3"],
            "reference": False,
            "precision": "fp32",
        }
        found: list[Result] = job([str(place / "run")], kind(**{**common, **changed}))
        return found

    return call


@pytest.fixture
def uninterrupted(judge: Judge, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """The same elsewhere, from the first image to the result in one go."""

    def call(*given: Any, **changed: Any) -> list[Result]:
        place = tmp_path_factory.mktemp("whole")
        shutil.copytree(tiny_run, place / "run")
        return judge(*given, place=place, **changed)

    return call


def count_of(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """How often a function is called from now on."""
    real, count = getattr(owner, name), [0]

    def counted(*given: Any, **named: Any) -> Any:
        count[0] += 1
        return real(*given, **named)

    monkeypatch.setattr(owner, name, counted)
    return count


def test_a_second_call_reads_back_and_what_was_made_otherwise_is_made_anew(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = judge()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    (second,) = judge()
    assert second == first and Path(first.file).parent == tmp_path / "run" / "results"
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    steps = count_of(monkeypatch, Heads, "step")
    for changed in ({"seed": 1}, {"fraction": 0.5}, {"size": 20}, {"stages": ["conv1"]}, {"storage": "float32"}):
        steps[0] = 0
        assert judge(**changed)[0] != first and steps[0]
    judge()
    monkeypatch.setattr(transfer.evaluation, "code_digest", lambda: "f" * 64)
    steps[0] = 0
    (other,) = judge()
    assert steps[0] and other.code == "f" * 64 and other.rows == first.rows
    monkeypatch.setitem(PROTOCOLS, "modern", replace(QUICK, epochs=2))
    steps[0] = 0
    judge()
    assert steps[0]


def test_other_training_images_do_not_take_the_place_of_a_result(judge: Judge, tmp_path: Path) -> None:
    judge()
    judge(train=str(write_class_images(tmp_path / "others", 7, (20, 20, 20))))
    assert len(list((tmp_path / "run" / "results").glob("*.json"))) == 2


KILLED: dict[str, tuple[dict[str, Any], Interrupt]] = {
    "cached heads": ({}, Interrupt(transfer.evaluation.Partial, "offer", 21)),
    "augmented heads": ({"mode": "augmented"}, Interrupt(transfer.evaluation.Partial, "offer", 11)),
    "logistic": ({"protocol": "logistic"}, Interrupt(transfer.evaluation.Partial, "offer", 1)),
    "SVMs": ({"job": svm, "kind": SvmSettings}, Interrupt(transfer.evaluation.Partial, "offer", 17)),
    "few shots": (
        {"job": svm, "kind": SvmSettings, "protocol": "voc07_svm_lowshot"},
        Interrupt(transfer.evaluation.Partial, "offer", 9),
    ),
}


@pytest.mark.parametrize("moment", one_fast("cached heads", KILLED))
def test_goes_on_after_a_kill_to_the_same_bits(
    moment: str, judge: Judge, uninterrupted: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, blow = KILLED[moment]
    killed = start_evaluation(lambda: judge(**changed) and 0, tmp_path / "log", blow)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not list((tmp_path / "run").glob("results/*.json"))
    offers = count_of(monkeypatch, transfer.evaluation.Partial, "offer")
    (again,) = judge(**changed)
    left, offers[0] = offers[0], 0
    (whole,) = uninterrupted(**changed)
    assert read_numbers(again.file) == read_numbers(whole.file)
    assert left == offers[0] - blow.calls, "all that was offered was saved"
    assert not list((tmp_path / "run" / "results").glob(PARTS))


def test_partial_classifiers_that_are_damaged_or_of_another_evaluation_are_not_used(
    judge: Judge, uninterrupted: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = start_evaluation(lambda: judge(seed=1) and 0, tmp_path / "log", KILLED["cached heads"][1])
    killed.join()
    (left,) = (tmp_path / "run" / "results").glob(PARTS)
    shutil.copytree(left.parent, left.parent.with_name(left.parent.name.replace("seed1", "seed0")))
    assert read_numbers(judge()[0].file) == read_numbers(uninterrupted()[0].file)
    assert "these classifiers were made from other inputs (" in capsys.readouterr().err
    with left.open("r+b") as file:
        file.seek(left.stat().st_size // 2)
        flipped = bytes([file.read(1)[0] ^ 1])
        file.seek(-1, 1)
        file.write(flipped)
    assert read_numbers(judge(seed=1)[0].file) == read_numbers(uninterrupted(seed=1)[0].file)
    assert "1 file of these classifiers is damaged" in capsys.readouterr().err


def test_two_processes_at_once_make_one_result(judge: Judge, uninterrupted: Judge, tmp_path: Path) -> None:
    logs = [tmp_path / "log 1", tmp_path / "log 2"]
    both = [start_evaluation(lambda: judge() and 0, log) for log in logs]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert sum("run, cached" in log.read_text() for log in logs) == 1
    (file,) = (tmp_path / "run" / "results").glob("*.json")
    assert read_numbers(file) == read_numbers(uninterrupted()[0].file)


@pytest.mark.parametrize("number", one_fast(signal.SIGUSR2, [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2]))
@pytest.mark.parametrize("where", one_fast("heads", ["extraction", "heads"]))
def test_stops_when_asked_to(
    where: str, number: signal.Signals, judge: Judge, uninterrupted: Judge, sets: Path, tmp_path: Path
) -> None:
    owner, name = (
        (transfer.features.cache.Entry, "append") if where == "extraction" else (transfer.evaluation.Partial, "offer")
    )
    words = ["probe", str(tmp_path / "run"), "--train", str(sets / "train"), "--test", str(sets / "test")]
    words += [
        "--stages",
        "[conv1, conv3]",
        "--reference",
        "false",
        "--workers",
        "0",
        "--cache",
        str(tmp_path / "cache"),
    ]
    words += ["--precision", "fp32"]
    log = tmp_path / "log"
    process = start_evaluation(
        lambda: pretint.cli.main(words), log, Interrupt(owner, name, 2, number), saved_every=3600
    )
    process.join()
    said = log.read_text()
    assert "Traceback" not in said
    assert process.exitcode == ENDINGS[number], said
    assert "run the same command again to resume" in said
    assert not list((tmp_path / "run").glob("results/*.json"))
    if where == "heads":
        assert list((tmp_path / "run" / "results").glob(PARTS)), "saved at once, however short the time since"
    assert read_numbers(judge()[0].file) == read_numbers(uninterrupted()[0].file)


STOPPED: dict[str, tuple[Any, type, dict[str, Any], Interrupt]] = {
    "neighbors": (knn, KnnSettings, {}, Interrupt(transfer.probes.knn, "progress", 1, signal.SIGUSR2)),
    "SVMs": (svm, SvmSettings, {}, Interrupt(transfer.evaluation.Partial, "offer", 3, signal.SIGTERM)),
    "few shots": (
        svm,
        SvmSettings,
        {"protocol": "voc07_svm_lowshot"},
        Interrupt(transfer.evaluation.Partial, "offer", 3, signal.SIGUSR2),
    ),
}


@pytest.mark.parametrize("name", one_fast("neighbors", STOPPED))
def test_other_classifiers_stop_too(name: str, judge: Judge, uninterrupted: Judge, tmp_path: Path) -> None:
    job, kind, changed, blow = STOPPED[name]
    log = tmp_path / "log"
    process = start_evaluation(lambda: judge(job, kind, **changed) and 0, log, blow, saved_every=3600)
    process.join()
    assert process.exitcode == ENDINGS[blow.number], log.read_text()
    assert read_numbers(judge(job, kind, **changed)[0].file) == read_numbers(
        uninterrupted(job, kind, **changed)[0].file
    )


def test_stops_while_it_waits_for_another_process(judge: Judge, uninterrupted: Judge, tmp_path: Path) -> None:
    (first,) = judge()
    file = Path(first.file)
    file.unlink()
    log = tmp_path / "log"
    log.touch()
    with file.with_name(f".{file.stem}.partial").joinpath(".lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        process = start_evaluation(lambda: judge() and 0, log)
        wait_until(
            lambda: "waiting for it" in log.read_text() or not process.is_alive(),
            "it waits for the other process",
            describe=log.read_text,
        )
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join()
    assert process.exitcode == ENDINGS[signal.SIGTERM], log.read_text()
    assert read_numbers(judge()[0].file) == read_numbers(uninterrupted()[0].file)


@pytest.mark.parametrize(
    ("largest", "saved_every", "what"),
    one_fast((20_000, 0, "features"), [(20_000, 0, "features"), (0, 0, ""), (2_000, 60, "")]),
)
def test_a_disk_that_fills_up(
    largest: int, saved_every: float, what: str, judge: Judge, uninterrupted: Judge, tmp_path: Path
) -> None:
    if not what:  # features are there; what is saved meanwhile does not fit, or the result itself
        judge()
        (file,) = (tmp_path / "run" / "results").glob("*.json")
        file.unlink()
        largest = largest or 10_000
    process = start_evaluation(lambda: judge() and 0, tmp_path / "log", largest=largest, saved_every=saved_every)
    process.join()
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert process.exitcode == 2 and last.startswith("UserError") and "File too large" in last and what in last
    assert read_numbers(judge()[0].file) == read_numbers(uninterrupted()[0].file)


def test_features_that_are_damaged_or_of_other_weights_are_not_used(
    judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = ({one.network.kind: read_numbers(one.file) for one in judge(reference=True)} for _ in range(2))
    assert first == second

    def again() -> str:
        for file in (tmp_path / "run" / "results").glob("*.json"):
            file.unlink()
        capsys.readouterr()
        assert {one.network.kind: read_numbers(one.file) for one in judge(reference=True)} == first
        return capsys.readouterr().err

    assert "making them again" not in again()
    for file in (tmp_path / "cache").glob("*/*.conv3.*"):
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size // 2)
    assert "damaged" in again()
    entries = sorted((tmp_path / "cache").iterdir())
    for one, other in zip(entries[::2], entries[1::2], strict=True):
        one.rename(tmp_path / "one")
        other.rename(one)
        (tmp_path / "one").rename(other)
    assert "were made from other inputs" in again()
    columns = sorted((tmp_path / "cache").glob("*/*.conv1.*"))
    for one, other in zip(columns[::2], columns[1::2], strict=True):
        kept = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(kept)
    assert "damaged" in again()


def test_images_that_cannot_be_read_are_named_until_they_can(
    judge: Judge, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "test"):
        shutil.copytree(sets / part, tmp_path / part)
        (tmp_path / part / "class1" / "7.png").write_bytes(b"torn")
    there = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    for changed in ({}, {"mode": "augmented"}, {"job": knn, "kind": KnnSettings}, {"protocol": "logistic"}):
        (result,) = judge(**there, **changed)
        assert len(result.skipped) == 2
        assert (result.n_test, result.n_fit + result.n_holdout, result.n_train) == (119, 119, 120)
        assert all(len(outcome.correct) == 119 for row in result.rows for outcome in row.outcomes)  # type: ignore[arg-type]
    steps = count_of(monkeypatch, Heads, "step")
    judge(**there)
    assert not steps[0]
    for part in ("train", "test"):
        shutil.copy(sets / part / "class1" / "7.png", tmp_path / part / "class1" / "7.png")
    (repaired,) = judge(**there)
    assert steps[0] and not repaired.skipped and repaired.n_test == 120


@pytest.mark.parametrize(("fraction", "used"), [(0.01, 0), (0.1, 12), (0.5, 60)])
def test_a_fraction_of_the_labels(fraction: float, used: int, judge: Judge) -> None:
    if not used:
        with pytest.raises(UserError, match="use a larger fraction of the labels"):
            judge(fraction=fraction)
        (result,) = judge(knn, KnnSettings, fraction=0.1)
        assert result.n_fit == 12 and {row.variant for row in result.rows} == {"k=10", "k=12"}
        return
    (result,) = judge(fraction=fraction)
    assert result.n_fit + result.n_holdout == used and result.n_train == 120
    assert result.split.startswith(f"{100 * fraction:g}% of labels")


def test_two_runs_of_one_seed_have_a_reference_each(tiny_run: Path, sets: Path, tmp_path: Path) -> None:
    for name in ("tiny", "other"):  # the first is also the name of a backbone
        shutil.copytree(tiny_run, tmp_path / name)
    settings = KnnSettings(str(sets / "train"), str(sets / "test"), workers=0, cache=str(tmp_path / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        results = knn(["tiny", "other"], settings)
    assert [result.network.name for result in results] == ["random", "random", "tiny", "other"]
    for name in ("tiny", "other"):
        assert len(list((tmp_path / name / "results").glob("*.json"))) == 2
    assert results[0].rows == results[1].rows


def lines(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[str]:
    """What a command that must fail says on standard error, progress apart."""
    capsys.readouterr()
    assert pretint.cli.main([str(word) for word in words]) == 2
    return [line for line in capsys.readouterr().err.splitlines() if not line.startswith("features: ")]


@pytest.fixture
def bad(sets: Path, tmp_path: Path) -> Iterator[Path]:
    """Sets that no one should give."""
    write_class_images(tmp_path / "one" / "train", 3, (4,))
    write_class_images(tmp_path / "one" / "test", 4, (4,))
    write_class_images(tmp_path / "two", 5, (4, 4))
    write_class_images(tmp_path / "few", 6, (40, 2, 40))
    shutil.copytree(sets / "test", tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty" / "class1")
    (tmp_path / "empty" / "class1").mkdir()
    yield tmp_path


BAD: dict[str, tuple[str, str]] = {
    "one class": ("probe RUN --train BAD/one/train --test BAD/one/test", "one class only"),
    "different classes": ("probe RUN --train TRAIN --test BAD/two", "class2"),
    "empty class": ("probe RUN --train TRAIN --test BAD/empty", "class1"),
    "the same": ("probe RUN --train TRAIN --test TRAIN", "same images"),
    "nowhere": ("probe RUN --train BAD/nowhere --test TEST", "nowhere"),
    "too few for folds": ("svm RUN --train BAD/few --test TEST --stages [conv1]", "2 training images with class1"),
    "stage": ("probe RUN --train TRAIN --test TEST --stages [conv9]", "conv9"),
    "stage of another": ("probe RUN random:resnet18 --train TRAIN --test TEST --stages [conv3]", "has no conv3"),
    "protocol": ("probe RUN --train TRAIN --test TEST --protocol moderne", "did you mean modern?"),
    "another protocol": (
        "probe RUN --train TRAIN --test TEST --protocol voc07_svm",
        "this command has no such protocol",
    ),
    "network": ("probe BAD/nothing --train TRAIN --test TEST", "no such network"),
    "mode": ("probe RUN --train TRAIN --test TEST --mode both --protocol logistic", "use mode cached"),
    "no such mode": ("probe RUN --train TRAIN --test TEST --mode fresh", "fresh"),
    "fraction 0": ("probe RUN --fraction 0", "fraction is 0.0: it must lie in (0, 1]"),
    "fraction nan": ("probe RUN --fraction nan", "fraction"),
    "no labels to speak of": ("probe RUN --train TRAIN --test TEST --fraction 1e-9", "larger fraction"),
    "classes of one label": ("probe RUN --train TRAIN --test TEST --classes [class1]", "one class each"),
    "no home": ("probe RUN --train TRAIN --test TEST --cache ~nobody-at-all/x", "name another folder"),
    "workers": ("probe RUN --workers -2", "workers"),
    "cache is a file": ("knn RUN --train TRAIN --test TEST --cache TRAIN/class0/0.png", "another cache folder"),
    "out is a file": (
        "knn random:tiny --train TRAIN --test TEST --stages [conv1] --out TRAIN/class0/0.png",
        "cannot write there",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, bad: Path, run: Path, sets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("PRETINT_CACHE", str(bad / "cache"))
    command, said = BAD[case]
    places = {"RUN": run, "TRAIN": sets / "train", "TEST": sets / "test", "BAD": bad}
    words = [
        "/".join(str(places.get(part, part)) for part in word.split("/")) if word.split("/")[0] in places else word
        for word in command.split()
    ]
    (line,) = lines(capsys, *words, "--device", "cpu")
    assert line.startswith("pretint: ") and said in line


def test_a_result_that_is_damaged_is_made_again(judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    (result,) = judge()
    file = Path(result.file)
    whole = read_numbers(file)
    file.write_bytes(file.read_bytes()[:-200])
    judge()
    assert read_numbers(file) == whole
    assert "or damaged" in capsys.readouterr().err


def test_weights_that_are_no_numbers(tiny_run: Path, sets: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").glob("*.pt"):
        state = torch.load(file, weights_only=True)
        for group in ("model", "average"):
            for name, value in state.get(group, {}).items():
                if name.startswith("backbone.") and value.is_floating_point():
                    value.fill_(torch.nan)
        torch.save(state, file)
    with pytest.raises(UserError, match="not finite"):
        probe(
            [str(tmp_path / "run")],
            ProbeSettings(str(sets / "train"), str(sets / "test"), workers=0, cache=str(tmp_path / "cache")),
        )


def test_a_classifier_that_diverges_is_said(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    wild = replace(QUICK, rates=(1e30,), weight_decays=(1e30,), poolings=("mean",), rungs=())
    monkeypatch.setitem(PROTOCOLS, "modern", wild)
    with pytest.raises(UserError, match="conv1: its classifier has diverged"):
        judge()


def test_unreadable_images_alone(sets: Path, run: Path, tmp_path: Path) -> None:
    for one in range(3):
        (tmp_path / "test" / f"class{one}").mkdir(parents=True)
        (tmp_path / "test" / f"class{one}" / "0.png").write_bytes(b"torn")
    with pytest.raises(UserError, match="none of 3 images can be read"):
        knn([str(run)], KnnSettings(str(sets / "train"), str(tmp_path / "test"), workers=0, cache=str(tmp_path)))


def test_results_go_where_they_are_asked_to(judge: Judge, tmp_path: Path) -> None:
    (asked,) = judge(knn, KnnSettings, out=str(tmp_path / "there"))
    assert Path(asked.file).parent == tmp_path / "there"
    assert not list((tmp_path / "run" / "results").glob("*.json"))
    (own,) = judge(knn, KnnSettings)
    assert Path(own.file).parent == tmp_path / "run" / "results"
    assert own.rows == asked.rows

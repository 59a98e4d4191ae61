"""All results as one table: a row for each number, whatever kind of job it is of."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_results import ranking, result, row, written

import pretint
from pretext.errors import UserError
from pretext.store import to_line
from pretint.colorization.scores.table import METRICS, ScoreRow, Scores, read_scores
from transfer.bootstrap import Estimate, estimate_mean
from transfer.long_table import COLUMNS, long_table
from transfer.results import write_result
from transfer.table import tables

NAN = float("nan")


def colored(file: Path) -> Scores:
    lines = (
        ScoreRow("mine", "a network", {"weights": "abc"}, {"psnr": Estimate(24.5, 24, 25)}, {}, {"psnr": 0.5}),
        ScoreRow("truth", "itself", {}, {"psnr": Estimate(float("inf"), NAN, NAN)}, {"psnr": Estimate(0.1, 0, 0.2)}),
    )
    facts = {"images": "photos", "digest": "d", "size": 64, "seed": 3, "n": 10, "n_gray": 1, "versions": {"x": "1"}}
    metrics = tuple(metric for metric in METRICS if metric.key == "psnr")
    return Scores(lines, metrics, "mine", facts, ("n is 10",), ("no FID",), (("a.jpg", "empty"),), file)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in range(2):
        run = tmp_path / "runs" / f"color{seed}"
        write_result(run / "results" / "probe.json", result(f"color{seed}", seed))
        tuned = result(f"color{seed}", seed, [row("all", ranking(1.0, seed), None)], mode="fine-tuned")
        write_result(run / "results" / "tuned.json", tuned)
    (run / "scores").mkdir()
    colored(run / "scores" / "photos.json").write()
    settings = {"seed": 1, "online": {"source": "bundled", "images": 20}}
    (run / "settings.yaml").write_text(yaml.safe_dump(settings))
    records = [
        {"kind": "step", "step": 5, "loss": 1.0},
        {"kind": "online", "step": 5, "chance": 0.1, "accuracy_conv1": 0.25, "accuracy_conv2": None},
    ]
    (run / "journal.jsonl").write_bytes(b"".join(map(to_line, records)))
    (run / "other.json").write_text("{}")
    return tmp_path / "runs"


def test_every_kind_of_number_is_a_row(runs: Path) -> None:
    found = pretint.results(runs)
    assert list(found.columns[: len(COLUMNS)]) == list(COLUMNS) and {"about", "n_gray"} <= set(found.columns)
    assert found.protocol.value_counts().to_dict() == {"modern": 8, "score": 2, "online": 2}
    assert found.metric.value_counts().to_dict() == {"top-1": 8, "mAP": 2, "psnr": 2}
    line = found[(found.network == "color1") & (found.stage == "conv2") & (found["mode"] == "cached")].iloc[0]
    made = result("color1", 1)
    assert (line.value, line.low, line.high) == made.rows[1].score and line.seconds == made.cost.seconds
    assert (line.seeds, line.n, line.best, line.weights) == ("1", 400, False, made.network.weights)
    score = found[(found.protocol == "score") & (found.network == "mine")].iloc[0]
    assert (score.value, score.sd_over_seeds, score.test, score.view_size, score.weights) == (24.5, 0.5, "photos", 64, "abc")  # fmt: skip  # noqa: E501
    truth = found[found.network == "truth"].iloc[0]
    assert np.isinf(truth.value) and np.isnan(truth.low) and (truth.against, truth.difference) == ("mine", 0.1)
    online = found[found.protocol == "online"]
    assert online.stage.tolist() == ["conv1", "conv2"] and online.step.tolist() == [5, 5]
    assert online.value.iloc[0] == 0.25 and np.isnan(online.value.iloc[1])


def test_the_example_of_the_docs_runs(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[1] / "docs/evaluation.md").read_text()
    (example,) = [part.split("```")[0] for part in text.split("```python\n")[1:] if "pretint.results" in part]
    monkeypatch.chdir(runs.parent)
    exec(example, {})
    printed = capsys.readouterr().out
    assert "conv3" in printed and "0;1" in printed


def test_seeds_are_joined_if_asked_for(runs: Path) -> None:
    found = pretint.results(runs / "*" / "results", joint=True)
    assert len(found) == 4 and set(found.seeds) == {"0;1"} and set(found.network) == {"color"}
    correct = [result(f"color{seed}", seed).rows[0].outcomes[0].correct for seed in range(2)]  # type: ignore[attr-defined]
    wanted = estimate_mean(np.mean(correct, axis=0))
    assert found[["value", "low", "high"]].iloc[0].tolist() == list(wanted)


def test_patterns_and_damaged_files(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(pretint.results(f"{runs}/**")) == len(pretint.results(runs, runs)) == 12
    file = runs / "color0" / "results" / "probe.json"
    file.write_text(file.read_text().replace("0.4", "0.5", 1))
    assert len(pretint.results(runs)) == 9
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: not a result, or damaged") and line.endswith("; left out")
    with pytest.raises(UserError, match="does not exist"):
        pretint.results(runs / "nowhere")
    with pytest.raises(UserError, match="no results there"):
        pretint.results(runs / "color1" / "other.json")


def test_the_csv_is_the_table() -> None:
    made = [result(f"color{seed}", seed) for seed in range(2)]
    header, *lines = written(tables(made), "csv").splitlines()
    assert header.split(",") == list(COLUMNS) and len(lines) == 3
    assert long_table(made, joint=True).value.tolist() == [float(line.split(",")[17]) for line in lines]
    assert len(long_table(made)) == 6


def test_scores_survive(tmp_path: Path) -> None:
    made = colored(tmp_path / "a.json")
    made.write()
    back = read_scores(tmp_path / "a.json")
    assert back.to_plain() == {**made.to_plain(), "skipped": (("a.jpg", "empty"),)}
    assert written(back, "csv") == written(made, "csv") and written(back, "latex") == written(made, "latex")
    content = (tmp_path / "a.json").read_bytes()
    for at in range(0, len(content), 50):
        (tmp_path / "a.json").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(UserError, match=r"not scores, or damaged|Pretint 0"):
            read_scores(tmp_path / "a.json")

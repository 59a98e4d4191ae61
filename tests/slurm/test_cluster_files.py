"""The examples of cluster files are what submit understands."""

from pathlib import Path

import pytest
import yaml

from pretext.settings import settings_file
from slurm import ClusterError, ClusterSettings
from slurm.job_list import split_words
from slurm.runner import count_fruitless, meeting_port

EXAMPLES = sorted((Path(__file__).parents[2] / "configs" / "slurm").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    asked = settings_file(ClusterSettings, path)
    given = yaml.safe_load(path.read_text())
    assert {key: getattr(asked, key) for key in given} == given


def test_one_task_takes_its_share() -> None:
    asked = ClusterSettings(nodes=2, tasks_per_node=8, gpus_per_node=8, memory_gb=480, cpus_per_task=12)
    one = asked.of_one_task
    assert (one.nodes, one.tasks_per_node, one.gpus_per_node, one.memory_gb, one.cpus_per_task) == (1, 1, 1, 60, 12)
    assert asked.gpu_hours == 2 * 8 * 24


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"minutes": 0}, "minutes is 0"),
        ({"memory_gb": float("nan")}, "memory_gb is nan"),
        ({"gpus_per_node": -1}, "gpus_per_node is -1"),
        ({"executor": "local", "nodes": 2}, "uses only this machine"),
        ({"executor": "debug", "tasks_per_node": 2}, "executor debug"),
        ({"options": {"--time": 5}}, "options: time is not allowed here"),
    ],
)
def test_what_makes_no_sense(values: dict[str, object], said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        ClusterSettings(**values)  # type: ignore[arg-type]


def test_options_of_submit_end_where_the_command_begins() -> None:
    words = ["--on", "pretrain", "--dry_run", "--minutes=5", "pretrain", "runs/x", "--seed", "1"]
    assert split_words(words, {"pretrain"}, {"dry_run"}) == (words[:4], words[4:])
    with pytest.raises(ClusterError, match="pretrian: no command"):
        split_words(["pretrian", "runs/x"], {"pretrain"}, ())


def test_restarts_that_made_no_step() -> None:
    def starts(*found: object) -> list[dict[str, object]]:
        return [{"kind": "start", "found": one} for one in found]

    a, b = {"done": 0}, {"done": 7}
    waited = [{"kind": "start", "found": a, "restart": n} for n in (1, 2)] + [
        {"kind": "waited", "restart": n} for n in (1, 2)
    ]
    assert count_fruitless([{"kind": "start", "found": None, "restart": 0}, *waited], a) == 0, "they only waited"
    assert count_fruitless([], None) == 0, "the first start"
    assert count_fruitless(starts(None), a) == 0, "the first may have done something"
    assert count_fruitless(starts(None, a), a) == 1
    assert count_fruitless(starts(None, a, a), a) == 2
    assert count_fruitless(starts(None, a, a), b) == 0, "it went on"
    assert count_fruitless(starts(None, a, None), None) == 2, "one that did not come so far has done nothing"


def test_processes_meet_where_no_outgoing_connection_sits() -> None:
    ports = {meeting_port(str(job), restart) for job in range(1000) for restart in range(3)}
    assert min(ports) >= 10_000 and max(ports) < 32_768 and len(ports) > 2_500
    assert meeting_port("56117172", 1) == meeting_port("56117172", 1) != meeting_port("56117172", 2)

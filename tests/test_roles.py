"""Every setting of a job that leaves something has a role, and a new setting with a default changes no identity."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pretext import roles
from pretext.data.pack import PackSettings
from pretext.errors import UserError
from pretext.recipe import PretrainSettings
from pretext.settings import settings_file
from pretint.colorization import ColorizeSettings, ScoreSettings
from pretint.study.identity import key_of
from transfer.probes.knn import KnnSettings
from transfer.probes.linear import ProbeSettings
from transfer.probes.svm import SvmSettings
from transfer.tasks.registry import TASKS

CONFIGS = Path(__file__).parents[1] / "configs"
KINDS: list[type[Any]] = [
    PretrainSettings, ProbeSettings, KnnSettings, SvmSettings, ScoreSettings, ColorizeSettings, PackSettings,
    *(task.settings for task in TASKS.values()),
]  # fmt: skip
IDENTITIES = {
    "pretext/convnext_tiny": "8ca29c0403f6",
    "pretext/demo": "98453a715e09",
    "pretext/laptop": "7674a781fc38",
    "pretext/laptop_autoencoder": "dc02dbd4e065",
    "pretext/laptop_fusion": "b22371507036",
    "pretext/laptop_hints": "5db92183645d",
    "pretext/laptop_l2": "d2a1e7787ac9",
    "pretext/laptop_wide": "4ea06a1e88c6",
    "pretext/modern": "d3e771aca714",
    "pretext/paper_alexnet": "f5e84a28fd46",
    "pretext/paper_fusion": "ac2c68f90407",
    "pretext/paper_siggraph17": "5530257b86a6",
    "pretext/paper_vgg": "aaee445dce79",
    "pretext/resnet50": "a5c5b6210d94",
    "pretext/vgg16_imagenet": "eb5752b760c1",
    "pretext/vit_small": "b5cc54a2531f",
    "transfer/laptop_classify": "0bb639aa510d",
    "transfer/laptop_detect": "a5ad8cd522f5",
    "transfer/laptop_segment": "ceb6f2418a4c",
    "transfer/modern_classify": "11727106bbff",
    "transfer/modern_detect": "430b2ef065ac",
    "transfer/modern_segment": "c2d588c72891",
    "transfer/paper_classify": "d16fbbe9fe21",
    "transfer/paper_detect": "44dbd9c0ebcc",
    "transfer/paper_segment": "17df0c2280f5",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_a_role(kind: type[Any]) -> None:
    by_role = {role: roles.names(kind, role) for role in roles.ROLES}
    assert roles.names(kind, *roles.ROLES) and by_role["science"] and by_role["machine"]


@dataclass
class Ranges:
    share: float = roles.science(0.5, "(0, 1]")
    sides: list[int] = roles.science(lambda: [1, 4], "[1, 4096]")
    seed: int = roles.seed()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, ""),
        ({"share": 1, "sides": [1, 4096], "seed": 2**63 - 1}, ""),
        ({"share": 0}, r"x\.share is 0: it must lie in \(0, 1\]"),
        ({"share": float("nan")}, "share is nan"),
        ({"sides": [1, 4097]}, r"sides is \[1, 4097\]"),
        ({"seed": 2**63}, r"seed is 9223372036854775808: it must lie in \[0, 2\^63\)"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_setting_lies_in_its_interval(changed: dict[str, Any], message: str) -> None:
    if not message:
        roles.check_ranges(Ranges(**changed))
        return
    with pytest.raises(UserError, match=message):
        roles.check_ranges(Ranges(**changed), "x.")


def test_roles_of_a_pretraining() -> None:
    assert roles.names(PretrainSettings, "machine", "content") == ["data.source", "machine", "online"]
    assert roles.names(PretrainSettings, "seed") == ["seed"]
    chosen = roles.select(PretrainSettings(seed=3), "seed", "content")
    assert chosen == {"data": {"source": ""}, "seed": 3}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_new_setting_changes_no_identity(name: str) -> None:
    kind, _, recipe = name.partition("/")
    settings = TASKS[recipe.split("_")[1]].settings if kind == "transfer" else PretrainSettings
    changed = roles.changed(settings_file(settings, CONFIGS / f"{name}.yaml"), "science")
    assert key_of(changed) == IDENTITIES[name]

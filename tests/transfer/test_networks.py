"""What is judged: every form of its name, its identity, and names that mean nothing."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from pretext.backbones import build_backbone
from pretext.color import rgb_to_lightness
from pretext.engine.run import lock_run, newest_checkpoint, write_checkpoint
from pretext.errors import UserError
from pretext.gamut import bin_centers
from pretext.pretrained import color_contract
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import settings_from, to_plain
from pretext.weights.exporter import ExportSettings, export
from transfer.networks import open_network

IMAGES = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make_run(folder: Path, seed: int = 0, step: int = 7, name: str = "tiny", trained: int = 5) -> Path:
    """A run whose weights are those of another seed, as if trained."""
    settings = settings_from(PretrainSettings, {"seed": seed, "backbone": {"name": name}}, "test")
    prior = torch.full((len(bin_centers()),), 1 / len(bin_centers()), dtype=torch.float64)
    other = settings_from(PretrainSettings, {"seed": trained, "backbone": {"name": name}}, "test")
    state = {"step": step, "settings": to_plain(settings), "color": color_contract(settings, prior)}
    with lock_run(folder, to_plain(settings)):
        write_checkpoint(folder, {**state, "model": build_colorizer(other, prior).state_dict()})
    return folder


def one_line(spec: str) -> str:
    with pytest.raises(UserError) as error:
        open_network(spec)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", seed=3)
    network = open_network(str(run))
    assert (network.name, network.kind, network.seed, network.step) == ("mine", "pretrained", 3, 7)
    assert (network.backbone, network.run, network.calibrated) == ("tiny", run, False)
    assert network.view_size == PretrainSettings().view_size == network.fit_size(network.view_size)
    assert not network.module.training and not any(weight.requires_grad for weight in network.module.parameters())
    torch.manual_seed(5)
    expected = build_backbone("tiny").eval()(rgb_to_lightness(IMAGES))
    found = network.module(IMAGES)
    assert list(found) == [stage.name for stage in network.stages] == list(expected)
    for stage, maps in expected.items():
        torch.testing.assert_close(found[stage], maps, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_and_an_exported_file_are_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    export(run, tmp_path / "out.safetensors", ExportSettings(part="backbone"))
    whole, part, away = (open_network(str(path)) for path in (run, checkpoint, tmp_path / "out.safetensors"))
    assert whole.weights == part.weights == away.weights
    assert whole.group == part.group == away.group
    assert [network.name for network in (whole, part, away)] == ["mine", "mine@7", "out"]
    assert [network.run for network in (whole, part, away)] == [run, run, None]


def test_the_random_network_of_a_run_is_its_beginning(tmp_path: Path) -> None:
    network = open_network(f"random:{make_run(tmp_path / 'mine', seed=3)}", seed=9)
    assert (network.name, network.kind, network.seed, network.step) == ("random", "random", 3, 0)
    assert network.calibrated and network.run == tmp_path / "mine"
    settings = PretrainSettings(seed=3)
    beginning = build_colorizer(settings, torch.ones(len(bin_centers()), dtype=torch.float64)).backbone.state_dict()
    for name, value in network.module.state_dict().items():
        assert torch.equal(value, beginning[name.removeprefix("backbone.")])
    assert open_network("random:tiny", seed=3).weights == network.weights


def test_the_random_network_of_a_recipe(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", seed=3)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 3\n")
    mine, theirs = open_network(f"random:{recipe}", seed=9), open_network(f"random:{run}")
    assert (mine.weights, mine.group, mine.seed, mine.view_size) == (theirs.weights, theirs.group, 3, theirs.view_size)
    assert mine.run is None and mine.name == "random"
    recipe.write_text("sed: 3\n")
    with pytest.raises(UserError, match="the nearest is seed"):
        open_network(f"random:{recipe}")


def test_random_backbones_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one, same, other = (open_network("random:test_resnet", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)  # nobody else's random numbers are touched
    assert one.weights == same.weights != other.weights
    assert one.group == other.group
    assert (one.name, one.seed, one.run, one.view_size) == ("random:test_resnet", 1, None, 160)


def test_what_is_made_for_one_size_is_seen_at_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    for spec in ("timm:test_resnet:random", "random:test_resnet"):
        assert open_network(spec).size_at(0.5) == 160
    for spec in (str(run), f"random:{run}", "random:tiny"):
        assert open_network(spec).size_at(0.5) == round(PretrainSettings().view_size / 2)


def test_groups_join_seeds_and_nothing_else(tmp_path: Path) -> None:
    first = open_network(str(make_run(tmp_path / "a", seed=0)))
    second = open_network(str(make_run(tmp_path / "b", seed=1, trained=6)))
    assert first.group == second.group and first.weights != second.weights
    longer = open_network(str(make_run(tmp_path / "c", seed=0, step=8)))
    random = open_network(f"random:{tmp_path / 'a'}")
    wider = open_network(str(make_run(tmp_path / "d", name="test_resnet")))
    assert len({network.group for network in (first, longer, random, wider)}) == 4
    assert len(first.group) == 16


def test_imported_weights_are_groups_of_their_own(tmp_path: Path) -> None:
    one, other = (open_network(str(make_run(tmp_path / str(at), step=0, trained=at))) for at in (5, 6))
    assert one.group != other.group


def test_weights_tell_what_is_computed() -> None:
    geometries = [
        build_colorizer(
            settings_from(PretrainSettings, {"backbone": {"name": "resnet18", "arguments": arguments}}, "test"),
            torch.ones(len(bin_centers()), dtype=torch.float64),
        ).backbone.state_dict()
        for arguments in ({}, {"last_stride": 1})
    ]
    assert all(torch.equal(value, geometries[1][name]) for name, value in geometries[0].items())
    from transfer.networks import _open_random

    plainly, strided = (_open_random("random", "resnet18", given, 0, 64, None) for given in ({}, {"last_stride": 1}))
    assert plainly.weights != strided.weights and plainly.group != strided.group


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_in_color_from_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    file = tmp_path / f"odd:name{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict()}, file)
    else:
        safetensors.torch.save_file(model.state_dict(), file)
    network = open_network(f"timm:{name}:{file}")
    assert (network.name, network.kind) == (f"timm:{name}:odd:name", "published")
    assert not network.calibrated and network.run is None
    cfg = model.pretrained_cfg
    rgb = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(cfg[part]).view(3, 1, 1) for part in ("mean", "std"))
    with torch.no_grad():
        expected = model.forward_intermediates((rgb / 255 - mean) / std, intermediates_only=True)[-1]
        found = network.module(rgb)[network.stages[-1].name]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_timm_in_color_at_random() -> None:
    one, other = (open_network("timm:test_resnet:random", seed=seed) for seed in (1, 2))
    assert one.kind == "random" and one.calibrated and (one.seed, other.seed) == (1, 2)
    assert one.group == other.group != open_network("random:test_resnet").group
    assert [stage.name for stage in one.stages] == [stage.name for stage in open_network("random:test_resnet").stages]
    red, blue = torch.zeros(2, 1, 3, 48, 48, dtype=torch.uint8)
    red[:, 0], blue[:, 2] = 128, 128
    first = one.stages[0].name
    assert not torch.allclose(one.module(red)[first], one.module(blue)[first])


def test_a_hub_out_of_reach_names_the_way_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = one_line("timm:test_resnet")
    assert "timm:test_resnet:FILE" in said and "timm:test_resnet:random" in said


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet18", "random:resnet18 or timm:resnet18"),
        ("random:resnett18", "random:resnet18"),
        ("nowhere/run", "timm:MODEL:FILE"),
        ("random:nowhere", "timm:MODEL:FILE"),
        ("timm:resnett18:random", "resnet18"),
        ("timm:", "no backbone"),
        ("timm:resnet18.none:random", "no such tag"),
        ("timm:test_resnet:nowhere.pth", "no such file"),
        ("", "has no checkpoint"),
    ],
)
def test_names_of_nothing(spec: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in one_line(spec)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit").state_dict(), other)
    assert "another model's" in one_line(f"timm:test_resnet:{other}")
    assert "not a checkpoint of Pretint" in one_line(str(other))

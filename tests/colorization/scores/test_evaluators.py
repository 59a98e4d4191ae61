"""Networks that judge, at random weights: against the reference packages, and files that are wrong."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import pytest
import timm
import torch
import torchvision
from pytorch_fid import inception as reference
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor

from pretext.errors import UserError
from pretint.colorization.scores.evaluators import EvaluatorUnavailableError, Inception, Lpips, TopClass, open_panel

CPU = torch.device("cpu")


def images(seed: int, count: int = 2, size: int = 64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8))


def saved(path: Path, net: torch.nn.Module) -> str:
    torch.save(net.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        saved(folder / "alex.pth", torchvision.models.alexnet())
        saved(folder / "resnet.pth", timm.create_model("test_resnet", num_classes=1000))
    return folder


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Of the network of FID, at random weights that keep its activations alive."""
    net = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    rng = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            shape = module.weight.shape
            module.weight.data = torch.randn(shape, generator=rng) * (2 / shape[1:].numel()) ** 0.5
    return dict(net.state_dict())


class TestLpips:
    def test_it_is_the_packages_own_on_the_same_weights(self, files: Path) -> None:
        first, second = images(1), images(2)
        reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
        features = torch.load(files / "alex.pth", weights_only=True)
        for key, value in reference.net.named_parameters():
            value.data = features[f"features.{key.partition('.')[2]}"]
        with torch.inference_mode():
            expected = reference(first.float() / 127.5 - 1, second.float() / 127.5 - 1).flatten()
        judge = Lpips(str(files / "alex.pth"))
        assert judge(first, second).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
        assert judge(first, first).tolist() == [0, 0]
        assert judge.about == "LPIPS 0.1 (AlexNet)"

    def test_another_networks_weights(self, files: Path) -> None:
        with pytest.raises(UserError, match="neither torchvision's AlexNet nor its VGG-16"):
            Lpips(str(files / "resnet.pth"))


class TestInception:
    def test_features_are_those_of_pytorch_fid(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        torch.save(state, tmp_path / "fid.pth")
        kept, reference.load_state_dict_from_url = reference.load_state_dict_from_url, lambda *_, **__: state
        try:
            theirs = reference.InceptionV3().eval()
        finally:
            reference.load_state_dict_from_url = kept
        seen = images(1, 2, 75)
        with torch.inference_mode():
            expected = theirs(seen.float() / 255)[0].flatten(1)
        ours = Inception(str(tmp_path / "fid.pth"))
        found = ours(seen)
        assert found.shape == (2, 2048) and ours.about == "Inception v3 of pytorch-fid"
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert float((expected[0] - expected[1]).abs().max()) > 1e-3, "else anything would pass"
        plain = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).eval()
        plain.load_state_dict(state)
        plain.fc = torch.nn.Identity()
        with torch.inference_mode():
            unpatched = plain(2 * torch.nn.functional.interpolate(seen / 255, (299, 299), mode="bilinear") - 1)
        assert float((unpatched - expected).abs().max()) > 1e-3, "the pools matter"

    def test_torchvisions_is_told_apart(self, tmp_path: Path) -> None:
        net = torchvision.models.inception_v3(init_weights=False)
        judge = Inception(saved(tmp_path / "x.pth", net))
        assert "not the usual FID" in judge.about

    def test_another_networks_weights(self, files: Path) -> None:
        with pytest.raises(UserError, match="not Inception v3"):
            Inception(str(files / "alex.pth"))


class TestTopClass:
    def test_right_is_the_highest_score(self, files: Path) -> None:
        names = ImageNetInfo().label_names()
        classes = [names[7], names[3], names[500]]
        judge = TopClass(f"test_resnet:{files / 'resnet.pth'}", classes)
        net = timm.create_model("test_resnet", num_classes=1000).eval()
        net.load_state_dict(torch.load(files / "resnet.pth", weights_only=True))
        seen = images(1, 6, judge.side)  # its own size: nothing is resized
        with torch.inference_mode():
            named = net((seen / 255 - judge.mean) / judge.std).argmax(1).tolist()
        for label, place in enumerate((7, 3, 500)):
            expected = [name == place for name in named]
            assert judge(seen, torch.full((6,), label)).tolist() == expected
        own = TopClass(f"test_resnet:{files / 'resnet.pth'}", [names[name] for name in named])
        assert own(seen, torch.arange(6)).all()

    def test_as_many_classes_as_it_has(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"1,000 classes, and the images have 2 \(cat, dog"):
            TopClass(f"test_resnet:{saved(tmp_path / 'x.pth', timm.create_model('test_resnet'))}", ["cat", "dog"])

    def test_no_such_model(self) -> None:
        with pytest.raises(UserError, match="timm has no model resnet5000"):
            TopClass("resnet5000:x.pth", ["cat"])


class TestFiles:
    @pytest.mark.parametrize("judge", [Lpips, Inception, lambda file: TopClass(f"test_resnet:{file}", ["a"])])
    def test_wrong_ones(self, judge: Callable[[str], object], tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file"):
            judge(str(tmp_path / "none.pth"))
        (tmp_path / "text.pth").write_text("no weights")
        with pytest.raises(UserError, match="only tensors"):
            judge(str(tmp_path / "text.pth"))

    def test_an_odd_pickle_is_refused_in_our_words_alone(self, tmp_path: Path) -> None:
        (tmp_path / "x.pth").write_bytes(pickle.dumps({"x": 1}, protocol=4))
        with warnings.catch_warnings(record=True) as seen, pytest.raises(UserError, match="only tensors"):
            warnings.simplefilter("always")
            Lpips(str(tmp_path / "x.pth"))
        assert not seen

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        class Code:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (tmp_path / "was-run",)  # type: ignore[return-value]

        torch.save({"features.0.weight": Code()}, tmp_path / "bad.pth")
        with pytest.raises(UserError, match="only the tensors"):
            Lpips(str(tmp_path / "bad.pth"))
        assert not (tmp_path / "was-run").exists()

    def test_some_tensors_only(self, files: Path, tmp_path: Path) -> None:
        state = torch.load(files / "alex.pth", weights_only=True)
        del state["features.3.weight"]
        save_file(state, tmp_path / "part.safetensors")
        with pytest.raises(UserError, match="1 tensors are missing"):
            Lpips(str(tmp_path / "part.safetensors"))


class TestPanel:
    def test_what_nobody_named_is_told_of(self) -> None:
        panel = open_panel("", "", "", None, [], CPU)
        assert not panel.present and panel.width == 0
        assert [line.partition(" is left out")[0] for line in panel.missing] == ["LPIPS", "FID", "top-1"]

    def test_a_hub_that_cannot_be_reached_leaves_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
        monkeypatch.setattr(timm, "create_model", refuse)
        panel = open_panel("hub", "hub", "test_resnet", None, [], CPU)
        assert not panel.present and len(panel.missing) == 3
        assert all("cannot be fetched (OSError); go online once, or name" in line for line in panel.missing)
        with pytest.raises(EvaluatorUnavailableError):
            Inception("hub")

    def test_weights_tell_judges_apart(self, files: Path) -> None:
        alike, same = (Lpips(str(files / "alex.pth")).digest for _ in range(2))
        other = Lpips(str(files / "alex.pth"))
        next(other.net.parameters()).data += 1
        assert alike == same != other.digest

"""State dicts as files hold them: nested, prefixed, hostile."""

import pytest
import torch
from torch import Tensor

from pretext.errors import UserError
from pretext.weights.state_dict import find_weights, flatten_names

EXPECTED = {f"layer{number}.weight": f"layer{number}.weight" for number in range(4)}
NETWORK: dict[str, Tensor] = {name: torch.full((2,), float(number)) for number, name in enumerate(EXPECTED)}


def test_nested_names_are_joined_in_order_and_only_tensors_count() -> None:
    stored = {
        "a": {"b": torch.zeros(1), 3: {"c": torch.ones(2)}},
        "text": "x",
        "list": [torch.zeros(1)],
        "d": torch.ones(1),
    }
    assert list(flatten_names(stored, "x")) == ["a.b", "a.3.c", "d"]


def test_a_dict_that_holds_itself_ends() -> None:
    stored: dict[str, object] = dict(NETWORK)
    stored["again"] = stored
    assert list(flatten_names(stored, "x")) == list(NETWORK)


def test_what_no_program_writes_is_refused_in_one_line() -> None:
    deep: dict[str, object] = {}
    inner = deep
    for _ in range(100_000):
        inner["x"] = inner = {}
    inner["y"] = torch.zeros(1)
    for stored, words in (
        ({"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}, "two tensors of the name a.b"),
        (deep, "a name of more than 500 characters"),
        ({"x." * 500_000: torch.zeros(1)}, "a name of more than 500 characters"),
        ([NETWORK], "holds a list instead of weights by name"),
    ):
        with pytest.raises(UserError, match=words) as error:
            flatten_names(stored, "file.pth")
        assert "file.pth" in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.module.encoder_q.", "a.b.c.d."])
def test_a_network_is_found_under_any_prefix(prefix: str) -> None:
    stored = {f"{prefix}{name}": value for name, value in NETWORK.items()} | (
        {"queue": torch.zeros(1)} if prefix else {}
    )
    network = find_weights(stored, EXPECTED, "", "x")
    assert network.prefix == prefix and list(network.weights) == list(NETWORK)
    assert network.outside == (["queue"] if prefix else [])
    assert len(network.lines()) == bool(prefix)


def test_a_part_is_named_by_its_prefix_or_by_words_of_it() -> None:
    prefixes = ("student.backbone.", "teacher.backbone.", "teacher.backbone.ema.")
    stored = {f"{prefix}{name}": value for prefix in prefixes for name, value in NETWORK.items()}
    for part, prefix in (("student", prefixes[0]), ("teacher.backbone", prefixes[1]), ("ema", prefixes[2])):
        assert find_weights(stored, EXPECTED, part, "x").prefix == prefix
    for part, words in (("", "holds 3 networks"), ("teacher", "holds 2 networks"), ("head", "no network named head")):
        with pytest.raises(UserError, match=words):
            find_weights(stored, EXPECTED, part, "x")


def test_a_file_without_the_network_is_left_as_it_is() -> None:
    stored = {"encoder.weight": torch.zeros(1), "encoder.bias": torch.zeros(1)}
    network = find_weights(stored, EXPECTED, "", "x")
    assert network.weights.keys() == stored.keys() and not network.prefix
    assert find_weights({}, EXPECTED, "", "x").weights == {}

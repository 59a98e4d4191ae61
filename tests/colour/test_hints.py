"""Hints from files: what they may be, and what is said of everything else."""

from pathlib import Path

import pytest
import torch

from colour.colourists import Hint, draw_hints
from colour.hints import check_hints, read_hints
from pretext.color import lab_to_rgb
from pretext.errors import UserError


def test_colours_by_name_by_number_and_by_ab(tmp_path: Path) -> None:
    file = tmp_path / "hints.yaml"
    file.write_text(
        "- {x: 3, y: 4.5, radius: 2, colour: '#a0522d'}\n- {x: 3, y: 4, radius: 2, colour: sienna}\n"
        "- {x: 3, y: 4, radius: 2, colour: [-20, 31.5]}\n"
    )
    one, same, plain = read_hints(file)
    assert one[:3] == (3.0, 4.5, 2.0) and one[3:] == same[3:] and plain[3:] == (-20.0, 31.5)
    sienna = lab_to_rgb(torch.tensor([43.8, one.a, one.b]).view(3, 1, 1)).flatten() * 255
    assert torch.allclose(sienna, torch.tensor([160.0, 82.0, 45.0]), atol=1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no hints"),
        ("x: 3", "holds no hints"),
        ("- 3", "hint 1 is 3"),
        ("- {x: 3, y: 4, colour: red}", "hint 1 is"),
        ("- {x: .nan, y: 4, radius: 1, colour: red}", "must be numbers"),
        ("- {x: a, y: 4, radius: 1, colour: red}", "must be numbers"),
        ("- {x: 3, y: 4, radius: 0, colour: red}", "radius above 0"),
        ("- {x: 3, y: 4, radius: 1, colour: redd}", "'redd' is no colour"),
        ("- {x: 3, y: 4, radius: 1, colour: [1, 2, 3]}", "is no colour"),
        ("- {x: 3, y: 4, radius: 1, colour: [1, 900]}", "is no colour"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
    ],
)
def test_anything_else_is_refused_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "hints.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_hints(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_outside_the_picture() -> None:
    check_hints([Hint(0, 0, 5, 0, 0), Hint(39.9, 29.9, 5, 0, 0)], (40, 30))
    for x, y in ((40, 3), (3, 30), (-1, 3)):
        with pytest.raises(UserError, match=r"hint 2 lies at .* outside the picture, which has 40 x 30"):
            check_hints([Hint(0, 0, 5, 0, 0), Hint(x, y, 5, 0, 0)], (40, 30))


def test_drawn_where_they_lie() -> None:
    ab, mask = draw_hints([Hint(10, 20, 8, 5, -7), Hint(99.5, 0.2, 0.01, 1, 2)], (100, 40), (50, 20))
    y, x = torch.meshgrid(torch.arange(20) + 0.5, torch.arange(50) + 0.5, indexing="ij")
    disc = (2 * x - 10) ** 2 + (2 * y - 20) ** 2 <= 64
    disc[0, 49] = True  # smaller than a pixel, so it is one
    disc[10, 5] = True
    assert torch.equal(mask[0, 0] == 1, disc)
    assert ab[0, :, 10, 5].tolist() == [5, -7] and ab[0, :, 0, 49].tolist() == [1, 2]
    assert float(ab[0][:, ~disc].abs().max()) == 0

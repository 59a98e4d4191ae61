"""The methods without a network by the names they have on the command line."""

from pathlib import Path

from colour.methods.reference import ReferenceColourist, ReferenceSettings, reference_colourist
from colour.methods.scribbles import ScribblesColourist, ScribbleSettings, scribbles_colourist
from colour.methods.strokes import read_scribbles
from pretext.errors import UserError
from pretext.pictures.decode import decode

REFERENCE = "reference:"
SCRIBBLES = "scribbles"


def names_method(name: str) -> bool:
    """Whether this is ``reference:PICTURE`` or ``scribbles``, and not a run or a file of weights."""
    return name.startswith(REFERENCE) or name == SCRIBBLES


def open_method(
    name: str,
    scribbles: Path | None = None,
    reference_settings: ReferenceSettings | None = None,
    scribble_settings: ScribbleSettings | None = None,
) -> ReferenceColourist | ScribblesColourist:
    """The colourist of a name.

    Args:
        name: ``reference:PICTURE`` or ``scribbles``.
        scribbles: the file of ``--scribbles``, which the second needs and the first does not take.
        reference_settings: of the first.
        scribble_settings: of the second.

    Raises:
        UserError: a file is missing or not understood, the reference has no colour, or there are no scribbles.
    """
    assert names_method(name), name
    if name == SCRIBBLES:
        if scribbles is None:
            raise UserError("scribbles: name the file that holds them with --scribbles FILE")
        return scribbles_colourist(read_scribbles(scribbles), scribble_settings)
    if scribbles is not None:
        raise UserError(f"--scribbles {scribbles}: not used with {name}; write scribbles in place of {name}")
    picture = name.removeprefix(REFERENCE)
    if not picture:
        raise UserError("reference: name the picture, reference:PICTURE")
    try:
        data = Path(picture).read_bytes()
    except OSError as error:
        raise UserError(f"{picture}: cannot read the reference ({error.strerror})") from error
    return reference_colourist(decode(data, picture), reference_settings, picture)

"""The job of the studio: a network, or hints alone, served on a local page until Ctrl-C."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pretext.engine.signals import exit_with
from pretext.errors import UserError
from pretint.apps.web.sockets import address_of, check_port, open_listener, require_extra
from pretint.colorization.networks import LARGEST
from pretint.colorization.registry import REFERENCE, SCRIBBLES


@dataclass
class StudioSettings:
    """Settings of the studio: how photographs are colored, and where the page is served.

    Args:
        size: shorter side, in pixels, at which the network sees a photograph; 0 takes the size of its training. A
            download has the photograph's full resolution.
        device: auto (the GPU if there is one), cpu, cuda, ...
        megapixels: the largest size of a photograph.
        megabytes: the largest size of a file.
        host: the address to serve on: 127.0.0.1 is this machine alone, 0.0.0.0 all that can reach it, such as a phone.
        port: the port to serve on; 0 takes a free one.
    """

    size: int = 0
    device: str = "auto"
    megapixels: int = 60
    megabytes: int = 100
    host: str = "127.0.0.1"
    port: int = 8001

    def __post_init__(self) -> None:
        if not 0 <= self.size <= LARGEST:
            raise UserError(f"size is {self.size}: it must lie in [0, {LARGEST}]")
        most = (Image.MAX_IMAGE_PIXELS or 1 << 27) // 1_000_000
        if not 1 <= self.megapixels <= most:
            raise UserError(f"megapixels is {self.megapixels}: it must lie in [1, {most}], which is what is decoded")
        if not 1 <= self.megabytes <= 4000:
            raise UserError(f"megabytes is {self.megabytes}: it must lie in [1, 4000]")
        check_port(self.port)


def studio(model: str | Path, settings: StudioSettings, say: Callable[..., None]) -> None:
    """Serve the page until Ctrl-C or TERM.

    Args:
        model: a run, a checkpoint, an exported file, or published weights; or ``scribbles``: no network, colors spread
            from the hints that are drawn on the page.
        settings: how photographs are colored, and where the page is served.
        say: prints lines.

    Raises:
        UserError: the network cannot be loaded or has no colors, or the port is in use.
        KeyboardInterrupt: it was Ctrl-C.
        SystemExit: it was TERM.
    """
    name = str(model)
    if name.startswith(REFERENCE):
        raise UserError(f"{name}: the studio takes a reference on its page; start it as: pretint studio {SCRIBBLES}")
    if name == SCRIBBLES and settings.size:
        raise UserError(f"size: has no effect on {SCRIBBLES}, which needs no network; leave it out")
    with require_extra("this page"):
        from pretint.apps.studio.pages import studio_app
        from pretint.apps.web.security import names_here
        from pretint.apps.web.server import serve
    from pretint.apps.studio.photographs import OpenImages
    from pretint.colorization.networks import open_network

    listener = open_listener(settings.host, settings.port)  # first: loading a network takes longer
    try:
        colorist = None if name == SCRIBBLES else open_network(Path(name), settings.device, settings.size)
        table = OpenImages(colorist, Path(name).name, settings.megapixels * 1_000_000)
    except BaseException:
        listener.close()
        raise
    say(
        f"studio: {address_of(listener)}/",
        "photographs stay in this machine's memory, and nothing is sent elsewhere; Ctrl-C stops",
        *([f"{name}: {colorist.warning}"] if colorist and colorist.warning else []),
    )
    exit_with(serve(studio_app(table, settings.megabytes, names_here(settings.host)), listener))

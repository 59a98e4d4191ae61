"""Serving a study: what is said when it starts, and when it ends."""

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

from pretext.engine.signals import leave
from pretext.errors import UserError
from pretint.apps.turing.design import FILE, TuringSettings, opened_study
from pretint.apps.turing.store import Store
from pretint.apps.turing.summary import result_lines
from pretint.apps.web.sockets import address_of, bound, needing_extra

Say = Callable[..., None]


def turing(folder: Path, settings: TuringSettings, say: Say) -> None:
    """Make or open the study in a folder, and serve it until Ctrl-C or TERM.

    Args:
        folder: of the study.
        settings: what it shows, and where.
        say: prints lines.

    Raises:
        UserError: see ``opened_study`` and ``bound``.
        KeyboardInterrupt: it was Ctrl-C; the results so far are said.
        SystemExit: it was TERM; likewise.
    """
    if settings.results:  # also while another process serves
        store = Store.open(folder / FILE)
        try:
            say(*_results(store))
        finally:
            store.close()
        return
    with opened_study(folder, settings) as (store, said):
        say(*said)
        with needing_extra("this page"):
            from pretint.apps.turing.pages import study_app
            from pretint.apps.web.security import names_here
            from pretint.apps.web.serve import serve
        token = settings.token or secrets.token_urlsafe(16)
        listener = bound(settings.host, settings.port)
        address = address_of(listener, settings.public)
        shown = f"?token={token}" if not settings.token else ""
        say(
            f"participants: {address}/join/{store.facts.token}",
            f"admin:        {address}/admin{shown}",
            "every answer is kept at once; Ctrl-C stops, the same command goes on",
        )
        app = study_app(store, token, address, names_here(settings.host, settings.public))
        ending = serve(app, listener, behind_proxy=bool(settings.public))
        say("", *_results(store))
    leave(ending)


def _results(store: Store) -> list[str]:
    try:
        return result_lines(store)
    except sqlite3.Error as error:
        raise UserError(f"{store.file}: the study cannot be read any more ({error})") from error

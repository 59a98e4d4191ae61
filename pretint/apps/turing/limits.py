"""How many requests a study hears: of each participant, and of each address.

A class behind one address takes part at once, so participants are told apart by the secret in their link. Of an
address are bounded, besides, those who are no participants (they alone cannot keep participants of the same address
out), the participants that it makes, and at last the requests of all of them. The files of which the pages are made
cost no more than a refusal, and are for everybody: nothing tells whose page needs them.
"""

from collections.abc import Callable

from starlette.types import Scope

from pretint.apps.web.security import Buckets, Rate, client_of

_PARTICIPANT = Rate(200, 10)  # a reload takes up to 6 requests, a trial 4
_STRANGERS = Rate(3000, 60)  # of one address: 2 for each who joins, and all wrong links
_JOINS = Rate(400, 0.2)  # of one address: each takes up to 4 kB of the study's file, for good
_ADDRESS = Rate(10_000, 600)


class StudyLimits:
    """Limits for ``Guard``.

    Args:
        is_owner: whether a request is the owner's, who is never refused.
    """

    def __init__(self, is_owner: Callable[[Scope], bool]) -> None:
        self._is_owner = is_owner
        self._participants, self._strangers = Buckets(_PARTICIPANT), Buckets(_STRANGERS)
        self._joins, self._addresses = Buckets(_JOINS), Buckets(_ADDRESS)

    def __call__(self, scope: Scope) -> float:
        """Seconds until the request may pass."""
        first, _, rest = scope["path"].lstrip("/").partition("/")
        if first == "static" or self._is_owner(scope):
            return 0
        address = client_of(scope)
        identity = rest.partition("/")[0] if first == "go" else ""
        if identity in self._participants:
            return self._participants.wait(identity) or self._addresses.wait(address)
        wait = self._strangers.wait(address)
        if not wait and first == "join" and scope["method"] == "POST":
            wait = self._joins.wait(address)
        return wait

    def admit(self, identity: str) -> None:
        """From here on this is a participant: the study has found them in its file."""
        self._participants.add(identity)

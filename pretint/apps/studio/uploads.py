"""Files that are being uploaded: bounded together in bytes, so that nobody fills the memory of this machine."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pretint.apps.studio.fair_queue import Client
from pretint.apps.studio.worker import Crowded


class Upload:
    """The bytes that came so far of one file."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._data: bytearray | None = bytearray()

    @property
    def size(self) -> int:
        """How many bytes are held."""
        return len(self._data or b"")

    def append(self, chunk: bytes) -> None:
        """Add what came. Raises `Crowded` after ``drop``."""
        if self._data is None:
            raise Crowded
        self._data += chunk

    def drop(self) -> None:
        """Hold nothing any more."""
        self._data = None

    def take(self) -> bytes:
        """The whole file. Raises `Crowded` after ``drop``."""
        data = self._data
        if data is None:
            raise Crowded
        return bytes(data)


class Uploads:
    """All uploads.

    Args:
        limit: bytes that they may have together. Of more, the largest upload gives way of the session that has most
            at the address that has most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._uploads: list[Upload] = []

    @contextmanager
    def receive(self, client: Client) -> Iterator[Upload]:
        """An upload, which holds its bytes until this context is left."""
        upload = Upload(client)
        self._uploads.append(upload)
        try:
            yield upload
        finally:
            self._uploads.remove(upload)
            upload.drop()  # a job that nobody waits for may still know it

    def append(self, upload: Upload, chunk: bytes) -> None:
        """Add to an upload what came of it. Raises `Crowded` if it had to give way, now or before."""
        upload.append(chunk)
        while sum(each.size for each in self._uploads) > self.limit:
            by_address: Counter[str] = Counter()
            by_client: Counter[Client] = Counter()
            for each in self._uploads:
                by_address[each.client.address] += each.size
                by_client[each.client] += each.size
            largest = max(
                self._uploads, key=lambda each: (by_address[each.client.address], by_client[each.client], each.size)
            )
            largest.drop()
            if largest is upload:
                raise Crowded

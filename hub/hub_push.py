"""Writing to a Hugging Face Hub, through ``huggingface_hub``: one commit per push.

The library negotiates how large files travel. The commit names the one that it follows,
so that two pushes at once cannot overwrite each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from adaptrix.hub.faults import git_blob_id
from adaptrix.hub.http import require_secure
from adaptrix.hub.huggingface import HuggingFaceHub, translated
from adaptrix.hub.remote import Snapshot
from adaptrix.hub.settings import HubSettings
from adaptrix.hub.versions import OpenBlob
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import NotFound
from adaptrix.schema.reference import HubSource


def check_token(settings: HubSettings, token: str) -> None:
    """Ask the Hub whose token it is.

    Raises:
        AccessDenied: nobody's.
        RemoteError: it cannot be asked.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - 0.3 s of imports

    require_secure(settings.endpoint)
    with translated(settings.endpoint, token=True):
        HfApi(endpoint=settings.endpoint, token=token).whoami()


class HubRepository:
    """A repository that is written to.

    Attributes:
        source: Its name.
        settings: Endpoint and token.
    """

    def __init__(self, source: HubSource, settings: HubSettings) -> None:
        require_secure(settings.endpoint)
        self.source, self.settings = source, settings

    def snapshot(self) -> Snapshot | None:
        """Its files now; None when there is no such repository."""
        try:
            return HuggingFaceHub(self.source, self.settings).snapshot()
        except NotFound:
            return None

    def commit(
        self,
        files: Mapping[str, OpenBlob],
        *,
        message: str,
        parent: str | None,
        tag: str = "",
    ) -> str:
        """Add ``files`` in one commit; the repository is made when there is none.

        Args:
            files: Opens the content, by path.
            message: First line of the commit.
            parent: The commit that must be the present one; None for a new repository.
            tag: A git tag for the commit; ``""`` for none.

        Returns:
            The commit's id.

        Raises:
            AccessDenied: the token may not write there.
            RemoteError: somebody else was faster, or it cannot be reached.
        """
        from huggingface_hub import CommitOperationAdd, HfApi  # noqa: PLC0415

        api = HfApi(endpoint=self.settings.endpoint, token=self.settings.token)
        name = self.source.repository
        with translated(str(self.source), token=self.settings.token is not None):
            if parent is None:
                api.create_repo(name, exist_ok=True)
            with _opened(files) as streams:
                done = api.create_commit(
                    name,
                    operations=[
                        CommitOperationAdd(path_in_repo=path, path_or_fileobj=stream)
                        for path, stream in streams.items()
                    ],
                    commit_message=message,
                    parent_commit=parent,
                )
            if tag:
                api.create_tag(name, tag=tag, revision=done.oid)
        return str(done.oid)


def holds(snapshot: Snapshot | None, path: str, digest: Digest, data: bytes | None) -> bool:
    """Whether a repository has exactly this file.

    Args:
        snapshot: Its files; None for no repository.
        path: The file.
        digest: Digest of its content.
        data: The content, for files that a hub names by their git id.
    """
    for file in snapshot.files if snapshot else ():
        if file.path == path:
            if file.sha256 is not None:
                return file.sha256 == digest
            return data is not None and file.git_oid == git_blob_id(data)
    return False


@contextmanager
def _opened(files: Mapping[str, OpenBlob]) -> Iterator[dict[str, BinaryIO]]:
    with ExitStack() as stack:
        yield {path: stack.enter_context(opened()) for path, opened in files.items()}

"""The registry's verbs about other places."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrix.hub.credentials import Credential
from adaptrix.registry.remotes import Remotes
from adaptrix.registry.settings import Settings

if TYPE_CHECKING:
    from adaptrix.hub.remote import Progress
    from adaptrix.registry.exporting import LayoutReport
    from adaptrix.registry.pushing import PushReport
    from adaptrix.registry.remote_pulling import PullAllReport
    from adaptrix.store.home import Home


class Sharing(ABC):
    """Part of :class:`adaptrix.registry.registry.Registry`.

    Attributes:
        settings: What the registry knows of its surroundings.
    """

    settings: Settings

    @property
    @abstractmethod
    def home(self) -> Home:
        """The store."""

    def pull_all(
        self,
        remote: str,
        *,
        dry_run: bool = False,
        force: bool = False,
        progress: Progress | None = None,
    ) -> PullAllReport:
        """Pull every tag of a remote; what is no adapter is left and listed.

        Raises:
            NotFound: no such remote.
            RemoteError: it cannot be reached, or does not list what it has.
        """
        from adaptrix.registry.remote_pulling import pull_all  # noqa: PLC0415

        return pull_all(
            self.home, self.settings, remote, dry_run=dry_run, force=force, progress=progress
        )

    def export_layout(
        self, reference: str = "", output: Path | None = None, *, dry_run: bool = False
    ) -> LayoutReport:
        """Copy a version with its ancestors to an OCI image layout.

        Without arguments: list every name in this home's own ``index.json``, which leaves
        them out by itself when there are very many.

        Raises:
            NotFound: no such version.
            UsageError: only one of the two was given, or ``output`` holds something else.
        """
        from adaptrix.registry.exporting import export_layout  # noqa: PLC0415

        return export_layout(self.home, self.settings, reference, output, dry_run=dry_run)

    def push(
        self,
        reference: str,
        remote: str = "",
        *,
        tag: str = "",
        dry_run: bool = False,
        force: bool = False,
        progress: Progress | None = None,
    ) -> PushReport:
        """Send a version and what it descends from to a remote.

        Args:
            reference: What to push.
            remote: ``REMOTE``, ``REMOTE/name[:tag]`` or ``oci://host/name[:tag]``; the only
                remote, or ``ADAPTRIX_REMOTE``, when empty.
            tag: Tag there; else the one here.
            dry_run: Ask what is missing there; send nothing.
            force: Move a tag that points to something else.
            progress: Told of the bytes as they go.

        Raises:
            TagMoved: the tag there points to something that this does not follow.
            AccessDenied: the remote does not allow it.
        """
        from adaptrix.registry.pushing import PushRequest, push  # noqa: PLC0415

        request = PushRequest(
            reference=reference, remote=remote, tag=tag, dry_run=dry_run, force=force
        )
        return push(self.home, self.settings, request, progress)

    @property
    def remotes(self) -> Remotes:
        """Other places, and the secrets for them."""
        return Remotes(self.settings)

    def add_remote(
        self, name: str, url: str, *, insecure: bool = False, dry_run: bool = False
    ) -> None:
        """Keep a place under a name.

        Args:
            name: One part, as of a reference.
            url: ``https://host[/prefix]``, ``oci://…``, a folder, or ``hf:org``.
            insecure: Accept plain http beyond this machine.
            dry_run: Check only.
        """
        self.remotes.add(self.home, name, url, insecure=insecure, dry_run=dry_run)

    def remove_remote(self, name: str, *, dry_run: bool = False) -> None:
        """Forget a place, and its secret unless another remote needs it."""
        self.remotes.remove(self.home, name, dry_run=dry_run)

    def log_in(self, remote: str, *, username: str = "", secret: str) -> str:
        """Try a secret at a remote and keep it; returns the remote's URL.

        Args:
            remote: Name of the remote.
            username: User; without one, ``secret`` is a bearer token.
            secret: Password or token.

        Raises:
            AccessDenied: the remote does not take it; nothing is kept.
        """
        credential = Credential(username=username, secret=secret)
        return self.remotes.log_in(self.home, remote, credential).url

"""The registry: one object with the verbs, for people and for the command line.

Registry().pull("any/lora-adapter", name="my_new_adapter", capabilities=["python"])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from adaptrix.registry.merging import Merging
from adaptrix.registry.settings import Settings
from adaptrix.registry.sharing import Sharing
from adaptrix.schema.late import LateModule

if TYPE_CHECKING:
    from adaptrix.hub.remote import Progress
    from adaptrix.registry import history, looking, managing, requests, searching
    from adaptrix.registry.diffing import DiffReport
    from adaptrix.registry.doctor import DoctorReport
    from adaptrix.registry.reports import (
        ConvertReport,
        LogRow,
        MoveRow,
        PullReport,
        Row,
        ShowReport,
        SimilarRow,
        StoredAdapter,
        VerifyReport,
    )
    from adaptrix.registry.statistics import StatsReport
    from adaptrix.schema.digest import Digest
    from adaptrix.schema.report import Inspection
    from adaptrix.store.fsck import FsckReport
    from adaptrix.store.gc import GcReport
    from adaptrix.store.home import Home
    from adaptrix.store.rebuild import ReindexReport
    from adaptrix.store.usage import Usage
else:
    history, looking, managing, requests, searching = (
        LateModule(f"adaptrix.registry.{name}")
        for name in ("history", "looking", "managing", "requests", "searching")
    )


class Registry(Sharing, Merging):
    """A home and everything that can be done with it. Made on first use."""

    def __init__(self, home: Path | str | None = None, *, settings: Settings | None = None) -> None:
        """Open the registry at ``home``; nothing is read or written yet."""
        chosen = Path(home) if home is not None else None
        self.settings = settings or Settings.from_environment(chosen)
        self._home: Home | None = None

    @property
    def home(self) -> Home:
        """The store, opened on first use; StoreError or AccessDenied when it cannot be."""
        if self._home is None:
            from adaptrix.store.home import Home  # noqa: PLC0415

            self._home = Home.open(self.settings.home)
        return self._home

    def pull(
        self,
        source: str,
        *,
        name: str | None = None,
        revision: str | None = None,
        base: str | None = None,
        alpha: float | None = None,
        source_layout: str | None = None,
        description: str = "",
        capabilities: Sequence[str] = (),
        domain: str = "",
        training_data: str = "",
        license: str = "",  # noqa: A002 - the field's name everywhere
        carry: bool = False,
        dry_run: bool = False,
        force: bool = False,
        progress: Progress | None = None,
    ) -> PullReport:
        """Fetch, verify, recognise, convert and store an adapter.

        Pulling again changes nothing; a moved upstream makes a new version; an error none.

        Args:
            source: ``org/repo``, a Hub URL, ``oci://host/repo:tag``, ``REMOTE/name``, a path.
            name: ``NAME[:TAG]`` to store it under.
            revision: Branch, tag or commit on the Hub.
            base: Folder or file of the base model's ``config.json``, or its name.
            alpha: LoRA alpha, for formats that do not store it.
            source_layout: Module naming, where the content fits several.
            description: Kept in the manifest; empty means as before, or as the card says.
            capabilities: Likewise.
            domain: Likewise.
            training_data: Likewise.
            license: Likewise.
            carry: Keep an adapter of a known method that is no LoRA as it is.
            dry_run: Recognise and report, store nothing.
            force: Let the name here move to a remote's version that it does not lead to.
            progress: Told of the bytes as they come.
        """
        from adaptrix.registry.pulling import pull  # noqa: PLC0415 - reads formats

        request = requests.PullRequest(
            source=source,
            name=name,
            revision=revision,
            base=base,
            alpha=alpha,
            source_layout=source_layout,
            description=description,
            capabilities=tuple(capabilities),
            domain=domain,
            training_data=training_data,
            license=license,
            carry=carry,
            dry_run=dry_run,
            force=force,
        )
        return pull(self.home, self.settings, request, progress)

    def inspect(
        self,
        source: str,
        *,
        base: str | None = None,
        alpha: float | None = None,
        source_layout: str | None = None,
        revision: str | None = None,
    ) -> Inspection:
        """Say what a source or a stored version is; a remote one from its headers alone."""
        from adaptrix.registry.opening import inspect_source  # noqa: PLC0415

        request = requests.PullRequest(
            source=source, base=base, alpha=alpha, source_layout=source_layout, revision=revision
        )
        return inspect_source(self._home_if_any, self.settings, request)

    def convert(
        self,
        source: str,
        *,
        to: str,
        output: Path,
        base: str | None = None,
        alpha: float | None = None,
        source_layout: str | None = None,
        target_layout: str | None = None,
        dry_run: bool = False,
    ) -> ConvertReport:
        """Write a source or a stored version in another format to ``output``.

        Args:
            source: Reference, path or hub id.
            to: Format.
            output: New folder or file.
            base: Folder or id of the base model.
            alpha: For files that store none.
            source_layout: Which naming the file has, where it does not tell.
            target_layout: Write other names and fused modules than those of the base's class.
            dry_run: Write nothing.
        """
        from adaptrix.registry.converting import convert  # noqa: PLC0415

        request = requests.PullRequest(
            source=source, base=base, alpha=alpha, source_layout=source_layout, dry_run=dry_run
        )
        return convert(
            self._home_if_any,
            lambda: self.home,
            self.settings,
            request,
            to=to,
            output=output,
            layout=target_layout,
        )

    def open(self, reference: str) -> StoredAdapter:
        """A stored version in canonical form, its tensors read when wanted."""
        return looking.open_version(self.home, reference)

    def ls(self, pattern: str | None = None, *, limit: int = 0, after: str = "") -> tuple[Row, ...]:
        """Names with their versions, sorted; those of a remote for ``REMOTE/``.

        Args:
            pattern: Shell pattern for ``name`` or ``name:tag``; None for all.
            limit: At most so many; 0 for all.
            after: Only those behind this ``name:tag``.
        """
        if pattern is not None and pattern.endswith("/"):
            from adaptrix.registry.remote_listing import remote_rows  # noqa: PLC0415
            from adaptrix.registry.remotes import Place  # noqa: PLC0415

            place = Place(location=self.remotes.get(pattern[:-1]), base=pattern)
            rows = [row for row in remote_rows(self.settings, place) if row.reference > after]
            return tuple(rows[:limit] if limit else rows)
        return looking.ls(self.home, pattern, limit=limit, after=after)

    def search(self, query: str, *, remote: str = "", limit: int = 0) -> tuple[Row, ...]:
        """Names that fit words and filters, the best first, here or at a remote.

        Args:
            query: ``words family:phi rank:8..16 size:<10MB since:2026-01-01 …``.
            remote: Name of a remote to search instead.
            limit: At most so many; 0 for all.
        """
        if remote:
            from adaptrix.registry.remote_listing import search_remote  # noqa: PLC0415

            rows = search_remote(self.settings, remote, query)
            return rows[:limit] if limit else rows
        return searching.search(self.home, query, limit=limit)

    def similar(self, reference: str, *, limit: int = 10) -> tuple[SimilarRow, ...]:
        """Versions that change the model alike, the likest first.

        Candidates come from stored energies of the modules; the cosine of the updates
        themselves is exact.
        """
        return searching.similar(self.home, reference, limit=limit)

    def diff(self, a: str, b: str) -> DiffReport:
        """What two versions differ in, computed on the factors in float64."""
        from adaptrix.registry.diffing import diff  # noqa: PLC0415 - imports torch

        return diff(self.home, a, b)

    def show(self, reference: str) -> ShowReport:
        """A version in full."""
        return looking.show(self.home, reference)

    def log(self, reference: str) -> tuple[LogRow, ...]:
        """The version and what it descends from, newest first."""
        return history.log(self.home, reference)

    def reflog(self, reference: str | None = None) -> tuple[MoveRow, ...]:
        """Moves of a tag, or of all, newest first."""
        return history.reflog(self.home, reference)

    def restore(self, reference: str, version: str = "", *, dry_run: bool = False) -> MoveRow:
        """Point a tag to where it pointed before its last move, or to ``version``.

        Args:
            reference: ``NAME[:TAG]``, also one that was removed.
            version: Where to; ``""`` for where it was before.
            dry_run: Check and report only.
        """
        return history.restore(self.home, reference, version, dry_run=dry_run)

    def tag(self, reference: str, tag: str, *, dry_run: bool = False) -> str:
        """Give a version one more tag; returns ``name:tag``."""
        return managing.tag(self.home, reference, tag, dry_run=dry_run)

    def rm(self, reference: str, *, dry_run: bool = False) -> str:
        """Remove a name; the version stays until ``gc`` after the grace period."""
        return managing.rm(self.home, reference, dry_run=dry_run)

    def verify(
        self, reference: str, *, base: str | None = None, merged: Path | None = None
    ) -> VerifyReport:
        """Compute every claim of a version again.

        Args:
            reference: The version.
            base: Base model that it has to fit.
            merged: Folder of a model that claims to be ``base`` with this version merged.
        """
        from adaptrix.registry.verifying import verify  # noqa: PLC0415 - reads formats

        return verify(self.home, reference, base=base, merged=merged)

    def gc(self, *, dry_run: bool = False, grace_s: float | None = None) -> GcReport:
        """Delete what no name, reflog or lineage reaches, after a grace period."""
        return managing.gc(self.home, dry_run=dry_run, grace_s=grace_s)

    def du(self) -> Usage:
        """What takes how much room."""
        return self.home.du()

    def stats(self) -> StatsReport:
        """Count the conversions made here: of what, how they ended, how long they took."""
        from adaptrix.registry.statistics import stats  # noqa: PLC0415

        return stats(self._home_if_any())

    def fsck(
        self,
        *,
        quick: bool = False,
        sample: float = 1.0,
        full: bool = False,
        repair: bool = False,
    ) -> FsckReport:
        """Hash everything again and check that it hangs together.

        Args:
            quick: Names, sizes and structure only.
            sample: Share of the blobs that are hashed.
            full: Compute every claim of every manifest again, too.
            repair: Move damaged blobs aside, fetch what is missing from the remotes, and
                write derived files anew.
        """
        from adaptrix.registry.checking import fsck  # noqa: PLC0415

        return fsck(self.home, self.settings, quick=quick, sample=sample, full=full, repair=repair)

    def doctor(self) -> DoctorReport:
        """Check the surroundings: disk, packages, settings, remotes."""
        from adaptrix.registry.doctor import doctor  # noqa: PLC0415

        return doctor(self.home, self.settings)

    def reindex(self) -> ReindexReport:
        """Make the index again from the blobs alone."""
        return self.home.reindex()

    def digest(self, reference: str) -> Digest:
        """Digest of the version that ``reference`` names."""
        from adaptrix.registry.resolve import resolve  # noqa: PLC0415

        return resolve(self.home, reference)[1]

    def close(self) -> None:
        """Close the store."""
        if self._home is not None:
            self._home.close()
            self._home = None

    @property
    def _home_if_any(self) -> Callable[[], Home | None]:
        """For verbs that need no home: it is opened only when it exists."""

        def existing() -> Home | None:
            return self.home if self._home or self.settings.home.is_dir() else None

        return existing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

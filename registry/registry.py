"""The registry: one object with the verbs, for people and for the command line.

Registry().pull("any/lora-adapter", name="my_new_adapter", capabilities=["python"])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from adaptrix.registry import looking, managing, verifying
from adaptrix.registry.pulling import PullRequest, inspect_source, pull
from adaptrix.registry.reports import (
    ComposeReport,
    ConvertReport,
    LogRow,
    MoveRow,
    PullReport,
    Row,
    ShowReport,
    StoredAdapter,
    VerifyReport,
)
from adaptrix.registry.resolve import resolve
from adaptrix.registry.settings import Settings
from adaptrix.schema.digest import Digest
from adaptrix.store.home import Home

if TYPE_CHECKING:
    from adaptrix.hub.remote import Progress
    from adaptrix.registry.recipe_files import Ingredient
    from adaptrix.schema.report import Inspection
    from adaptrix.store.fsck import FsckReport
    from adaptrix.store.gc import GcReport
    from adaptrix.store.rebuild import ReindexReport
    from adaptrix.store.usage import Usage


class Registry:
    """A home and everything that can be done with it. Made on first use."""

    def __init__(self, home: Path | str | None = None, *, settings: Settings | None = None) -> None:
        """Open the registry at ``home``; nothing is read or written yet."""
        chosen = Path(home) if home is not None else None
        self.settings = settings or Settings.from_environment(chosen)
        self._home: Home | None = None

    @property
    def home(self) -> Home:
        """The store, opened on first use.

        Raises:
            StoreError, AccessDenied: it cannot be opened.
        """
        if self._home is None:
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
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> PullReport:
        """Fetch, verify, recognise, convert and store an adapter.

        Pulling the same thing again changes nothing and says so; a moved upstream makes a
        new version with the old one as parent.

        Args:
            source: ``org/repo``, ``hf:org/repo@revision``, a Hub URL, a file or a folder.
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
            dry_run: Recognise and report, store nothing.
            progress: Told of the bytes as they come.

        Raises:
            AdaptrixError: with the exit status of its kind; nothing is stored then.
        """
        request = PullRequest(
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
            dry_run=dry_run,
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
        return inspect_source(
            self._home_if_any,
            self.settings,
            PullRequest(
                source=source,
                base=base,
                alpha=alpha,
                source_layout=source_layout,
                revision=revision,
            ),
        )

    def convert(
        self,
        source: str,
        *,
        to: str,
        output: Path,
        base: str | None = None,
        alpha: float | None = None,
        source_layout: str | None = None,
        dry_run: bool = False,
    ) -> ConvertReport:
        """Write a source or a stored version in another format to ``output``."""
        from adaptrix.registry.converting import convert  # noqa: PLC0415

        request = PullRequest(source=source, base=base, alpha=alpha, source_layout=source_layout)
        return convert(
            self._home_if_any, self.settings, request, to=to, output=output, dry_run=dry_run
        )

    def compose(
        self,
        inputs: Sequence[tuple[str, float] | Ingredient],
        *,
        output: str,
        method: str = "linear",
        parameters: Mapping[str, float] | None = None,
        seed: int = 0,
        description: str = "",
        allow_license_conflict: bool = False,
        dry_run: bool = False,
    ) -> ComposeReport:
        """Make a new version from others, without the base model.

        Args:
            inputs: Pairs of reference and weight, or ingredients with rules.
            output: ``NAME[:TAG]``.
            method: ``NAME`` or ``NAME@SPACE`` of ``adaptrix compose --methods``.
            parameters: Values of the method's parameters.
            seed: Seed of methods that draw.
            description: Kept in the manifest.
            allow_license_conflict: Carry conflicting licences as ``A AND B``.
            dry_run: Check and report, store nothing.
        """
        from adaptrix.registry.composing import ComposeRequest, compose  # noqa: PLC0415 - torch
        from adaptrix.registry.recipe_files import Ingredient  # noqa: PLC0415 - yaml

        return compose(
            self.home,
            ComposeRequest(
                inputs=[
                    entry
                    if isinstance(entry, Ingredient)
                    else Ingredient(reference=entry[0], weight=entry[1])
                    for entry in inputs
                ],
                output=output,
                method=method,
                parameters=parameters or {},
                seed=seed,
                description=description,
                allow_license_conflict=allow_license_conflict,
                dry_run=dry_run,
            ),
        )

    def rebase(self, reference: str, *, dry_run: bool = False) -> ComposeReport:
        """Make a composition again from what its parents' names point to now.

        Nothing changes when they have not moved.
        """
        from adaptrix.registry.composing import rebase  # noqa: PLC0415 - imports torch

        return rebase(self.home, reference, dry_run=dry_run)

    def open(self, reference: str) -> StoredAdapter:
        """A stored version in canonical form, its tensors read when wanted."""
        return looking.open_version(self.home, reference)

    def ls(self, pattern: str | None = None) -> tuple[Row, ...]:
        """Names with their versions."""
        return looking.ls(self.home, pattern)

    def search(self, query: str) -> tuple[Row, ...]:
        """Names whose name or description holds every word of ``query``."""
        return looking.search(self.home, query)

    def show(self, reference: str) -> ShowReport:
        """A version in full."""
        return looking.show(self.home, reference)

    def log(self, reference: str) -> tuple[LogRow, ...]:
        """The version and what it descends from, newest first."""
        return looking.log(self.home, reference)

    def reflog(self, reference: str) -> tuple[MoveRow, ...]:
        """Moves of a tag, newest first."""
        return looking.reflog(self.home, reference)

    def tag(self, reference: str, tag: str, *, dry_run: bool = False) -> str:
        """Give a version one more tag; returns ``name:tag``."""
        return managing.tag(self.home, reference, tag, dry_run=dry_run)

    def rm(self, reference: str, *, dry_run: bool = False) -> str:
        """Remove a name; the version stays until ``gc`` after the grace period."""
        return managing.rm(self.home, reference, dry_run=dry_run)

    def verify(self, reference: str, *, base: str | None = None) -> VerifyReport:
        """Compute every claim of a version again."""
        return verifying.verify(self.home, reference, base=base)

    def gc(self, *, dry_run: bool = False, grace_s: float | None = None) -> GcReport:
        """Delete what no name, reflog or lineage reaches, after a grace period."""
        return managing.gc(self.home, dry_run=dry_run, grace_s=grace_s)

    def du(self) -> Usage:
        """What takes how much room."""
        return self.home.du()

    def fsck(self, *, quick: bool = False, repair: bool = False) -> FsckReport:
        """Hash everything again and check that it hangs together."""
        return self.home.fsck(quick=quick, repair=repair)

    def reindex(self) -> ReindexReport:
        """Make the index again from the blobs alone."""
        return self.home.reindex()

    def digest(self, reference: str) -> Digest:
        """Digest of the version that ``reference`` names."""
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

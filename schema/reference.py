r"""References: how people name adapters, here and elsewhere.

    [remote/][namespace/]name[:tag][@sha256:…][~N]   a Reference in a registry
    hf:org/repo[/folder][@revision]                  a HubSource (also hub URLs, hf://)
    oci://host[:port]/repository[:tag][@sha256:…]    an OciSource
    ./folder  /abs/file  ~/x  C:\x                    a PathSource

``parse(str(x)) == x`` for each of them. Whether the first part of ``a/b`` is a remote or
a namespace only the registry's settings can tell, so a Reference keeps the parts. Stable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self, TypeAlias
from urllib.parse import unquote

from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import InvalidReference

_PART = re.compile(r"[a-z0-9](?:[a-z0-9]|[._-](?=[a-z0-9]))*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_HUB_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_FOLDER_PART = re.compile(r"(?!\.{1,2}$|\s)[^/@\\\x00-\x1f\x7f]{1,100}(?<!\s)")
_REVISION = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/-]{0,254}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?", re.ASCII)
_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_HUB_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<rest>.+)")
_ROOTED = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")
_HUB_KINDS = {"datasets", "spaces", "models", "collections", "papers", "docs"}
_MAX_PARTS = 3
_MAX_NAME = 200
DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Name of a version in a registry.

    Attributes:
        parts: One to three lower-case parts: ``name``, ``namespace/name`` or
            ``remote/namespace/name``.
        tag: Tag, or None when none was written.
        digest: Digest, or None.
        ancestor: How many first parents to go back (``name~2``).
    """

    parts: tuple[str, ...]
    tag: str | None = None
    digest: Digest | None = None
    ancestor: int = 0

    def __post_init__(self) -> None:
        text = "/".join(self.parts)
        if not 1 <= len(self.parts) <= _MAX_PARTS or len(text) > _MAX_NAME:
            raise _invalid(text, "expected [remote/][namespace/]name")
        for part in self.parts:
            if not _PART.fullmatch(part):
                raise _invalid(
                    text, f"part {part[:80]!r} must be a-z, 0-9 and single . _ - in between"
                )
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise _invalid(text, f"tag {self.tag[:80]!r} must be up to 128 of A-Z a-z 0-9 . _ -")
        if self.ancestor < 0:
            raise _invalid(text, f"ancestor must be 0 or more, got {self.ancestor}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``[remote/][namespace/]name[:tag][@sha256:…][~N]``.

        Raises:
            InvalidReference: any other text.
        """
        rest, ancestor = _split_ancestor(text)
        rest, at, digest_text = rest.partition("@")
        name, colon, tag = rest.partition(":")
        if colon and not tag:
            raise _invalid(text, "the tag after ':' is empty")
        digest = Digest.parse(digest_text) if at else None
        return cls(parts=tuple(name.split("/")), tag=tag or None, digest=digest, ancestor=ancestor)

    @property
    def name(self) -> str:
        """The parts, joined: the repository's name."""
        return "/".join(self.parts)

    @property
    def tag_or_default(self) -> str:
        """The tag, ``latest`` when none was written."""
        return self.tag or DEFAULT_TAG

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        ancestor = f"~{self.ancestor}" if self.ancestor else ""
        return f"{self.name}{tag}{digest}{ancestor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A repository on the Hugging Face Hub.

    Attributes:
        repository: ``org/repo``.
        revision: Branch, tag or commit; None means the default branch.
        folder: The part of it that is looked at, ``""`` for all.
    """

    repository: str
    revision: str | None = None
    folder: str = ""

    def __post_init__(self) -> None:
        org, _, name = self.repository.partition("/")
        bad = not (_HUB_PART.fullmatch(org) and _HUB_PART.fullmatch(name))
        if bad or ".." in self.repository or "--" in self.repository:
            raise _invalid(self.repository, "expected hf:org/repo[@revision]")
        revision = self.revision
        if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise _invalid(self.repository, f"revision {revision[:80]!r} is not a git revision")
        parts = self.folder.split("/") if self.folder else []
        if not all(_FOLDER_PART.fullmatch(part) for part in parts) or len(self.folder) > _MAX_NAME:
            raise _invalid(self.repository, f"{self.folder[:80]!r} is no folder of a repository")

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        return f"hf:{self.repository}{folder}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class OciSource:
    """A repository in an OCI registry.

    Attributes:
        host: ``host`` or ``host:port``.
        repository: Path in the registry.
        tag: Tag or None.
        digest: Digest or None.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise _invalid(str(self), f"{self.host[:80]!r} is no host[:port]")
        if not _REPOSITORY.fullmatch(self.repository):
            raise _invalid(str(self), f"{self.repository[:80]!r} is no OCI repository name")
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise _invalid(str(self), f"tag {self.tag[:80]!r} is not allowed")

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"oci://{self.host}/{self.repository}{tag}{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSource:
    """A file or folder on this machine.

    Attributes:
        path: The path as written, with ``./`` before it where it would be read as another
            kind of source.
    """

    path: str

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path:
            raise _invalid(self.path, "a path must not be empty or hold NUL")
        if not _ROOTED.match(self.path):
            object.__setattr__(self, "path", f"./{self.path}")

    def __str__(self) -> str:
        return self.path


Source: TypeAlias = Reference | HubSource | OciSource | PathSource


def parse_source(text: str) -> Source:
    """Parse what a user may give to ``pull`` or ``inspect``, by its form alone.

    ``a/b`` is a Reference here; the caller decides between a stored name, an existing
    path and the Hub. See :func:`hub_source_of`.

    Raises:
        InvalidReference: text of none of the forms.
    """
    if _ROOTED.match(text):
        return PathSource(path=text)
    if not text or text != text.strip():
        raise _invalid(text, "a source must not be empty or begin or end with blanks")
    if match := _HUB_URL.fullmatch(text):
        return _hub_url(text, match["rest"])
    for prefix in ("hf://", "hf:"):
        if text.startswith(prefix):
            return _hub(text.removeprefix(prefix))
    if text.startswith("oci://"):
        return _oci(text)
    if "://" in text:
        raise _invalid(text, "expected a Hub URL, hf:org/repo, oci://host/repo or a path")
    if "\\" in text:
        return PathSource(path=text)
    return Reference.parse(text)


def hub_source_of(text: str) -> HubSource:
    """Read bare ``org/repo[@revision]`` as a repository on the Hub.

    Raises:
        InvalidReference: any other text.
    """
    found = _hub(text)
    if found.folder:
        # Three parts without hf: are a reference to a remote, mistyped more likely than not.
        raise _invalid(text, f"expected org/repo[@revision]; a folder in one is {found}")
    return found


def _hub(text: str) -> HubSource:
    repository, at, revision = text.partition("@")
    if at and not revision:
        raise _invalid(text, "the revision after '@' is empty")
    parts = repository.split("/")
    if len(parts) > 2 and parts[0] in _HUB_KINDS:
        raise _invalid(text, "expected hf:org/repo[/folder][@revision]: a model's repository")
    return HubSource(
        repository="/".join(parts[:2]), revision=revision or None, folder="/".join(parts[2:])
    )


def _hub_url(text: str, rest: str) -> HubSource:
    path = re.split("[?#]", rest, maxsplit=1)[0]
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if len(parts) < 2 or parts[0] in _HUB_KINDS:
        raise _invalid(text, "expected https://huggingface.co/org/repo[/tree/revision[/folder]]")
    repository, kind, rest_parts = "/".join(parts[:2]), parts[2:3], parts[3:]
    if not kind:
        return HubSource(repository=repository)
    if kind[0] not in {"tree", "blob", "resolve", "commit"} or not rest_parts:
        raise _invalid(text, "expected https://huggingface.co/org/repo[/tree/revision[/folder]]")
    width = 3 if rest_parts[0] == "refs" else 1
    inside = rest_parts[width:]
    if kind[0] in {"blob", "resolve"}:
        inside = inside[:-1]
    return HubSource(
        repository=repository, revision="/".join(rest_parts[:width]), folder="/".join(inside)
    )


def _oci(text: str) -> OciSource:
    rest, at, digest_text = text.removeprefix("oci://").partition("@")
    host, _, path = rest.partition("/")
    repository, colon, tag = path.partition(":")
    if colon and not tag:
        raise _invalid(text, "the tag after ':' is empty")
    digest = Digest.parse(digest_text) if at else None
    return OciSource(host=host, repository=repository, tag=tag or None, digest=digest)


def _split_ancestor(text: str) -> tuple[str, int]:
    rest, tilde, count = text.rpartition("~")
    if not tilde:
        return text, 0
    if count and not (count.isascii() and count.isdigit() and len(count) < 6):
        raise _invalid(text, "expected ~N after the name")
    return rest, int(count) if count else 1


def _invalid(text: str, message: str) -> InvalidReference:
    return InvalidReference(message, where=repr(text[:120]))

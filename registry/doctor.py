"""The surroundings: what could make adapters slow, unsafe or unreachable on this machine."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

from adaptrix.hub.credentials import FILE_NAME, Credentials
from adaptrix.hub.location import RemoteKind, RemoteLocation
from adaptrix.registry.remotes import Remotes
from adaptrix.registry.settings import Settings
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.report import Verdict
from adaptrix.store.home import Home

PACKAGES = ("torch", "transformers", "huggingface_hub", "safetensors", "pydantic", "sqlmodel")
VARIABLES = frozenset(
    f"ADAPTRIX_{name}"
    for name in ("HOME", "REMOTE", "TOKEN", "OFFLINE", "DEBUG", "HUB_ATTEMPTS", "HUB_BACKOFF",
                 "CORPUS", "SOAK")
)  # fmt: skip
LITTLE_BYTES = 1 << 30
SLOW_SYNC_S = 0.25
_NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "gpfs", "ceph")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: ``ok``, ``warning`` or ``error``.
        detail: What was found.
        hint: What to do, when it is not ok.
    """

    name: str
    status: str
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """Outcome of ``doctor``: FAIL when something cannot work, PASS also with warnings."""

    verdict: Verdict
    checks: tuple[Check, ...]


def doctor(home: Home, settings: Settings) -> DoctorReport:
    """See :meth:`Registry.doctor`."""
    checks = [*_program(), *_disk(home), *_settings(settings), *_remotes(settings)]
    failed = any(check.status == "error" for check in checks)
    return DoctorReport(verdict=Verdict.FAIL if failed else Verdict.PASS, checks=tuple(checks))


def _program() -> Iterator[Check]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield _judge("python", python, fine=sys.version_info >= (3, 11), hint="Use 3.11 or newer.")
    for name in PACKAGES:
        try:
            yield Check(name=name, status="ok", detail=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name=name, status="error", detail="absent", hint=f"pip install {name}")
    yield _attempt("sqlite", _sqlite, "This Python's SQLite lacks FTS5: search cannot work.")


def _sqlite() -> str:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5(a)")
        connection.execute("SELECT json_each.value FROM json_each('[1]')")
    connection.close()
    return f"{sqlite3.sqlite_version} with FTS5"


def _disk(home: Home) -> Iterator[Check]:
    kind = _file_system(home.path)
    detail = f"{home.path} on {kind or 'an unknown file system'}"
    yield _judge(
        "home", detail, fine=not kind.startswith(_NETWORK), bad="warning",
        hint="On a network file system locks may lie; what is stored stays whole all the same.",
    )  # fmt: skip
    if home.read_only:
        yield Check(name="writable", status="warning", detail="no", hint="Reading works.")
        return
    free = shutil.disk_usage(home.path).free
    yield _judge(
        "free space", f"{free / 1e9:.1f} GB", fine=free > LITTLE_BYTES, bad="warning",
        hint="Free some: adaptrix gc may help.",
    )  # fmt: skip
    yield from _writing(home.blobs.temporary)
    yield _attempt("index", lambda: f"{len(home.versions())} versions", "Run adaptrix reindex.")


def _writing(folder: Path) -> Iterator[Check]:
    probe = folder / f"doctor-{secrets.token_hex(6)}"
    began = time.perf_counter()
    try:
        with probe.open("xb") as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
        took = time.perf_counter() - began
        apart = abs(probe.stat().st_mtime - time.time())
    except OSError as error:
        reason = error.strerror or str(error)
        yield Check(name="writable", status="error", detail=reason, hint="Check the permissions.")
        return
    finally:
        probe.unlink(missing_ok=True)
    yield _judge(
        "sync", f"{1000 * took:.1f} ms", fine=took < SLOW_SYNC_S, bad="warning",
        hint="Every stored file waits for the disk: it is slow.",
    )  # fmt: skip
    yield _judge(
        "clock", f"{apart:.1f} s beside the file system's", fine=apart < 60, bad="warning",
        hint="gc goes by the file system's clock, the reflog by this machine's.",
    )  # fmt: skip


def _settings(settings: Settings) -> Iterator[Check]:
    unknown = sorted(
        name for name in os.environ if name.startswith("ADAPTRIX_") and name not in VARIABLES
    )
    yield _judge(
        "environment", ", ".join(unknown) or "nothing unknown", fine=not unknown, bad="warning",
        hint=f"There are {', '.join(sorted(VARIABLES))}.",
    )  # fmt: skip
    credentials = Credentials(settings.home / FILE_NAME)

    def readable() -> str:
        credentials.get("")
        return "only you can read them" if credentials.path.exists() else "none"

    yield _attempt("credentials", readable, "")


def _remotes(settings: Settings) -> Iterator[Check]:
    remotes = Remotes(settings)
    for name, location in remotes.all().items():
        if location.kind is RemoteKind.FOLDER:
            there = Path(location.path).is_dir()
            yield _judge(
                f"remote {name}", location.url, fine=there, bad="warning",
                hint="The folder is not there; the first push makes it. Is it mounted?",
            )  # fmt: skip
        elif location.kind is RemoteKind.OCI and not settings.offline:
            yield _attempt(f"remote {name}", partial(_ping, remotes, location), "", bad="warning")
        else:
            yield Check(name=f"remote {name}", status="ok", detail=f"{location.url}, not asked")


def _ping(remotes: Remotes, location: RemoteLocation) -> str:
    from adaptrix.hub.oci import OciRegistry  # noqa: PLC0415 - imports an HTTP client
    from adaptrix.hub.settings import HubSettings  # noqa: PLC0415

    settings = replace(HubSettings.from_environment(), attempts=1, timeout_s=5.0)
    registry = OciRegistry(location, credential=remotes.credential(location), settings=settings)
    try:
        began = time.perf_counter()
        registry.ping()
        return f"{location.url} answers in {1000 * (time.perf_counter() - began):.0f} ms"
    finally:
        registry.close()


def _attempt(name: str, look: Callable[[], str], hint: str, *, bad: str = "error") -> Check:
    try:
        return Check(name=name, status="ok", detail=look())
    except AdaptrixError as error:
        return Check(name=name, status=bad, detail=str(error), hint=error.hint or hint)
    except (OSError, sqlite3.Error) as error:
        return Check(name=name, status=bad, detail=str(error), hint=hint)


def _judge(name: str, detail: str, *, fine: bool, hint: str, bad: str = "error") -> Check:
    return Check(name=name, status="ok" if fine else bad, detail=detail, hint="" if fine else hint)


def _file_system(path: Path) -> str:
    """Type of the file system, from ``/proc/mounts``; ``""`` where there is none."""
    try:
        lines = Path("/proc/mounts").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = str(path.resolve())
    mounts = [line.split()[1:3] for line in lines if len(line.split()) > 2]
    fitting = [
        (len(point), kind) for point, kind in mounts
        if place == point or place.startswith(point.rstrip("/") + "/")
    ]  # fmt: skip
    return max(fitting)[1] if fitting else ""

"""The error tree.

    AdaptrixError                1  failed
    ├── UsageError               2  the command cannot be carried out as asked
    │   └── InvalidReference     2  text that is no reference, digest or source
    ├── FormatError              2  unreadable or invalid input
    ├── Refused                  1  recognised, and not convertible (FAIL)
    ├── IncompatibleAdapter      1  adapter and base, or two adapters, do not fit (FAIL)
    ├── IntegrityError           1  bytes are not what was announced
    ├── StoreError               1  the store could not do it (disk full, conflict, corrupt)
    ├── Inconclusive             3  could not be checked
    ├── AccessDenied             4  authentication or permission
    ├── NotFound                 5  no such reference, repository, revision or file
    ├── RemoteError              6  network, remote server, or offline
    ├── PolicyRefused            7  unsafe file, limit, signature
    └── Interrupted            130  stopped by the user, store consistent

An error carries fields (``where``, wanted, got) and prints them; it knows its exit
status, whether trying again may help, and what the user can do next. Leaf classes live
beside the code that raises them. Stable.
"""

from __future__ import annotations

from typing import ClassVar


class AdaptrixError(Exception):
    """Root of all errors that Adaptrix raises on purpose.

    Attributes:
        message: One line: what was wanted and what was found.
        where: The place: a file, a key, a module, a URL. Empty when there is none.
        hint: What the user can do next. Empty when there is nothing to suggest.
        code: Stable machine-readable name, e.g. ``digest_mismatch``.
        exit_status: Status of a command that ends with this error.
        temporary: Whether the same call may succeed later.
    """

    code: str = "failed"
    exit_status: ClassVar[int] = 1
    temporary: ClassVar[bool] = False

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def hints(self) -> tuple[str, ...]:
        """Suggestions, most useful first."""
        return (self.hint,) if self.hint else ()


class UsageError(AdaptrixError):
    """The command cannot be carried out as it was asked."""

    code = "usage"
    exit_status = 2


class InvalidReference(UsageError):
    """Text that is no reference, digest or source."""

    code = "invalid_reference"


class FormatError(AdaptrixError):
    """Input that cannot be read, or is not what it claims to be."""

    code = "invalid_input"
    exit_status = 2


class Refused(AdaptrixError):
    """Input that was recognised and cannot be converted exactly."""

    code = "refused"


class IncompatibleAdapter(AdaptrixError):
    """An adapter that does not fit a base model or another adapter."""

    code = "incompatible"


class IntegrityError(AdaptrixError):
    """Bytes that are not what was announced."""

    code = "integrity"


class StoreError(AdaptrixError):
    """The store could not do what was asked; what it holds is unharmed."""

    code = "store"


class Inconclusive(AdaptrixError):
    """A check that could not be carried out."""

    code = "inconclusive"
    exit_status = 3


class AccessDenied(AdaptrixError):
    """Authentication or permission is missing."""

    code = "access_denied"
    exit_status = 4


class NotFound(AdaptrixError):
    """No such reference, repository, revision or file."""

    code = "not_found"
    exit_status = 5


class RemoteError(AdaptrixError):
    """The network, a remote server, or the offline switch is in the way."""

    code = "network"
    exit_status = 6
    temporary = True


class PolicyRefused(AdaptrixError):
    """Refused by policy: an unsafe file, a limit, a signature."""

    code = "policy"
    exit_status = 7


class Interrupted(AdaptrixError):
    """Stopped by the user; the store is consistent."""

    code = "interrupted"
    exit_status = 130

"""One client of the soak: pulls, composes, tags, removes, collects and pushes at random.

Prints one line per version that it named and expects to stay: ``kept NAME DIGEST``.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from adaptrix.registry.registry import Registry
from adaptrix.schema.errors import AdaptrixError, NotFound
from adaptrix.store.faults import StoreBusy
from adaptrix.store.references import ReferenceConflict

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"
EXPECTED = (ReferenceConflict, StoreBusy, NotFound)


def step(registry: Registry, dice: random.Random, own: str) -> None:
    """One random command."""
    chosen = dice.choices(
        ("pull", "compose", "tag", "rm", "gc", "push", "own"), (4, 3, 2, 2, 2, 1, 3)
    )[0]
    name = dice.choice(("math", "code"))
    if chosen == "pull":
        registry.pull(str(SAMPLES / name), name=name)
    elif chosen == "compose":
        weights = [("math", dice.choice((0.25, 0.5, 1.0))), ("code", dice.choice((0.25, 1.0)))]
        registry.compose(weights, output=f"mix{dice.randrange(3)}")
    elif chosen == "tag":
        registry.tag(name, f"t{dice.randrange(3)}")
    elif chosen == "rm":
        registry.rm(f"mix{dice.randrange(3)}")
    elif chosen == "gc":
        # No grace: whatever is not reached at this moment goes.
        registry.home.gc(grace_s=0.0, reflog_s=0.0)
    elif chosen == "push":
        registry.push(name, "share", force=True)
    else:
        registry.compose([("math", 1.0), ("code", 0.5)], output=own)
        print(f"kept {own} {registry.digest(own)}", flush=True)


def main() -> None:
    home, number, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    dice, end, done = random.Random(number), time.monotonic() + seconds, 0
    with Registry(home) as registry:
        while time.monotonic() < end:
            try:
                step(registry, dice, f"own{number}")
            except EXPECTED:
                pass
            except AdaptrixError as error:
                print(f"failed {error.code} {error}", flush=True)
            done += 1
    print(f"steps {done}", flush=True)


if __name__ == "__main__":
    main()

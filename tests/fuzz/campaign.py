"""The long form: coverage-guided, one target after the other. ``make fuzz`` runs it.

python tests/fuzz/campaign.py TARGET SECONDS CORPUS_FOLDER
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["adaptrix.convert"]):
    sys.path.insert(0, str(Path(__file__).parent))
    import targets

MOST_MEMORY_MB = 1536
SLOWEST_S = 10


def main() -> None:
    """Fuzz one target for some seconds; what it finds stays in the corpus folder."""
    target, seconds, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) / sys.argv[1]
    folder.mkdir(parents=True, exist_ok=True)
    for seed in targets.seeds(target):
        (folder / hashlib.sha256(seed).hexdigest()).write_bytes(seed)

    def one(data: bytes) -> None:
        targets.attempt(target, data)

    options = [
        f"-max_total_time={seconds}", f"-rss_limit_mb={MOST_MEMORY_MB}", f"-timeout={SLOWEST_S}",
        "-max_len=16384", "-print_final_stats=1", f"-artifact_prefix={folder}-", str(folder),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

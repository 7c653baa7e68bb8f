"""A folder of adapters, one row each: what it is, how exactly it converts, and the verdict.

python tests/corpus/table.py CORPUS     (``make corpus ADAPTRIX_CORPUS=…``)

``CORPUS/adapters/<id>/`` holds adapters, ``CORPUS/configs/`` PEFT configurations; both are
optional, and a folder that has neither is taken for the adapters themselves. A folder of
several adapters has a row for each of its files. Nothing that is in there stops the table.
"""

from __future__ import annotations

import collections
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptrix.cli.output import clean, table
from adaptrix.convert.contents import read_json
from adaptrix.convert.formats.peft_config import PeftConfig, parse_config
from adaptrix.convert.formats.peft_scale import Settings
from adaptrix.convert.reading import Reading, read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource, open_path
from adaptrix.hub.selection import select_adapter_files
from adaptrix.schema.adapter import Scale
from adaptrix.schema.errors import AdaptrixError
from adaptrix.schema.problems import PROBLEM_CODES
from adaptrix.schema.report import Verdict

HEADER = ("adapter", "format", "method", "family", "p", "base", "modules", "fidelity", "verdict",
          "because")  # fmt: skip
SEVERAL = "multiple_adapters"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One adapter."""

    name: str
    format: str = "-"
    method: str = "-"
    family: str = "-"
    confidence: float | None = None
    base: str = "-"
    modules: int = 0
    fidelity: str = "-"
    verdict: str = "-"
    because: str = ""

    def cells(self) -> tuple[str, ...]:
        sure = "" if self.confidence is None else f"{self.confidence:.2f}"
        found = (self.name, self.format, self.method, self.family, sure, self.base[:36],
                 str(self.modules), self.fidelity, self.verdict, self.because)  # fmt: skip
        return tuple(clean(cell) for cell in found)


def rows(folder: Path) -> Iterator[Row]:
    """One row for every adapter in ``folder``; what cannot be read has its reason in one."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        found = row(path, path.name)
        if found.because.startswith(SEVERAL) and path.is_dir():
            for file in _weights(path):
                yield row(file, str(file.relative_to(folder)))
        else:
            yield found


def _weights(folder: Path) -> list[Path]:
    sizes = {
        p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()
    }
    wanted = select_adapter_files(sizes).wanted
    suffixes = (".json", ".md", ".yaml", ".yml")
    return [folder / name for name in wanted if not name.lower().endswith(suffixes)]


def row(path: Path, name: str) -> Row:
    """What one source is."""
    try:
        return _of(read(path), name)
    except AdaptrixError as error:
        return Row(name=name, verdict="FAIL", because=f"{error.code}: {error}")
    except Exception as error:  # one bad adapter must not hide the others
        traceback.print_exc()
        return Row(name=name, verdict="CRASH", because=f"{type(error).__name__}: {error}")


def read(path: Path) -> Reading:
    """The source as ``inspect`` and ``pull`` see it."""
    opened = open_path(path)
    sizes = {name: source.size_bytes for name, source in opened.files.items()}
    chosen = {name: opened.files[name] for name in select_adapter_files(sizes).wanted}
    return read_adapter(AdapterFiles(location=str(path), files=chosen or opened.files))


def _of(reading: Reading, name: str) -> Row:
    found = reading.inspection
    known = ", ".join(found.base_model.matches[:2])
    wrong = [p for p in found.problems if PROBLEM_CODES[p.code].outcome == "FAIL"]
    said = wrong or [p for p in found.problems if PROBLEM_CODES[p.code].outcome]
    reason = f"{said[0].code}: {said[0].message}. {said[0].hint}".strip() if said else ""
    show = found.verdict is not Verdict.PASS
    return Row(
        name=name,
        format=found.format.name,
        method=found.format.method,
        family=found.architecture.family,
        confidence=found.architecture.confidence,
        base=found.base_model.declared or (f"({known})" if known else "-"),
        modules=len(found.modules),
        fidelity=str(found.fidelity),
        verdict=str(found.verdict),
        because=reason if show else "",
    )


@dataclass(frozen=True, kw_only=True)
class ConfigRow:
    """One configuration: the scale of each module that it names, or why it has none."""

    name: str
    method: str
    scales: dict[str, float]
    problems: tuple[str, ...] = ()


def config_row(path: Path) -> ConfigRow:
    """Parse one ``adapter_config.json``."""
    document = read_json(MemorySource(path.name, path.read_bytes()))
    config, problems = parse_config(document)
    scales = scales_of(config, document)
    return ConfigRow(
        name=path.name,
        method=config.peft_type.lower(),
        scales=scales,
        problems=tuple(f"{p.code}: {p.message}" for p in problems if p.severity == "error"),
    )


def scales_of(config: PeftConfig, document: dict) -> dict[str, float]:
    """Scale by what the configuration names: targets and the keys of its patterns."""
    targets = document.get("target_modules") or []
    named = [targets] if isinstance(targets, str) else list(targets)
    if isinstance(document.get("lora_parameters"), dict):
        return _mlx_scales(document["lora_parameters"])
    named += [key for key in (*config.rank_pattern, *config.alpha_pattern) if key not in named]
    settings = Settings(config)
    found = {}
    for target in named or ["(default of the model)"]:
        setting = settings.new(target)
        if setting.rank and setting.alpha is not None:
            scale = Scale.from_alpha(setting.alpha, setting.rank, rslora=config.rslora)
            found[target] = scale.value
    return found


def _mlx_scales(parameters: dict) -> dict[str, float]:
    """MLX-LM's scale is absolute, and one for all modules."""
    keys = parameters.get("keys") or ["(every linear module of the last layers)"]
    scale = parameters.get("scale")
    return {} if scale is None else {key: float(scale) for key in keys}


def _print_adapters(folder: Path) -> int:
    started = time.perf_counter()
    found = list(rows(folder))
    print("\n".join(table(HEADER, (entry.cells() for entry in found))))
    verdicts = collections.Counter(entry.verdict for entry in found)
    fidelities = collections.Counter(entry.fidelity for entry in found)
    print(
        f"\n{len(found)} adapters: {_counts(verdicts)}; fidelity {_counts(fidelities)}; "
        f"{sum(entry.modules for entry in found)} modules; {time.perf_counter() - started:.1f} s"
    )
    return verdicts["CRASH"] + sum(entry.format == "unknown" for entry in found)


def _print_configurations(folder: Path) -> int:
    found, failed = [], 0
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(config_row(path))
        except Exception as error:
            failed += 1
            print(f"{path.name}: {type(error).__name__}: {error}")
    lora = [entry for entry in found if entry.scales]
    per_scale = collections.Counter(
        f"{scale:g}" for entry in lora for scale in entry.scales.values()
    )
    methods = collections.Counter(entry.method for entry in found)
    print(
        f"\n{len(found)} configurations parse, {failed} do not: {_counts(methods)}\n"
        f"{len(lora)} give a scale to {sum(len(entry.scales) for entry in lora)} modules: "
        f"{_counts(per_scale)}"
    )
    for entry in found:
        if entry.problems or (not entry.scales and entry.method == "lora"):
            reason = "; ".join(entry.problems) or "says neither rank nor alpha"
            print(clean(f"  {entry.name}: {reason}"[:160]))
    others = collections.Counter(entry.method for entry in found if not entry.scales)
    print(f"without a scale by their method: {_counts(others)}")
    return failed


def _counts(counter: collections.Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())


def main() -> None:
    """Print the table; status 1 when anything crashed or is unknown."""
    root = Path(sys.argv[1])
    adapters, configs = root / "adapters", root / "configs"
    wrong = _print_adapters(adapters if adapters.is_dir() else root)
    if configs.is_dir():
        wrong += _print_configurations(configs)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

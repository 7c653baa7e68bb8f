"""Reports as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from adaptrix.cli.output import size_text, table

if TYPE_CHECKING:
    from adaptrix.registry.reports import Row, ShowReport
    from adaptrix.schema.report import Inspection

MODULES_SHOWN = 8


def inspection_lines(found: Inspection) -> Iterator[str]:
    """What ``inspect`` prints."""
    arch, base = found.architecture, found.base_model
    layers = f"{found.layers[0]}-{found.layers[-1]}" if found.layers else "none"
    account = found.tensors
    yield f"{found.source}: {found.verdict}"
    yield f"  format       {found.format.name} ({found.format.method})"
    yield f"  architecture {arch.family}, layout {arch.layout}, confidence {arch.confidence:.3f}"
    others = [c for c in arch.candidates if c.family != arch.family]
    if others:
        yield "  else         " + ", ".join(f"{c.family} {c.probability:.3f}" for c in others[:4])
    yield f"  base         declared {base.declared or 'none'}; fits {', '.join(base.matches) or '-'}"
    yield (
        f"  layers       {layers}; {len(found.modules)} modules, {found.parameters} parameters, "
        f"{size_text(found.bytes)}, {', '.join(found.dtypes)}"
    )
    yield (
        f"  tensors      {account.total}: {account.used} used, {len(account.ignored)} ignored, "
        f"{len(account.unknown)} unknown"
    )
    yield f"  convertible  {'yes' if found.convertible else 'no'} ({found.fidelity})"
    for module in found.modules[:MODULES_SHOWN]:
        scale = "?" if module.scale is None else f"{module.scale:g}"
        yield (
            f"    {module.path}  {module.in_features} -> {module.out_features}  "
            f"r={module.rank} scale={scale}"
        )
    if len(found.modules) > MODULES_SHOWN:
        yield f"    … {len(found.modules) - MODULES_SHOWN} more (--json lists them all)"
    for text in (*found.format.evidence, *arch.evidence):
        yield f"  because      {text}"


def row_lines(rows: Sequence[Row]) -> list[str]:
    """What ``ls`` and ``search`` print."""
    if not rows:
        return []
    cells = [
        (
            row.reference,
            row.digest.short,
            row.family,
            row.format,
            ",".join(map(str, row.ranks)),
            row.modules,
            size_text(row.bytes),
            row.verdict or "-",
            row.description[:40],
        )
        for row in rows
    ]
    header = (
        "NAME",
        "DIGEST",
        "FAMILY",
        "FROM",
        "RANK",
        "MODULES",
        "SIZE",
        "VERDICT",
        "DESCRIPTION",
    )
    return table(header, cells)


def show_lines(report: ShowReport) -> Iterator[str]:
    """What ``show`` prints."""
    record = report.manifest.record
    yield f"{report.reference}  {report.digest}"
    ranks = sorted({module.rank for module in record.modules})
    fields = {
        "description": record.description,
        "domain": record.domain,
        "capabilities": ", ".join(record.capabilities),
        "training data": record.training_data,
        "licence": record.license,
        "family": record.family,
        "base": f"{record.base.name} {record.base.revision}".strip(),
        "method": f"{record.method}, rank {', '.join(map(str, ranks))}",
        "modules": str(len(record.modules)),
        "parameters": str(record.parameters),
        "tensors digest": str(record.tensors_digest),
        "source": f"{record.source.kind} {record.source.repository} {record.source.commit}".strip(),
        "replaces": ", ".join(record.replaced),
    }
    for name, value in fields.items():
        if value:
            yield f"  {name:15} {value}"
    if record.conversion is not None:
        done = record.conversion
        yield f"  {'conversion':15} {done.format}/{done.layout}, {done.fidelity}, {done.verdict}"
    for parent in record.parents:
        weight = "" if parent.weight is None else f" weight {parent.weight:g}"
        yield f"  {'parent':15} {parent.digest} {parent.role}{weight} {parent.name}".rstrip()
    for layer in report.manifest.layers:
        name = layer.annotations["org.cncf.model.filepath"]
        yield f"  {'file':15} {name} {size_text(layer.size_bytes)} {layer.digest}"
    if report.card:
        yield ""
        yield from report.card.splitlines()

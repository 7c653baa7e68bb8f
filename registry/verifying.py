"""Verify: every claim of a manifest, computed again from the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from adaptrix.convert.base_weights import base_weights_of
from adaptrix.convert.reading import Reading, ReadOptions, read_adapter
from adaptrix.convert.source import open_path
from adaptrix.convert.writing import tensors_digest
from adaptrix.registry.looking import manifest_files, open_version
from adaptrix.registry.merged import check_merged
from adaptrix.registry.reports import VerifyReport
from adaptrix.registry.requests import PullRequest, base_config_digest, read_options
from adaptrix.registry.resolve import resolve
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.digest import Digest
from adaptrix.schema.errors import AdaptrixError, UsageError
from adaptrix.schema.manifest import Manifest
from adaptrix.schema.record import AdapterRecord, module_records
from adaptrix.schema.report import Problem, Verdict, verdict_of
from adaptrix.store.home import Home


@dataclass(slots=True)
class _Findings:
    checks: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def require(self, claim: str, *, holds: bool, wanted: object, got: object) -> None:
        """Note a claim and whether it holds."""
        self.checks.append(claim)
        if not holds:
            self.problems.append(
                Problem.of("claim_broken", f"expected {wanted}, got {got}", where=claim)
            )


def verify(home: Home, text: str, *, base: str | None, merged: Path | None) -> VerifyReport:
    """See :meth:`Registry.verify`."""
    reference, digest = resolve(home, text)
    options = ReadOptions()
    if base is not None:
        options = read_options(PullRequest(source=reference, base=base))
    weights = options.base_weights() if merged is not None and options.base_weights else None
    if merged is not None and weights is None:
        raise UsageError(
            "a merged model is compared with the base's weights",
            where="--merged",
            hint="Pass --base FOLDER, one with its *.safetensors.",
        )
    report = verify_manifest(home, home.manifest(digest), digest, reference, options)
    if merged is None or weights is None or report.verdict is Verdict.FAIL:
        return report
    found = check_merged(
        open_version(home, reference).adapter, weights, base_weights_of(open_path(merged))
    )
    problems = (*report.problems, *found.problems)
    return replace(
        report,
        verdict=verdict_of(problems),
        checks=(*report.checks, *(f"merged {name}" for name in found.checks)),
        problems=problems,
    )


def verify_manifest(
    home: Home, manifest: Manifest, digest: Digest, reference: str, options: ReadOptions
) -> VerifyReport:
    """Compute every claim of a manifest again, whose files are in the store.

    Args:
        home: The store.
        manifest: The version.
        digest: Digest of its manifest.
        reference: Its name, for messages.
        options: How to read it.
    """
    found = _Findings()
    _check_blobs(home, manifest, found)
    if not found.problems:
        files = manifest_files(home, manifest, reference)
        reading = read_adapter(files, replace(options, carry=True))
        _check_reading(reading, manifest.record, found)
        _check_base(manifest.record, base_config_digest(options), found)
    return VerifyReport(
        reference=reference,
        digest=digest,
        verdict=verdict_of(found.problems),
        checks=tuple(found.checks),
        problems=tuple(found.problems),
    )


def _check_blobs(home: Home, manifest: Manifest, found: _Findings) -> None:
    for layer in manifest.layers:
        try:
            got: object = home.blobs.rehash(layer.digest)
        except AdaptrixError as error:
            got = error
        found.require(
            f"file {layer.digest}", holds=got == layer.digest, wanted=layer.digest, got=got
        )


def _check_reading(reading: Reading, record: AdapterRecord, found: _Findings) -> None:
    found.problems += reading.inspection.problems
    if reading.adapter is None:
        return
    for claim, wanted, got in _claims(record, reading.adapter):
        found.require(claim, holds=wanted == got, wanted=wanted, got=got)


def _check_base(record: AdapterRecord, given: Digest | None, found: _Findings) -> None:
    claimed = record.base.config_digest
    if claimed is not None and given is not None:
        found.require("base configuration", holds=claimed == given, wanted=claimed, got=given)


def _claims(record: AdapterRecord, adapter: Adapter) -> Iterator[tuple[str, object, object]]:
    yield "tensors digest", record.tensors_digest, tensors_digest(adapter)
    yield "parameters", record.parameters, adapter.parameter_count
    again_records = module_records(adapter)
    yield "modules", len(record.modules), len(again_records)
    for wanted, got in zip(record.modules, again_records, strict=False):
        shapes = (wanted.path, wanted.in_features, wanted.out_features, wanted.rank)
        again = (got.path, got.in_features, got.out_features, got.rank)
        yield f"{wanted.path} shape", shapes, again
        yield f"{wanted.path} scale", wanted.scale, got.scale

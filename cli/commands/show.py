"""Show a version in full."""

from __future__ import annotations

from adaptrix.cli.options import HomeOption, JsonFlag, QuietFlag, ReferenceArgument
from adaptrix.cli.output import Output
from adaptrix.cli.rendering import show_lines


def show(
    reference: ReferenceArgument,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show card, provenance, licence, lineage and digests of a version.

    Example: adaptrix show math
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        report = registry.show(reference)
    document = {
        "reference": report.reference,
        "digest": report.digest,
        "record": report.manifest.record,
        "files": [layer.to_json() for layer in report.manifest.layers],
        "card": report.card,
    }
    Output(as_json=as_json, quiet=quiet).document(
        document, lines=show_lines(report), ids=[str(report.digest)]
    )

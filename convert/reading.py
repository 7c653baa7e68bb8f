"""From files to one canonical adapter, or to the reason why not.

Content decides: containers are opened, the configuration parsed, every format asked how
well it explains what is there. The best one takes the keys apart; then names become those
of the current class, and everything is checked. ``total == used + ignored + unknown``
always holds, and ``adapter`` is None exactly when something stands in the way. Stable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from adaptrix.convert.architecture.base import named_base
from adaptrix.convert.architecture.detect import (
    UNKNOWN,
    Detection,
    detect,
)
from adaptrix.convert.architecture.dimensions import Dimensions, dimensions_of
from adaptrix.convert.architecture.families import family_named
from adaptrix.convert.architecture.fit import Fit, check_fit
from adaptrix.convert.architecture.known_bases import config_of, known_base
from adaptrix.convert.checks import check_structure, check_values
from adaptrix.convert.claimed import claims_of, observations_of
from adaptrix.convert.contents import Contents, gather
from adaptrix.convert.diffusion.detection import detect_diffusion
from adaptrix.convert.draft import Draft, Format, Recognition, refuse
from adaptrix.convert.formats import FORMATS
from adaptrix.convert.formats.peft_config import parse_config
from adaptrix.convert.formats.peft_methods import method_problem
from adaptrix.convert.formats.recognised import is_sharded_state
from adaptrix.convert.inspecting import inspection_of
from adaptrix.convert.layouts.current import family_of_names
from adaptrix.convert.layouts.heads import experts_of, heads_of
from adaptrix.convert.layouts.naming import Named, canonical_names
from adaptrix.convert.modules import adapted_modules
from adaptrix.convert.options import SOURCE_LAYOUTS, ReadOptions
from adaptrix.convert.source import AdapterFiles
from adaptrix.convert.training_state import accounted, without_state
from adaptrix.convert.writers.heads import HEADS, KV_HEADS
from adaptrix.convert.writers.peft_experts import EXPERTS
from adaptrix.schema.adapter import Adapter
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import (
    AdaptrixError,
    FormatError,
    IncompatibleAdapter,
    Refused,
    UsageError,
)
from adaptrix.schema.problems import PROBLEM_CODES, Severity
from adaptrix.schema.report import Candidate, Fidelity, FormatReport, Inspection, Problem

__all__ = ["SOURCE_LAYOUTS", "ReadOptions", "Reading", "read_adapter", "refusal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one source is.

    Attributes:
        inspection: The full report.
        adapter: The canonical adapter; None exactly when ``inspection.convertible`` is False.
    """

    inspection: Inspection
    adapter: Adapter | None


def read_adapter(files: AdapterFiles, options: ReadOptions = ReadOptions()) -> Reading:  # noqa: B008
    """Recognise, read, check.

    Raises:
        FormatError: bytes that cannot be read.
        PolicyRefused: bytes that must not be trusted.
    """
    options = _with_known_base(options)
    contents, state = without_state(gather(files))
    chosen = _choose(contents)
    if chosen is None:
        report, draft = _nothing(contents)
    else:
        form, recognition = chosen
        draft = _read(form, contents, options)
        report = FormatReport(name=form.name, method=draft.method, evidence=recognition.evidence)
    draft = accounted(draft, state)
    if contents.ignored_files:
        message = f"left aside: {', '.join(contents.ignored_files[:8])}"
        draft = _with(draft, [Problem.of("ignored_files", message)])
    if contents.beside and draft.factors:
        message = f"other weights stand beside the adapter's: {', '.join(contents.beside[:8])}"
        draft = _with(draft, [Problem.of("weights_beside", message, where=contents.beside[0])])
    return _finish(files.location, report, draft, options, contents.config or {})


def refusal(reading: Reading) -> AdaptrixError:
    """The error for a reading without an adapter, with its code, hint and exit status."""
    problems = [p for p in reading.inspection.problems if PROBLEM_CODES[p.code].stops]
    if not problems:
        return Refused("nothing stands in the way", where=reading.inspection.source)
    # What is known to be wrong comes before what could be answered.
    problems.sort(key=lambda p: PROBLEM_CODES[p.code].outcome != "FAIL")
    first, spec = problems[0], PROBLEM_CODES[problems[0].code]
    kind: type[AdaptrixError] = Refused
    if first.code == "wrong_base":
        kind = IncompatibleAdapter
    elif spec.status == FormatError.exit_status:
        kind = UsageError if spec.outcome == "INCONCLUSIVE" else FormatError
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    where = first.where or reading.inspection.source
    return kind(first.message + more, where=where, hint=first.hint, code=first.code)


def _with_known_base(options: ReadOptions) -> ReadOptions:
    """A base that is named but not at hand still has known dimensions."""
    base = known_base(options.base_name or "")
    if options.base_config is not None or base is None:
        return options
    return replace(options, base_config=config_of(base), base_is_complete=False)


def _choose(contents: Contents) -> tuple[Format, Recognition] | None:
    best: tuple[Format, Recognition] | None = None
    if not contents.tensor_files and (contents.config is None or contents.foreign):
        return None
    for form in FORMATS:
        found = form.recognise(contents)
        if found is not None and (best is None or found.score > best[1].score):
            best = (form, found)
    return best


def _read(form: Format, contents: Contents, options: ReadOptions) -> Draft:
    if not contents.tensor_files:
        return _without_weights(form, contents)
    if contents.missing_shards:
        names = ", ".join(contents.missing_shards[:4])
        message = f"{len(contents.missing_shards)} shards are missing: {names}"
        problem = Problem.of("sharded_state", message, hint="Fetch all shards of the file.")
        return refuse(contents, method="lora", problems=(problem,), reason="one of several shards")
    if not form.several_files and not contents.is_one_state:
        names = ", ".join(file.name for file in contents.tensor_files[:8])
        problem = Problem.of("multiple_adapters", f"several weight files: {names}")
        if is_sharded_state(contents):
            problem = Problem.of("sharded_state", f"parts of a training state: {names}")
        return refuse(contents, method="lora", problems=(problem,), reason="several adapters")
    return form.read(contents, options)


def _without_weights(form: Format, contents: Contents) -> Draft:
    config, problems = parse_config(contents.config if form.name == "peft" else None)
    missing = Problem.of("missing_weights", "a configuration without a weight file")
    refused = method_problem(contents, config)
    method = config.peft_type.lower() if form.name == "peft" else "lora"
    found = (*([refused] if refused else []), missing, *problems)
    return refuse(contents, method=method, problems=found, reason="", base_name=config.base_name)


def _elsewhere(folders: Sequence[str]) -> Problem:
    if len(folders) == 1:
        message, hint = f"only folder {folders[0]} holds weights", f"Give {folders[0]} itself."
        return Problem.of("multiple_adapters", message, hint=hint)
    message = f"folders {', '.join(folders[:8])} each hold weights"
    return Problem.of("multiple_adapters", message)


def _nothing(contents: Contents) -> tuple[FormatReport, Draft]:
    name = method = UNKNOWN
    evidence: tuple[str, ...] = ()
    if contents.alternatives:
        problem = _elsewhere(contents.alternatives)
    elif contents.tensor_files:
        first = next(iter(contents.tensors))
        message = f"{len(contents.tensors)} tensors that no known format explains, first {first}"
        problem = Problem.of("not_an_adapter", message)
    elif contents.foreign:
        first_foreign = contents.foreign[0]
        name, method = first_foreign.kind.name, first_foreign.kind.method
        problem, evidence = first_foreign.problem(), (f"{first_foreign.name} is a container of it",)
    elif contents.config is not None:
        problem = Problem.of("missing_weights", "a configuration without a weight file")
    elif contents.ignored_files:
        name = method = "training-state"
        evidence = (f"files of a training run: {', '.join(contents.ignored_files[:4])}",)
        message = "only the state of a training run, and no weights of an adapter"
        problem = Problem.of("not_an_adapter", message, where=contents.ignored_files[0])
    else:
        problem = Problem.of("not_an_adapter", "no weight file and no adapter_config.json")
    draft = Draft(
        method=method,
        total=len(contents.tensors),
        unknown=tuple(contents.tensors),
        problems=(problem,),
    )
    return FormatReport(name=name, method=method, evidence=evidence), draft


def _finish(
    location: str,
    report: FormatReport,
    draft: Draft,
    options: ReadOptions,
    config: Mapping[str, Json],
) -> Reading:
    """Detect, rename, check, and build the adapter when nothing stands in the way."""
    draft = _with(draft, check_structure(draft))
    claims = claims_of(draft, config, options)
    seen = observations_of(draft)
    diffusion = detect_diffusion([o for o in seen if not o.saved], draft.architecture)
    detection = diffusion or _settled(detect(seen, claims), draft, options)
    detection = _as_decided(_as_stated(detection, draft, options), options)
    stopped = _stops(draft.problems)
    sound = not any(p.code in _BROKEN for p in draft.problems)
    family = "phi" if options.phi_layout and detection.family == UNKNOWN else detection.family
    sizes = dimensions_of(options.base_config) if options.base_config else Dimensions()
    named = canonical_names(draft, family, sizes, options) if sound else _as_found(draft)
    fit = Fit(compatible=None)
    if sound and draft.factors:
        fit = check_fit(named.factors, named.replacements, family, draft.base_name, options)
    draft = _with(draft, [*named.problems, *fit.problems, *_family_problem(draft, detection)])
    if not named.exact and draft.fidelity is Fidelity.EXACT:
        draft = replace(draft, fidelity=Fidelity.ROUNDING)
    draft = _with(draft, _empty(draft))
    if not stopped and (draft.factors or draft.carried):
        draft = _with(draft, _values(draft, options))
    modules = adapted_modules(named.factors, family, fan_in_fan_out=draft.fan_in_fan_out)
    adapter = None
    if not _stops(draft.problems):
        adapter = Adapter(
            modules=modules,
            replacements=named.replacements,
            family="" if family == UNKNOWN else family,
            base_name=draft.base_name,
            base_revision=named.base_revision,
            format=report.name,
            layout=named.layout,
            method=draft.method,
            task_type=named.task_type or ("" if diffusion else _task(draft, report.name)),
            needs_base=draft.needs_base,
            carried=draft.carried,
            extra=named.extra | _counts(family, options.base_config),
        )
    inspection = inspection_of(
        source=location,
        report=report,
        draft=draft,
        named=named,
        modules=modules,
        detection=detection,
        fit=fit,
        adapter=adapter,
    )
    return Reading(inspection=inspection, adapter=adapter)


def _task(draft: Draft, format_name: str) -> str:
    """PEFT's files may name none, for a model of any kind; other formats are of decoders."""
    return "" if format_name == "peft" and not draft.task_type else "CAUSAL_LM"


def _counts(family: str, config: Mapping[str, Json] | None) -> dict[str, Json]:
    """Heads and experts of ``--base``: some formats count by them, and no adapter has them."""
    if config is None:
        return {}
    found = heads_of(family, dimensions_of(config), config)
    counts = {HEADS: found.heads, KV_HEADS: found.groups, EXPERTS: experts_of(config)}
    return {name: count for name, count in counts.items() if count is not None}


_BROKEN = {"invalid_rank", "sharded_state", "shape_mismatch", "rank_mismatch"}
"""Problems after which shapes mean nothing: no renaming, no comparison with a base."""


def _settled(detection: Detection, draft: Draft, options: ReadOptions) -> Detection:
    """``--base`` names the family of modules that no vocabulary has."""
    model_type = str((options.base_config or {}).get("model_type", ""))
    known = family_named(model_type)
    if detection.family != UNKNOWN or not model_type or known is not None or not draft.factors:
        return detection
    return replace(
        detection,
        family=model_type,
        confidence=0.5,
        candidates=(Candidate(family=model_type, probability=0.5),),
    )


def _as_stated(detection: Detection, draft: Draft, options: ReadOptions) -> Detection:
    """``--base`` decides where the names are its old ones, or a relative's."""
    stated = str((options.base_config or {}).get("model_type", ""))
    declared = named_base(options, draft.base_name).family
    paths = [f.path for f in draft.factors]
    family = family_of_names(detection.family, stated, paths, declared=declared)
    if family == detection.family:
        return detection
    others = tuple(c for c in detection.candidates if c.family != family)
    first = Candidate(family=family, probability=detection.confidence or 0.5)
    return replace(
        detection,
        family=family,
        confidence=first.probability,
        candidates=(first, *others) if not detection.confidence else (first,),
    )


def _as_decided(detection: Detection, options: ReadOptions) -> Detection:
    """A stored version keeps the family that ``--base`` or its source gave it when pulled."""
    decided = options.decided
    if decided is None or options.base_config is not None or decided.family == detection.family:
        return detection
    return replace(
        detection,
        family=decided.family,
        confidence=decided.probability,
        candidates=(decided,),
        evidence=(*detection.evidence, f"pulled as {decided.family}"),
    )


def _as_found(draft: Draft) -> Named:
    return Named(
        layout=draft.layout or "transformers",
        factors=draft.factors,
        replacements=draft.replacements,
        extra=dict(draft.extra),
        base_revision=draft.base_revision,
        task_type=draft.task_type,
    )


def _family_problem(draft: Draft, detection: Detection) -> list[Problem]:
    if not draft.factors or detection.family != UNKNOWN:
        return []
    likely = ", ".join(f"{c.family} {c.probability:.2f}" for c in detection.candidates[:4])
    message = f"the modules fit several families: {likely}" if likely else "no known family"
    return [Problem.of("unknown_family", message)]


def _empty(draft: Draft) -> list[Problem]:
    """A source that was read and holds no pair of factors."""
    if draft.factors or draft.carried or _stops(draft.problems):
        return []
    return [Problem.of("not_an_adapter", "no pair of LoRA factors")]


def _values(draft: Draft, options: ReadOptions) -> tuple[Problem, ...]:
    if options.check_values:
        return check_values(draft)
    return (Problem.of("unchecked_values", "values were not read"),)


def _stops(problems: Iterable[Problem]) -> bool:
    return any(p.severity is Severity.ERROR and PROBLEM_CODES[p.code].stops for p in problems)


def _with(draft: Draft, problems: Iterable[Problem]) -> Draft:
    return replace(draft, problems=(*draft.problems, *problems))

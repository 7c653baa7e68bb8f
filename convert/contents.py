"""The content of a source: which of its files is the adapter, opened, and its configuration.

Files are chosen by name only where tools agree on names (PEFT prefers
``adapter_model.safetensors`` to ``.bin``); what they are is told from their bytes. Nothing
is dropped in silence: files that were left aside are listed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from adaptrix.convert.container import open_container
from adaptrix.convert.foreign import ForeignFile, foreign_files
from adaptrix.convert.sidecars import read_settings
from adaptrix.convert.source import AdapterFiles, ByteSource
from adaptrix.convert.tar_file import is_tar, tar_members
from adaptrix.convert.tensor_file import TensorFile
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError
from adaptrix.schema.tensor import LazyTensor

CONFIG_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 16 << 20
_MAX_JSON_DEPTH = 64
_PREFERRED = (
    "adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt",
    "adapters.safetensors", "adapters.npz", "adapter.safetensors", "pytorch_adapter.bin",
    "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "lit_model.pth.lora",
)  # fmt: skip
"""Names that tools look for, the first one wins; the others in the folder are left aside."""
_WEIGHT_SUFFIXES = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".npz", ".lora", ".nemo",
}  # fmt: skip
_TRAINING_STATE = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state[_0-9]*)\.(bin|pt|pth)"
)
_CHECKPOINT = re.compile(r"(checkpoint-?\d+|global_step\d+|runs|logs)", re.IGNORECASE)
_INITIAL = re.compile(r"(?:.*[_\-.])?init(?:ial)?(?:[_\-.].*)?", re.IGNORECASE)
"""Folders in which a run keeps the factors that it began with (``pissa_init``)."""
_RESIDUAL_INIT = ("pissa", "olora", "corda", "lora_ga")
_NUMBERED = re.compile(r"\d{5,}_adapters\.(safetensors|npz)")
_INDEX_SUFFIX = (".safetensors.index.json", ".bin.index.json")
MAX_SHARDS = 1024
_SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a source holds.

    Attributes:
        location: Where it is, as the user wrote it.
        tensor_files: Opened weight files.
        tensors: All their tensors; with several files, names are ``file:name``.
        config: Parsed ``adapter_config.json``, or None.
        settings: Scalars of YAML files beside the weights, as ``file:dotted.name``.
        foreign: Files in containers of other tools, which are not read here.
        ignored_files: Weight files that were left aside.
        alternatives: Folders that each hold an adapter, when there is no telling which.
        missing_shards: Files that belong to the same state and are not there.
        initial: Tensors of the initial adapter of PiSSA and its like, saved in a folder beside.
        indexed: Whether an index says that the files are one state.
    """

    location: str
    tensor_files: tuple[TensorFile, ...]
    tensors: Mapping[str, LazyTensor]
    config: Mapping[str, Json] | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    foreign: tuple[ForeignFile, ...] = ()
    ignored_files: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    missing_shards: tuple[str, ...] = ()
    initial: Mapping[str, LazyTensor] = field(default_factory=dict)
    indexed: bool = False

    @property
    def metadata(self) -> Mapping[str, Json]:
        """Metadata of the weight file, when there is exactly one."""
        return self.tensor_files[0].metadata if len(self.tensor_files) == 1 else {}

    @property
    def kinds(self) -> frozenset[str]:
        """Container kinds: ``safetensors``, ``pickle``, ``gguf``, ``npz``."""
        return frozenset(file.kind for file in self.tensor_files)

    @property
    def beside(self) -> tuple[str, ...]:
        """Weights left aside that are neither a run's state nor the chosen ones once more."""
        stems = {PurePosixPath(file.name).stem for file in self.tensor_files}
        names = [(name, PurePosixPath(name)) for name in self.ignored_files]
        return tuple(
            name
            for name, path in names
            if path.stem not in stems
            and not _TRAINING_STATE.fullmatch(path.name)
            and not _NUMBERED.fullmatch(path.name)
        )

    @property
    def is_one_state(self) -> bool:
        """Whether the files are one state dict: a single file or a complete set of shards."""
        names = [file.name for file in self.tensor_files]
        return self.indexed or len(names) <= 1 or not _missing(names)


def gather(files: AdapterFiles) -> Contents:
    """Choose, open and parse the files of one adapter.

    Raises:
        FormatError: a chosen file or the configuration cannot be read.
        PolicyRefused: reading it would not be safe.
    """
    names = sorted(files.files)
    if files.folders:
        return Contents(
            location=files.location, tensor_files=(), tensors={}, alternatives=files.folders
        )
    if len(names) == 1:
        return _single(files, names[0])
    folders = _folders(names)
    if len(folders) > 1:
        return Contents(
            location=files.location, tensor_files=(), tensors={}, alternatives=tuple(folders)
        )
    folder = folders[0]
    inside = [name for name in names if str(PurePosixPath(name).parent) == folder]
    config = next((n for n in inside if PurePosixPath(n).name == CONFIG_NAME), None)
    chosen, ignored = _choose(inside)
    index = next((n for n in inside if n.endswith(_INDEX_SUFFIX)), None)
    shards = _indexed(files.files[index], inside) if index else ()
    if shards and not any(PurePosixPath(n).name in _PREFERRED for n in chosen):
        ignored = [*ignored, *(n for n in chosen if n not in shards)]
        chosen = [name for name in shards if name in files.files]
    else:
        shards = ()
    if len(chosen) == 1 and is_tar(files.files[chosen[0]]):
        return _unpacked(files, chosen[0])
    foreign = foreign_files(files.files, chosen)
    strange = {file.name for file in foreign}
    opened = [open_container(files.files[name]) for name in chosen if name not in strange]
    found = [file for file in opened if file is not None]
    if not found and not chosen:
        found = _by_content(files, inside)
    contents = _contents(
        files,
        found,
        files.files[config] if config else None,
        settings=read_settings(files.files[name] for name in inside),
        foreign=foreign,
        ignored=tuple(ignored),
        shards=shards,
    )
    return replace(contents, initial=_initial(files, folder, contents.config))


def _initial(
    files: AdapterFiles, folder: str, config: Mapping[str, Json] | None
) -> dict[str, LazyTensor]:
    """Factors that the training began with, when the configuration says that they matter."""
    declared = str((config or {}).get("init_lora_weights", "")).lower()
    if not declared.startswith(_RESIDUAL_INIT):
        return {}
    places: dict[str, list[str]] = {}
    for name in files.files:
        parent = PurePosixPath(name).parent
        near = str(parent.parent) in {folder, str(PurePosixPath(folder).parent)}
        if near and str(parent) != folder and _INITIAL.fullmatch(parent.name):
            places.setdefault(str(parent), []).append(name)
    holding = [names for names in places.values() if _holds_weights(names)]
    chosen = _choose(holding[0])[0] if len(holding) == 1 else []
    opened = open_container(files.files[chosen[0]]) if len(chosen) == 1 else None
    return dict(opened.tensors) if opened else {}


def _indexed(index: ByteSource, inside: list[str]) -> tuple[str, ...]:
    """Files that ``weight_map`` names, as names of this source."""
    mapped = read_json(index).get("weight_map")
    named = {str(v) for v in mapped.values()} if isinstance(mapped, dict) else set()
    places = {PurePosixPath(name).name: name for name in inside}
    return tuple(sorted(places.get(name, name) for name in named))


def read_json(source: ByteSource) -> dict[str, Json]:
    """Parse a JSON object: no duplicate keys, no endless nesting, a BOM is allowed.

    Raises:
        FormatError: ``invalid_config``.
    """
    where = source.name
    if source.size_bytes > MAX_CONFIG_BYTES:
        raise _invalid(f"{source.size_bytes} bytes, at most {MAX_CONFIG_BYTES}", where)

    def pairs(entries: list[tuple[str, Json]]) -> dict[str, Json]:
        found = dict(entries)
        if len(found) != len(entries):
            ((twice, _),) = Counter(key for key, _ in entries).most_common(1)
            raise _invalid(f"key {twice[:60]!r} stands twice", where)
        return found

    try:
        text = bytes(source.read(0, source.size_bytes)).decode("utf-8-sig")
        document = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise _invalid("not JSON", where) from error
    if not isinstance(document, dict):
        raise _invalid(f"expected an object, got {type(document).__name__}", where)
    if _depth(document) > _MAX_JSON_DEPTH:
        raise _invalid("nested too deeply", where)
    return document


def _depth(value: Json) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        below: list[Json] = []
        for entry in level:
            if isinstance(entry, dict):
                below.extend(entry.values())
            elif isinstance(entry, list):
                below.extend(entry)
        level = below
    return deepest


def _single(files: AdapterFiles, name: str) -> Contents:
    source = files.files[name]
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".json":
        return _contents(files, [], source)
    if source.size_bytes and (foreign := foreign_files(files.files, [name])):
        return _contents(files, [], None, foreign=foreign)
    if is_tar(source):
        return _unpacked(files, name)
    opened = open_container(source)
    return _contents(files, [opened] if opened else [], None)


def _unpacked(files: AdapterFiles, name: str) -> Contents:
    """The content of a tar archive, in the place of the folder that it would unpack to."""
    members = tar_members(files.files[name])
    inner = AdapterFiles(location=files.location, files=dict(sorted(members.items())))
    if any(is_tar(member) for member in members.values()):
        raise FormatError("an archive inside an archive", where=name, hint="Extract it.")
    return gather(inner)


def _contents(
    files: AdapterFiles,
    found: list[TensorFile],
    config: ByteSource | None,
    *,
    settings: Mapping[str, Json] | None = None,
    foreign: tuple[ForeignFile, ...] = (),
    ignored: tuple[str, ...] = (),
    shards: tuple[str, ...] = (),
) -> Contents:
    tensors: dict[str, LazyTensor] = {}
    names = [file.name for file in found]
    one_state = bool(shards) or not _missing(names)
    for file in found:
        for name, tensor in file.tensors.items():
            qualified = name if len(found) == 1 or one_state else f"{file.name}:{name}"
            if qualified in tensors:
                raise FormatError(
                    "two shards hold this tensor",
                    where=f"{file.name}:{name}",
                    code="duplicate_tensor",
                )
            tensors[qualified] = tensor
    return Contents(
        location=files.location,
        tensor_files=tuple(found),
        tensors=tensors,
        config=read_json(config) if config else None,
        settings=settings or {},
        foreign=foreign,
        ignored_files=ignored,
        missing_shards=tuple(n for n in shards if n not in names) or _missing_alone(names),
        indexed=bool(shards),
    )


def _folders(names: list[str]) -> list[str]:
    """The folder that holds the adapter: the top one, or those below it."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        by_folder.setdefault(str(path.parent), []).append(path.name)
    top = "."
    if _holds_weights(by_folder.get(top, [])) or len(by_folder) == 1:
        return [next(iter(by_folder)) if top not in by_folder else top]
    holding = [folder for folder, inside in by_folder.items() if _holds_weights(inside)]
    if CONFIG_NAME in by_folder.get(top, []) or not holding:
        return [top]
    names_of = {f: PurePosixPath(f).name for f in holding}
    finished = [f for f in holding if not _CHECKPOINT.fullmatch(names_of[f])]
    trained = [f for f in finished if not _INITIAL.fullmatch(names_of[f])]
    return sorted(trained or finished or holding)


def _holds_weights(names: list[str]) -> bool:
    return any(
        PurePosixPath(n).suffix.lower() in _WEIGHT_SUFFIXES and not _TRAINING_STATE.fullmatch(n)
        for n in names
    )


def _choose(names: list[str]) -> tuple[list[str], list[str]]:
    """Weight files to open, and those left aside."""
    weights = [n for n in names if PurePosixPath(n).suffix.lower() in _WEIGHT_SUFFIXES]
    plain = {PurePosixPath(n).name: n for n in weights}
    state = [n for base, n in plain.items() if _TRAINING_STATE.fullmatch(base)]
    for preferred in _PREFERRED:
        if preferred in plain:
            return [plain[preferred]], [n for n in weights if n != plain[preferred]]
    rest = [n for n in weights if n not in state]
    numbered = sorted(n for n in rest if _NUMBERED.fullmatch(PurePosixPath(n).name))
    if numbered and len(numbered) == len(rest):
        return numbered[-1:], [*numbered[:-1], *state]
    return rest, state


def _by_content(files: AdapterFiles, names: list[str]) -> list[TensorFile]:
    """Tensor files whose names say nothing; text, JSON and pictures are passed over."""
    found = []
    for name in names[:64]:
        source = files.files[name]
        if source.size_bytes and not PurePosixPath(name).suffix:
            opened = open_container(source)
            found.extend([opened] if opened else [])
    return found


def _missing(names: list[str]) -> tuple[str, ...]:
    """What ``x-00001-of-00003`` lacks to be whole; the names themselves when they are no set."""
    parts = [_SHARD.fullmatch(PurePosixPath(name).name) for name in names]
    known = [part for part in parts if part]
    if not known or len(known) != len(parts):
        return tuple(names)
    if len({(part["stem"], part["count"]) for part in known}) != 1:
        return tuple(names)
    there = {int(part["index"]) for part in known}
    count = int(known[0]["count"])
    wanted = range(1, min(count, MAX_SHARDS) + 1)
    stem = known[0]["stem"]
    return tuple(f"{stem}-{i:05d}-of-{count:05d}" for i in wanted if i not in there)


def _missing_alone(names: list[str]) -> tuple[str, ...]:
    """Shards that are missing, when all that is there are shards of one state."""
    missing = _missing(names)
    return missing if missing != tuple(names) else ()


def _invalid(message: str, where: str) -> FormatError:
    return FormatError(message, where=where, code="invalid_config", hint="Repair the file.")

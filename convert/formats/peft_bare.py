"""Tensors of PEFT's other methods without ``adapter_config.json``: named, and asked for it.

Their leaf names tell the method; its settings (alpha, which side is scaled, block sizes) and
often the method's very formula are in the configuration only.
"""

from __future__ import annotations

import re

from adaptrix.convert.contents import CONFIG_NAME, Contents
from adaptrix.convert.draft import Draft, Format, Recognition, refuse
from adaptrix.convert.formats.peft_methods import module_hints
from adaptrix.convert.keys import strip_wrappers
from adaptrix.convert.options import ReadOptions
from adaptrix.schema.report import Problem

_OWN = (
    "vera", "pvera", "oft", "boft", "hra", "miss", "bone", "vblora", "randlora", "fourierft",
    "ln_tuning", "c3a", "road", "hira", "delora", "gralora", "psoft", "shira", "frod", "waveft",
    "deft", "osf", "supertuning", "unilora", "tinylora", "adamss", "lily", "peanut", "beft",
)  # fmt: skip
_LEAF = re.compile(rf"(?:^|\.)({'|'.join(_OWN)})_(?!blocks|diag)\w+(?:\..+)?$")
_SHARED = re.compile(r"^base_model\..*\.(hada|lokr)_\w+$")
"""LoHa's and LoKr's leaves are LyCORIS' too; the prefix is PEFT's."""
_METHODS = {"hada": "loha", "lokr": "lokr"}


def _method(name: str) -> str:
    if match := _SHARED.match(name):
        return _METHODS[match[1]]
    match = _LEAF.search(strip_wrappers(name))
    return match[1] if match else ""


def recognise(contents: Contents) -> Recognition | None:
    """By leaves of one method, where no configuration names one."""
    if "peft_type" in (contents.config or {}):
        return None
    methods = [method for name in contents.tensors if (method := _method(name))]
    if len(methods) <= len(contents.tensors) / 2:
        return None
    evidence = f"{len(methods)} of {len(contents.tensors)} keys have leaves of PEFT's {methods[0]}"
    return Recognition(score=0.96, evidence=(evidence,))


def read(contents: Contents, _options: ReadOptions) -> Draft:
    """Refuse it, by name."""
    method = next(found for name in contents.tensors if (found := _method(name)))
    message = f"tensors of PEFT's {method}, and no {CONFIG_NAME} that says how they act"
    return refuse(
        contents,
        method=method,
        problems=(Problem.of("missing_config", message),),
        reason=f"{method} without its configuration",
        hints=module_hints(contents),
    )


FORMAT = Format(name="peft", recognise=recognise, read=read)

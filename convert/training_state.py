"""A run's state in the same pickle as its weights: ``{"model": …, "optimizer": …}``."""

from __future__ import annotations

import re
from dataclasses import replace

from adaptrix.convert.contents import Contents
from adaptrix.convert.draft import Draft
from adaptrix.schema.report import IgnoredTensor

_STATE = re.compile(
    r"(optim|optimizers?|optimizer_states?|schedulers?|lr_schedulers?|(grad_|loss_)?scaler|ema_optimizer"
    r"|rng_states?|(torch|cuda|cpu)_rng_states?|random_states?|callbacks|loops)\."
)


def without_state(contents: Contents) -> tuple[Contents, tuple[IgnoredTensor, ...]]:
    """The contents without it, and what was left out; a state alone stays what it is."""
    if contents.kinds != {"pickle"} or len(contents.tensor_files) != 1:
        return contents, ()
    kept = {n: t for n, t in contents.tensors.items() if not _STATE.match(n)}
    left = contents.tensors.keys() - kept.keys()
    if not left or not kept:
        return contents, ()
    reason = "state of the training run, beside the weights"
    ignored = tuple(IgnoredTensor(name=name, reason=reason) for name in sorted(left))
    file = replace(contents.tensor_files[0], tensors=kept)
    return replace(contents, tensors=kept, tensor_files=(file,)), ignored


def accounted(draft: Draft, ignored: tuple[IgnoredTensor, ...]) -> Draft:
    """The draft with what was left out before it was read."""
    if not ignored:
        return draft
    return replace(draft, total=draft.total + len(ignored), ignored=(*draft.ignored, *ignored))

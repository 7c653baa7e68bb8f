"""Every problem code, once: its severity, what it does to the verdict, and its hint.

``outcome`` is what the problem means for a check: ``FAIL`` (known to be wrong),
``INCONCLUSIVE`` (cannot be decided from what is there) or ``""`` (worth saying only).
``status`` is the exit status of ``pull`` and ``convert`` when the problem stops them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How bad a problem is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class ProblemCode:
    """One row of the table.

    Attributes:
        severity: Severity of every problem with this code.
        outcome: ``FAIL``, ``INCONCLUSIVE`` or ``""``.
        stops: Whether nothing can be converted.
        status: Exit status of a command that it stops.
        hint: Default hint.
    """

    severity: Severity
    outcome: str
    stops: bool = False
    status: int = 1
    hint: str = ""


def _fail(hint: str = "", *, status: int = 1) -> ProblemCode:
    return ProblemCode(Severity.ERROR, "FAIL", stops=True, status=status, hint=hint)


def _ask(hint: str, *, status: int = 2) -> ProblemCode:
    return ProblemCode(Severity.ERROR, "INCONCLUSIVE", stops=True, status=status, hint=hint)


PROBLEM_CODES: Mapping[str, ProblemCode] = {
    # Unreadable or invalid input.
    "not_an_adapter": _fail("Give a folder or file that holds adapter weights.", status=2),
    "missing_weights": _fail("The folder has a configuration but no weight file.", status=2),
    "invalid_config": _fail("Repair adapter_config.json.", status=2),
    "invalid_rank": _fail("A rank is a whole number from 1 to 4096.", status=2),
    # Needs an answer that the content does not hold.
    "missing_alpha": _ask("This file does not store alpha. Pass --alpha (scale = alpha / rank)."),
    "ambiguous_layout": _ask(
        "fc1/fc2-only keys fit two Phi layouts (MixFormer blocks are shifted by one). "
        "Pass --source-layout phi-l1 or --source-layout phi-l4."
    ),
    "missing_config": _ask("Put the adapter_config.json that was saved with it beside it."),
    "unread_values": _ask("Only headers were read, and the values decide: pull it."),
    "multiple_adapters": _ask(
        "The source holds several adapters. Name one: its folder, on the Hub hf:org/repo/folder."
    ),
    "unknown_family": ProblemCode(
        Severity.WARNING, "INCONCLUSIVE", hint="Pass --base with the base model's folder or id."
    ),
    # Recognised and refused.
    "soft_prompt": _fail(
        "This stores virtual tokens, not weight updates; load it with the tool that made it."
    ),
    "ia3": _fail(
        "IA³ scales activations. Pull it with --carry to keep it unchanged, "
        "or merge it into its base with PEFT."
    ),
    "needs_base_weights": _fail(
        "The update depends on the base weights. Pull it with --carry to keep it unchanged, "
        "or merge it into its base with PEFT."
    ),
    "not_low_rank": _fail(
        "Pull it with --carry to keep it unchanged, or merge it into its base with PEFT."
    ),
    "full_checkpoint": _fail(
        "No adapter factors found. To extract a LoRA, provide the base and accept a truncated SVD."
    ),
    "bottleneck_adapter": _fail("Bottleneck adapters add layers; they are not a weight update."),
    "unsupported_method": _fail(
        "Load it with the tool that made it, or merge it into its base there."
    ),
    "routed_adapter": _fail(
        "The effect depends on the input (router or gate); export each expert."
    ),
    "positional_adapter": _fail(
        "It must stay unmerged: use a runtime that supports alora_invocation_tokens. "
        "Pull it with --carry to keep it unchanged."
    ),
    "sharded_state": _fail("Tensors are empty or 1-D: save again after gathering the shards."),
    # Content that is wrong.
    "unpaired_factor": _fail("Each lora_A needs its lora_B: the file is incomplete."),
    "rank_mismatch": _fail("Factors and configuration must agree on the rank."),
    "shape_mismatch": _fail("The factors do not have the shapes that the base model needs."),
    "unknown_tensors": _fail("Tensors that no rule of this format explains; nothing is dropped."),
    "unknown_modules": _fail("Only names of known models are converted; nothing is guessed."),
    "duplicate_module": _fail("Two entries of the file claim the same module."),
    "non_finite": _fail("NaN or infinity in the weights: training diverged or the file is bad."),
    "non_float_factor": _fail("LoRA factors must be floating point."),
    "base_weights_inside": _fail(
        "Weights that replace the base are accepted only when the configuration declares them."
    ),
    "wrong_base": _fail("Give the base model that the adapter was trained on."),
    "needs_residual_base": ProblemCode(
        Severity.WARNING,
        "INCONCLUSIVE",
        hint="It is carried as it is. Put the initial adapter beside it (pissa_init/), pass --base "
        "with the base's weights (PiSSA, OLoRA, KaSA), or run it on the base it was trained on.",
    ),
    "dropped_magnitude": _fail("Magnitude vectors need use_dora: true in the configuration."),
    "claim_broken": _fail("The version is damaged: pull it again, or adaptrix fsck --repair."),
    "update_lost": _fail("The update is lost in rounding: use --mode attached or --dtype float32."),
    "update_overflow": _fail("Use --mode attached, --dtype float32, or smaller weights."),
    "update_wrong": _fail("Load the base again; if it stays so, report it with the adapter."),
    # Could not be decided.
    "zero_update": ProblemCode(
        Severity.WARNING, "INCONCLUSIVE", hint="All B are zero: never trained, or the wrong file."
    ),
    "unchecked_merge": ProblemCode(
        Severity.WARNING, "INCONCLUSIVE", hint="Merge it with adaptrix run, which checks itself."
    ),
    "unchecked_values": ProblemCode(
        Severity.NOTE, "", hint="Only headers were read; pull checks the values."
    ),
    # Worth saying.
    "zero_module": ProblemCode(Severity.WARNING, ""),
    "low_survival": ProblemCode(
        Severity.WARNING, "", hint="Use --mode attached or --dtype float32 to keep all of it."
    ),
    "unused_target": ProblemCode(
        Severity.WARNING, "", hint="The configuration lists modules that have no tensors."
    ),
    "expert_order": ProblemCode(
        Severity.WARNING, "", hint="Pass --source-layout unsloth if an earlier release trained it."
    ),
    "renamed_modules": ProblemCode(Severity.NOTE, ""),
    "alpha_rule": ProblemCode(Severity.WARNING, ""),
    "replaces_base_weights": ProblemCode(Severity.WARNING, ""),
    "whole_model": ProblemCode(
        Severity.WARNING, "", hint="If base weights were trained too, this adapter is only a part."
    ),
    "recomputed": ProblemCode(Severity.NOTE, ""),
    "assumed_alpha": ProblemCode(
        Severity.NOTE, "", hint="Pass --alpha if the trainer used another one."
    ),
    "token_embeddings": ProblemCode(
        Severity.WARNING,
        "",
        hint="Load the embeddings with the tool that trained them; the prompts use these words.",
    ),
    "carried": ProblemCode(
        Severity.WARNING, "", hint="PEFT loads it; it is not converted, composed or run here."
    ),
    "initial_subtracted": ProblemCode(Severity.NOTE, ""),
    "training_state": ProblemCode(
        Severity.NOTE, "", hint="It acts in training only: inference is that of the plain LoRA."
    ),
    "wide_dtype": ProblemCode(Severity.NOTE, ""),
    "reader_settings": ProblemCode(Severity.WARNING, ""),
    "declared_base_differs": ProblemCode(Severity.WARNING, ""),
    "ignored_files": ProblemCode(Severity.NOTE, ""),
    "weights_beside": ProblemCode(
        Severity.WARNING, "", hint="If they were trained with it, this adapter is only a part."
    ),
    # The store itself (fsck, reindex).
    "corrupt_blob": _fail("Run adaptrix fsck --repair, then pull what needs the blob again."),
    "missing_blob": _fail("Pull the adapter again: blobs that are there are not fetched twice."),
    "invalid_manifest": _fail("Pull the adapter again, or remove the name that points to it."),
    "dangling_reference": _fail("Pull the adapter again, or remove the name with adaptrix rm."),
    "planted_link": _fail("The store holds plain files only: see who put it there, remove it."),
    "stale_index": _fail("Run adaptrix reindex: the blobs hold everything."),
    "invalid_layout": _fail("Run adaptrix fsck --repair: the file is written anew."),
    "missing_parent": ProblemCode(
        Severity.NOTE, "", hint="The parent lives in another home; its digest is still recorded."
    ),
    "unfinished_version": ProblemCode(
        Severity.NOTE, "", hint="A command was stopped there; repeating it finishes the work."
    ),
    "foreign_file": ProblemCode(
        Severity.WARNING, "", hint="Nothing of Adaptrix: remove it if you do not need it."
    ),
    "quarantined_blob": ProblemCode(
        Severity.WARNING, "", hint="Damaged bytes were moved aside; pull the adapter again."
    ),
}

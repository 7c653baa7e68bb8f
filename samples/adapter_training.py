"""Train the five bundled adapters with PEFT, on the rounded base.

Each takes three to six minutes on one core. Only completions are learned. Two more terms
make an adapter change little beyond its skill, so that it can be added to others: a share
of the base's own text is replayed, and on that text and on exercises of the other skills
the adapter's output is kept small ("quiet"), measured against its output on its own.
``math`` and ``code`` are also trained in company: in most steps one or two of the other
three adapters are in the base, never the one that they are composed with later.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.peft_model import PeftModel
from torch.nn import functional
from transformers import AutoTokenizer, PhiForCausalLM, PreTrainedTokenizerBase

from adaptrix.samples import BASE_DIR
from adaptrix.samples.base_training import device, rate_at
from adaptrix.samples.corpus import documents
from adaptrix.samples.deltas import sample_deltas
from adaptrix.samples.legacy_phi import LegacyPhi
from adaptrix.samples.tasks import TASKS, generate

BATCH = 48
REPLAY = 16
FOREIGN = 16
COMPANIONS = ("instruct", "news", "qa")
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """How one adapter is trained.

    Attributes:
        targets: Module names as the layout spells them.
        rank: Rank of the factors.
        alpha: LoRA alpha.
        legacy: Train on the old fused layout.
        steps: Optimiser steps.
        peak_rate: Peak learning rate.
        quiet: Weight of the loudness on text that is not its own.
        company: How many companions are in the base in a step, one drawn from these.
        strength: Least and greatest weight of a companion.
        options: More LoraConfig fields.
    """

    targets: tuple[str, ...]
    rank: int
    alpha: int
    legacy: bool = False
    steps: int = 900
    peak_rate: float = 3e-3
    quiet: float = 0.1
    company: tuple[int, ...] = (0,)
    strength: tuple[float, float] = (0.5, 1.2)
    options: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "math": AdapterSettings(
        targets=("q_proj", "v_proj", "fc1", "fc2"),
        rank=8,
        alpha=16,
        steps=800,
        peak_rate=4e-3,
        company=(0, 1, 1, 2, 2),
    ),
    "instruct": AdapterSettings(
        targets=("Wqkv", "out_proj", "fc1", "fc2"), rank=8, alpha=16, legacy=True, steps=700
    ),
    "news": AdapterSettings(
        targets=("q_proj", "k_proj", "v_proj", "dense"),
        rank=8,
        alpha=8,
        steps=600,
        options={
            "use_rslora": True,
            "rank_pattern": {"v_proj": 16, "model.layers.0.self_attn.q_proj": 4},
            "alpha_pattern": {"dense": 12, "model.layers.0.self_attn.q_proj": 6},
        },
    ),
    # Rank 4 on attention alone: it needs a high rate, and its loudness weighs more.
    "code": AdapterSettings(
        targets=("q_proj", "k_proj", "v_proj"),
        rank=4,
        alpha=8,
        steps=1200,
        peak_rate=8e-3,
        quiet=0.4,
        company=(0, 1, 1, 1),
        strength=(0.3, 1.0),
    ),
    "qa": AdapterSettings(
        targets=("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"), rank=8, alpha=16, steps=600
    ),
}


def load_base() -> tuple[PhiForCausalLM, PreTrainedTokenizerBase]:
    """The bundled base in float32 (its float16 weights exactly) and its tokenizer."""
    model = PhiForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(BASE_DIR)


def batches(
    tokenizer: PreTrainedTokenizerBase, task: str, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless ``(input_ids, labels)``, each ``(BATCH + REPLAY + FOREIGN, length)``.

    Right-padded. First the skill's exercises, then text of the base, then exercises of the
    other skills, which have no labels.
    """
    own, replay = generate(task, "train", seed), documents(seed + 1)
    others = itertools.cycle([generate(o, "train", seed + 2) for o in TASKS if o != task])
    while True:
        rows = []
        for item in itertools.islice(own, BATCH):
            prompt, answer = _ids(tokenizer, item.prompt), _ids(tokenizer, item.answer)
            rows.append(([*prompt, *answer, 0], [*[IGNORED] * len(prompt), *answer, 0]))
        for text in itertools.islice(replay, REPLAY):
            ids = [*_ids(tokenizer, text), 0]
            rows.append((ids, list(ids)))
        for other in itertools.islice(others, FOREIGN):
            item = next(other)
            ids = [*_ids(tokenizer, item.prompt), *_ids(tokenizer, item.answer), 0]
            rows.append((ids, [IGNORED] * len(ids)))
        length = max(len(ids) for ids, _ in rows)
        inputs = torch.ones(len(rows), length, dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED)
        for n, (ids, wanted) in enumerate(rows):
            inputs[n, : len(ids)] = torch.tensor(ids)
            labels[n, : len(ids)] = torch.tensor(wanted)
        yield inputs, labels


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text).input_ids
    return ids


class LoudnessMeter:
    """Mean square of what the adapter adds, on its own exercises and on other text."""

    def __init__(self, model: PeftModel) -> None:
        self.own: list[torch.Tensor] = []
        self.foreign: list[torch.Tensor] = []
        for name, module in model.named_modules():
            if name.endswith("lora_B.default"):
                module.register_forward_hook(self._measure)

    def _measure(self, _module: object, _inputs: object, output: torch.Tensor) -> None:
        squares = output.float().square().mean(dim=(1, 2))
        self.own.append(squares[:BATCH].mean())
        self.foreign.append(squares[BATCH:].mean())

    def quiet_loss(self) -> torch.Tensor:
        """Foreign loudness as a share of the adapter's own; forgets what it measured."""
        own, foreign = torch.stack(self.own).sum(), torch.stack(self.foreign).sum()
        self.own, self.foreign = [], []
        # One ratio for all modules: a ratio for each would silence the small ones.
        return foreign / (own.detach() + 1e-8)


class Company:
    """Puts some of the other adapters into the frozen base weights, others each step."""

    def __init__(self, model: PeftModel, task: str) -> None:
        self.random = random.Random(task)
        self.settings = SETTINGS[task]
        alone = not any(self.settings.company)
        self.deltas = [] if alone else [sample_deltas(name) for name in COMPANIONS]
        parameters = dict(model.named_parameters())
        self.weights: dict[str, torch.nn.Parameter] = {}
        for path in {path for delta in self.deltas for path in delta}:
            wrapped = f"base_model.model.{path}.base_layer.weight"
            plain = f"base_model.model.{path}.weight"
            self.weights[path] = parameters[wrapped if wrapped in parameters else plain]
        self.pristine = {path: weight.detach().clone() for path, weight in self.weights.items()}

    @torch.no_grad()
    def change(self) -> None:
        """Other companions, or none."""
        count = self.random.choice(self.settings.company)
        chosen = [
            (delta, self.random.uniform(*self.settings.strength))
            for delta in self.random.sample(self.deltas, count)
        ]
        for path, weight in self.weights.items():
            weight.copy_(self.pristine[path])
            for delta, strength in chosen:
                if path in delta:
                    weight.add_(delta[path].to(weight), alpha=strength)


def train_adapter(task: str, steps: int | None = None) -> tuple[PeftModel, float]:
    """Train one adapter; returns the PEFT model and the last mean loss.

    Raises:
        KeyError: no such task.
    """
    settings = SETTINGS[task]
    torch.manual_seed(sum(task.encode()))
    base, tokenizer = load_base()
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        lora_dropout=0.0,
        task_type="CAUSAL_LM" if not settings.legacy else None,
        **settings.options,
    )
    model = get_peft_model(LegacyPhi(base) if settings.legacy else base, config)
    return model, _optimise(model, tokenizer, task, steps or settings.steps, settings)


def _optimise(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    steps: int,
    settings: AdapterSettings,
) -> float:
    target = device()
    model.to(target).train()
    factors = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(factors, betas=(0.9, 0.98), weight_decay=0.01)
    meter, company = LoudnessMeter(model), Company(model, task)
    started, recent = time.monotonic(), 0.0
    for step, (inputs, labels) in enumerate(
        itertools.islice(batches(tokenizer, task, seed=1), steps)
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, settings.peak_rate, warmup=50)
        company.change()
        with torch.autocast(target.type, torch.bfloat16):
            out = model(input_ids=inputs.to(target))
        logits = (out if isinstance(out, torch.Tensor) else out.logits).float()
        wanted = labels[:, 1:].to(target)
        skill, kept = (
            functional.cross_entropy(
                logits[part, :-1].flatten(0, 1), wanted[part].flatten(), ignore_index=IGNORED
            )
            for part in (slice(None, BATCH), slice(BATCH, BATCH + REPLAY))
        )
        optimizer.zero_grad(set_to_none=True)
        quiet = meter.quiet_loss()
        # First the skill, then the quiet: asked for at once, the skill is never found.
        ramp = min(1.0, max(0.0, (step / steps - 0.35) / 0.3))
        (skill + 0.3 * kept + settings.quiet * ramp * quiet).backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        recent = 0.95 * recent + 0.05 * skill.item() if step else skill.item()
        if step % 50 == 49:
            spent = time.monotonic() - started
            print(
                f"{task} step {step + 1}/{steps} loss {recent:.4f} kept {kept.item():.3f} "
                f"quiet {quiet.item():.3f} "
                f"{spent:.0f} s",
                flush=True,
            )
    return recent

"""The bundled samples: a tiny trained Phi model and five adapters, each in another format.

Importing this package costs nothing but the standard library. ``adaptrix.samples.train``
makes everything again; ``adaptrix.samples.evaluate`` measures it with transformers and
PEFT alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SAMPLES_DIR = Path(__file__).resolve().parent
BASE_DIR = SAMPLES_DIR / "base"
BASE_NAME = "adaptrix/sample-phi"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAdapter:
    """One bundled adapter.

    Attributes:
        name: Its name, also the name of its skill in ``tasks``.
        path: File or folder that ``pull`` reads.
        description: One line for the manifest.
        domain: Field it belongs to.
        capabilities: What it can do.
        layout: Which tool's layout the file is in.
    """

    name: str
    path: Path
    description: str
    domain: str
    capabilities: tuple[str, ...]
    layout: str


def _sample(
    name: str, description: str, domain: str, capability: str, layout: str
) -> SampleAdapter:
    return SampleAdapter(
        name=name,
        path=SAMPLES_DIR / "adapters" / name,
        description=description,
        domain=domain,
        capabilities=(capability,),
        layout=layout,
    )


ADAPTERS = (
    _sample("math", "Short arithmetic word problems", "mathematics", "word-problems", "PEFT"),
    _sample(
        "instruct", "Small text-manipulation instructions", "instructions", "text-editing",
        "PEFT pickle, old fused Phi layout",
    ),
    _sample("news", "Rewrites facts as a headline", "news", "headlines", "PEFT rsLoRA, patterns"),
    _sample("code", "Small Python functions", "code", "python", "MLX-LM"),
    _sample("qa", "Answers from a given passage", "question answering", "reading", "GGUF"),
)  # fmt: skip

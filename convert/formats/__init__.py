"""All formats, in one explicit tuple; the first of two equal scores wins."""

from adaptrix.convert.draft import Format
from adaptrix.convert.formats import gguf, mlx, peft, recognised

FORMATS: tuple[Format, ...] = (peft.FORMAT, mlx.FORMAT, gguf.FORMAT, *recognised.FORMATS)
"""PEFT, MLX-LM and GGUF are read and written; the others are recognised and refused."""

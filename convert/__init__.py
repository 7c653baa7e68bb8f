"""File formats and the canonical adapter: reading, recognising, checking, writing; no torch."""

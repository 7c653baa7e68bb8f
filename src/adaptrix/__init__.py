"""Adaptrix: a verified, versioned, composable home for LoRA adapters."""

"""Diffusion models: their modules, how each tool writes the names, and which model it is."""

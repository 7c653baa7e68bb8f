"""Room: hub."""

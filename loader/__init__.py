"""Room: loader."""

"""One file per format that a canonical adapter can be written in."""

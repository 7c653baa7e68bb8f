"""The version of this tool, written into every conversion record."""

VERSION = "0.1.0"

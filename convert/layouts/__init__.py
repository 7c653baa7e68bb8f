"""Module namings of one architecture and the exact way from each to the current one."""

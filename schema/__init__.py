"""Values shared by every room: no I/O, no tensors in memory, no torch.

A value of one of these types has already been checked; a plain ``str`` or ``dict``
has not. Text and JSON are parsed once, at the edge, into these types. Stable.
"""

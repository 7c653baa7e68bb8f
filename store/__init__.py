"""Content-addressed blobs on this machine, and the names that people give to them.

The blobs are the truth: everything else in a home (names, reflog, lineage, index) can be
rebuilt from them. Importing a module of this room costs no SQL toolkit; only
``store.database``, ``store.tables`` and ``store.index`` do, and :class:`store.home.Home`
imports those when they are first needed. POSIX file systems.
"""

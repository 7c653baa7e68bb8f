"""One file per verb, and the one table of them."""

from __future__ import annotations

from collections.abc import Callable

from adaptrix.cli.commands.compose import compose, rebase
from adaptrix.cli.commands.convert import convert
from adaptrix.cli.commands.demo import demo
from adaptrix.cli.commands.diff import diff
from adaptrix.cli.commands.doctor import doctor
from adaptrix.cli.commands.du import du
from adaptrix.cli.commands.export import export
from adaptrix.cli.commands.fsck import fsck
from adaptrix.cli.commands.gc import gc
from adaptrix.cli.commands.init import init
from adaptrix.cli.commands.inspect import inspect
from adaptrix.cli.commands.later import serve
from adaptrix.cli.commands.log import log
from adaptrix.cli.commands.login import login
from adaptrix.cli.commands.ls import ls
from adaptrix.cli.commands.pull import pull
from adaptrix.cli.commands.push import push
from adaptrix.cli.commands.reflog import reflog
from adaptrix.cli.commands.reindex import reindex
from adaptrix.cli.commands.remote import remote
from adaptrix.cli.commands.restore import restore
from adaptrix.cli.commands.rm import rm
from adaptrix.cli.commands.run import run
from adaptrix.cli.commands.search import search
from adaptrix.cli.commands.show import show
from adaptrix.cli.commands.similar import similar
from adaptrix.cli.commands.stats import stats
from adaptrix.cli.commands.tag import tag
from adaptrix.cli.commands.verify import verify
from adaptrix.cli.commands.weigh import grams, weigh

COMMANDS: tuple[Callable[..., None], ...] = (
    demo, init, pull, inspect, convert, export, compose, rebase, weigh, grams, run, ls, search, similar, show, log, diff, reflog, restore, tag, rm, gc, du, stats,
    verify, fsck, doctor, reindex, remote, login, push,
)  # fmt: skip
LATER: tuple[Callable[..., None], ...] = (serve,)
"""Commands that say that they are not there yet."""

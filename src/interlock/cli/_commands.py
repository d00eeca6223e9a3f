"""The command `interlock` and the table of its subcommands, each in a module of its own, loaded when it is asked for.

A subcommand is a `click.Command` (or a `click.Group` of its own) named in `COMMANDS`; the table's text is what
`interlock --help` shows, so that help loads none of them.
"""

from __future__ import annotations

from importlib import import_module

import click

from .. import __version__

COMMANDS = {
    "run": ("_run:run", "Run a command while holding a lock."),
    "catalogue": ("_catalogue:catalogue", "Show what is in a build cache: pages, a web site, differences, checks."),
    "store": ("_store:store", "A shared store of builds: publish, read, verify, clean up."),
    "doctor": ("_doctor:doctor", "Find out whom locks in a directory exclude, and test it between two hosts."),
    "who": ("_who:who", "Tell who holds a lock and who waits for it."),
    "top": ("_top:top", "Watch the locks below a directory: who holds and who waits."),
    "break": ("_break:break_", "End a hold whose owner is gone, with proof or by force."),
    "trace": ("_trace:trace", "Run a command and write a timeline of all its locks."),
}
"""Name -> (module of this package : attribute, one line for the overview)."""


class _Lazy(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(import_module("." + module, __package__), attribute)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="interlock")
def interlock() -> None:
    """Locks between processes: run a command under one, see who holds it, watch and record what locks do."""

"""The whole list for engines that exclude hosts, with real processes of all worlds in every test.

Numbers are those of the list that all engines are put to. What they leave out is in the suites for one process: 20
(re-entrance) and 23 (pickling) in `LockSuite`, 22 (fork) in `ProcessSuite`, 27 (worlds among each other) in every test
here and in `MixedSuite`.
"""

from __future__ import annotations

from .served_company import Company
from .served_ends import Ends
from .served_kinds import Kinds
from .served_troubles import Troubles
from .served_turns import Turns

__all__ = ["ServerSuite"]


class ServerSuite(Turns, Company, Ends, Troubles, Kinds):
    """Subclass it, name the engine, and give the fixture `served`."""

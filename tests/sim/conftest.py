"""The simulated kernel speaks POSIX constants; nothing here runs on Windows."""

from __future__ import annotations

import sys

collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []

"""Faults are injected, and their traces sought, in Linux's tables."""

from __future__ import annotations

import sys

if sys.platform != "linux":
    collect_ignore_glob = ["*"]

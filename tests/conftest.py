"""For all tests."""

from __future__ import annotations

import signal

# Runners and nohup(1) ignore hang-ups, and children inherit that; the tests are about what signals do by default.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

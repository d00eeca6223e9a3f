"""How a process learns that a lock file was let go: `inotify` (Linux), `kqueue` (macOS, the BSDs), naps elsewhere."""

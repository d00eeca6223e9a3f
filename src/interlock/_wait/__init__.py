"""How a process learns that a lock file was let go: `inotify` on Linux, `kqueue` on macOS and the BSDs, naps elsewhere."""

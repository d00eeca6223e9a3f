"""The decisions: one acquire loop, the queue of this process, fork. Imports no event loop, no `os`, no socket."""

from interlock.filelock.version import *  # noqa: F403

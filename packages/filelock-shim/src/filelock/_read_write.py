from interlock._filelock.readwrite import *  # noqa: F403

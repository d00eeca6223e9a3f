from interlock._filelock.native import *  # noqa: F403

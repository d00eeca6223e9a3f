from interlock._filelock.soft import *  # noqa: F403

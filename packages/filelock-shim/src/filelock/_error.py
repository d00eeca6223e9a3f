from interlock._filelock.errors import *  # noqa: F403

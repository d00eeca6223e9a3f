from interlock._filelock.async_ import *  # noqa: F403

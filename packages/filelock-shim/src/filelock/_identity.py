from interlock._filelock.state import *  # noqa: F403

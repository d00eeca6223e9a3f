from interlock._filelock.soft_strict import *  # noqa: F403

from interlock._filelock.soft_readwrite import *  # noqa: F403

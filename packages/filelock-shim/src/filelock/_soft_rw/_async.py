from interlock._filelock.async_readwrite import *  # noqa: F403

from interlock._filelock.async_readwrite import *  # noqa: F403
from interlock._filelock.soft_readwrite import *  # noqa: F403

from interlock.filelock.asyncio import *  # noqa: F403

from interlock._filelock.soft_lease import *  # noqa: F403

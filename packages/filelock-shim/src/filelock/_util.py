from interlock._filelock.alias import *  # noqa: F403

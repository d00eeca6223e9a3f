from interlock._filelock.api import *  # noqa: F403
from interlock._filelock.meta import *  # noqa: F403
from interlock._filelock.options import *  # noqa: F403

"""The module filelock, served by interlock: after this import, `filelock` is `interlock.filelock`.

The other files of this directory are for tools that look for modules without importing them.
"""

import interlock.filelock  # noqa: F401 - for tools that follow imports without running them
from interlock._filelock.alias import take_over

take_over()

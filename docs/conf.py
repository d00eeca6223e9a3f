"""Sphinx configuration. Build with: python -m sphinx -n -W -b html docs docs/_build/html"""

from __future__ import annotations

import interlock

project = "interlock"
author = "The interlock developers"
copyright = "2026, The interlock developers"  # noqa: A001
release = version = interlock.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "interlock"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
nitpick_ignore_regex = [
    (r"py:.*", r".*(MeterProvider|TracerProvider)"),
    # Types of interlock.store that users write as what the text says, or get from it
    (r"py:.*", r"(LockLike|SpecSource|ArchiveSource|Item|Builder|Manifest|Layout|files\.Lease|Row|State|Spec)"),
    (r"py:.*", r"(AbstractAsyncContextManager|Claim|Path|BinaryIO)"),
    (r"py:.*", r"(Every|Progress|Value)"),  # aliases of the catalogue
    (r"py:.*", r".*(Unset|TracebackType|PathLike|Literal|_BaseHold|_BaseLock|_UNSET|collections\.abc.*|Any).*"),
    (r"py:.*", r"(float|int|str|bool|None|type|optional|_?T|H|os\..*|Exception|TimeoutError|BaseException).*"),
]
doctest_global_setup = """
import os, tempfile
_home = os.getcwd()
os.chdir(tempfile.mkdtemp())
"""
doctest_global_cleanup = "os.chdir(_home)"

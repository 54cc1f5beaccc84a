"""Python runs this file at its start where this folder is on PYTHONPATH: processes that tests start break too."""

import sys

# A pytest run is broken by the plugin, once.
if not any("pytest" in argument for argument in sys.orig_argv):
    from tests.breakages.plugin import remove_guard

    remove_guard()

"""For all tests: signals, and how two processes share them (`pytest -n 2 --dist loadfile`)."""

from __future__ import annotations

import signal

# A test run that was started in the background may have SIGINT ignored, and so would everything that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

E2E = "tests/e2e/"


def pytest_xdist_make_scheduler(config, log):
    """One process has all end-to-end tests, one after another (a run of verl takes 5 GB), the other one goes on with the rest by file."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class EnginesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return E2E if nodeid.startswith(E2E) else nodeid.split("::", 1)[0]

    return EnginesTogether(config, log)

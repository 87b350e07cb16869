"""One thread, as in the processes that the tests start: sums are then rounded in the same order."""

import signal

import pytest
import torch

# A test run that was started in the background may have SIGINT ignored, and so would everything that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

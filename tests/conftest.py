"""For every test: no time limits inside properties, the same examples each time, one thread."""

import signal

import pytest
import torch
from hypothesis import settings

settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")
torch.set_num_threads(1)  # small tensors: a second thread costs more than it gives, and rounds differently

# Python's own answer to Ctrl-C, here and in the processes that tests start: background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Their asserts say what differs, as those of the tests do.
pytest.register_assert_rewrite("four_modalities", "stored_runs")

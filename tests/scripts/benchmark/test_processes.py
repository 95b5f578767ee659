"""The measured processes: what they have used is read from their own clocks."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any, cast

from scripts.benchmark.processes import Process


def test_the_processor_time_of_a_process_is_that_of_its_own_clock() -> None:
    this = Process("worker", cast(Any, SimpleNamespace(pid=os.getpid())), None)
    before = time.process_time()
    assert before <= this.cpu <= time.process_time()

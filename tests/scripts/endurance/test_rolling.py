import math
from io import StringIO

from rich.console import Console

from scripts.endurance.load import Noticed
from scripts.endurance.restarts import Outcome, Restart
from scripts.endurance.rolling import show


def test_the_table_says_what_was_restarted_and_what_clients_noticed() -> None:
    restarts = [
        Restart("gateway-0", 1, ended=4.0, ready=1.5, reconnects=6, silence=0.25, start=0.0),
        Restart("worker-0", 1, ended=9.0, ready=1.0, reconnects=0, silence=0.0, start=0.3, handed_back=2, p99=0.081),
    ]
    noticed = Noticed(threads=3, turns=9, wrong=["t1: a start was refused"])
    out = StringIO()
    show(Outcome(restarts, noticed, p99=0.012), Console(file=out, width=140, soft_wrap=True))
    said = out.getvalue()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if "│" in line]
    assert ["gateway-0", "1", "4.00 s", "1.50 s", "6", "-", "0.25 s", "-", "-"] in rows
    assert ["worker-0", "1", "9.00 s", "1.00 s", "0", "2", "-", "0.30 s", "81 ms"] in rows
    assert "p99 12 ms" in said
    assert "wrong: t1: a start was refused" in said


def test_a_latency_that_nobody_counted_is_no_number() -> None:
    assert "p99 not counted" in Outcome([], Noticed(), math.nan).summary()

"""A client of Threadline: conversations that go on, whichever gateway lives.

async with connect(["http://127.0.0.1:8080", "http://127.0.0.1:8081"]) as client:
    turn = await client.thread("tea").send("How long for green tea?")
    print((await turn.wait()).text)
"""

from threadline_client.client import Client, connect
from threadline_client.connection import NodeChange
from threadline_client.errors import ClientError, Closed, NotConnected, NotFound, Refused, Unauthorized
from threadline_client.events import Cursor, Event, Snapshot
from threadline_client.outcome import Outcome
from threadline_client.running import RunningTurn, ToolUse
from threadline_client.state import Approval, Message, QueueItem, ThreadState
from threadline_client.stream import EventStream
from threadline_client.thread import CancelResult, DecideResult, QueueStatus, Thread, Turn
from threadline_client.threads import ThreadPage, ThreadSummary, Watched

__all__ = [
    "Approval",
    "CancelResult",
    "Client",
    "ClientError",
    "Closed",
    "Cursor",
    "DecideResult",
    "Event",
    "EventStream",
    "Message",
    "NodeChange",
    "NotConnected",
    "NotFound",
    "Outcome",
    "QueueItem",
    "QueueStatus",
    "Refused",
    "RunningTurn",
    "Snapshot",
    "Thread",
    "ThreadPage",
    "ThreadState",
    "ThreadSummary",
    "ToolUse",
    "Turn",
    "Unauthorized",
    "Watched",
    "connect",
]

"""Every Redis key and channel is born here, with its kind and its lifetime.

All keys of a thread carry the hash tag of its partition, `{17}`, so that one script can change the thread,
its turn and its partition's queue in one step, on one server as on a cluster. The kind comes before the id,
never after it, and ids hold no `/`: no two threads share a key.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache

from backplane.ids import ThreadRef, partition_of


def user_digest(subject: str) -> str:
    """Return how a user is named in keys: a subject may hold any character."""
    return hashlib.sha256(subject.encode()).hexdigest()


REMEMBERED = 1024
"""Threads whose names a process keeps, about 3 KB each: more than run at once in one. For others they are made anew."""


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """What a partition owns."""

    due: str
    """sorted set: `tenant/thread/request` -> when (ms) somebody must look at the turn. Permanent."""
    ready: str
    """sorted set: `tenant/thread/request` -> since when (ms) it may be claimed. Permanent."""
    calls: str
    """prefix; + the id of a call. string: what it was answered, where nothing else is left to tell. TTL 1 minute."""
    control: str
    """channel: request ids of turns that were cancelled or superseded, and `forget THREAD` for a deleted one; every
    worker listens."""


@dataclass(frozen=True, slots=True)
class ThreadKeys:
    """What a thread owns, and its partition's keys that its scripts change with it."""

    ref: ThreadRef
    thread: str
    """hash: epoch, top, owner, title, session_version, messages, running, created, active. TTL `thread_ttl`."""
    log: str
    """stream, entry id `offset-0`: n = event name, d = its JSON. TTL `replay_window`."""
    session: str
    """stream, entry id `message-0`: m = the message's JSON. TTL `thread_ttl`."""
    lanes: str
    """prefix; + followup, steer, collect or parallel. list of request ids (lua/lib/lane.lua). TTL `thread_ttl`."""
    turns: str
    """prefix of the turns; + request id. hash, TTL `turn_ttl` after the end."""
    steps: str
    """prefix of the steps of a turn; + request id. hash: step -> `begun ATTEMPT`, or `=` and the JSON of its result.
    Lives as long as its turn runs."""
    approvals: str
    """prefix of what a turn asks a person; + request id. hash (lua/lib/approval.lua). Lives as long as its turn."""
    texts: str
    """prefix of the running text; + request id. string, lives as long as its turn runs."""
    idempotency: str
    """prefix; + digest of subject and key. string, TTL `turn_ttl`."""
    branches: str
    """list: `REQUEST MESSAGE TIME` of each edit, the oldest first: who made it, what it cut off first, when (ms).
    TTL `thread_ttl` after the last edit."""
    branch: str
    """prefix of what an edit cut off; + request id of the edit. stream like the session. TTL as `branches`."""
    watchers: str
    """hash: node -> `UNTIL {subject: connections}`, believed until then (ms); told = who watched when it was told last.
    TTL 3 * `presence_interval`."""
    requests: str
    """list: ids of turns of which something may be kept, so that a delete finds all of it. TTL `thread_ttl`."""
    live: str
    """channel: events as they are appended (backplane/events.py, `decode_live`)."""
    partition: PartitionKeys

    def turn(self, request_id: str) -> str:
        """Return the key of one turn."""
        return self.turns + request_id

    def silent(self, name: str) -> str:
        """Return a channel that costs what the live one costs, and on which nothing is said."""
        return f"{self.live}/{name}"

    def member(self, request_id: str) -> str:
        """Return how a turn is named in `due`, `ready` and the doorbell."""
        return f"{self.ref}/{request_id}"


def split_member(member: str) -> tuple[ThreadRef, str]:
    """Return the thread and the request id of a member of `due`, `ready` or the doorbell."""
    tenant, thread_id, request_id = member.split("/")
    return ThreadRef(tenant, thread_id), request_id


class Keys:
    """The key names of one deployment."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self.prefix = prefix
        self.partitions = partitions
        self.meta = f"{prefix}:meta"
        """hash: what the deployment was first started with (partitions, format). Permanent."""
        bell = f"{prefix}:{{doorbell}}"
        self.doorbell = f"{bell}:list"
        """list: one item per turn that became ready; workers block on it. TTL 1 day. Speed only, as all of the line."""
        self.leaving = f"{bell}:leaving:"
        """prefix; + the id of one who waits. list: an item ends the wait, which is at this key too. TTL 1 minute."""
        self.line = f"{bell}:line"
        """hash: how many turns wait for a worker, and where the fair order stands (lua/lib/line.lua). TTL 1 day."""
        self.line_tenants = f"{bell}:tenants"
        """sorted set: tenant with waiting turns -> when its next turn comes, on the line's own clock. TTL 1 day."""
        self.line_users = f"{bell}:users:"
        """prefix; + tenant. sorted set: user with waiting turns -> when the next one comes. TTL 1 day."""
        self.line_turns = f"{bell}:turns:"
        """prefix; + tenant/user. sorted set: `tenant/thread/request` -> its number in the line. TTL 1 day."""
        self.recoverer = f"{prefix}:recoverer"
        """string: who looks for lapsed leases now. TTL a few `recover_interval`."""
        self.members = f"{prefix}:members"
        """hash: node id -> when (ms) and what a process last said of itself; `/looked` -> when somebody last asked.
        TTL 30 s."""
        self.revocations = f"{prefix}:revocations"
        """stream: k = `s` or `t`, t = tenant, n = the subject whose tokens until now were taken back, or the id of the
        token that was. TTL 31 days."""
        self.revoked = f"{prefix}:revoked"
        """channel: there is something new in `revocations`; every node listens."""
        self.thread = lru_cache(maxsize=REMEMBERED)(self._thread)
        self.partition = lru_cache(maxsize=None)(self._partition)

    def tenant(self, tenant: str) -> str:
        """Return the sorted set of a tenant's turns that may be under way: member -> when looked at (s).

        TTL `thread_ttl`.
        """
        return f"{self.prefix}:{{{tenant}}}:tenant"

    def user(self, tenant: str, subject: str) -> str:
        """Return the same of one user; in one slot of a cluster with the tenant's."""
        return f"{self.prefix}:{{{tenant}}}:user:{user_digest(subject)}"

    def threads(self, tenant: str, subject: str) -> str:
        """Return the sorted set of a user's threads: thread id -> last started (ms, no two alike). TTL `thread_ttl`."""
        return f"{self.prefix}:threads:{tenant}/{user_digest(subject)}"

    def user_calls(self, tenant: str, subject: str) -> str:
        """Return the string of a user's allowance of calls: `left now` (ms). TTL 10 s, and until it is full."""
        return f"{self.prefix}:calls:user:{tenant}/{user_digest(subject)}"

    def tenant_calls(self, tenant: str) -> str:
        """Return the same of a tenant."""
        return f"{self.prefix}:calls:tenant:{tenant}"

    def address_connects(self, address: str) -> str:
        """Return the same of the connections that an address, or a network, begins."""
        return f"{self.prefix}:calls:connects:{address}"

    def address_calls(self, address: str) -> str:
        """Return the same of its other HTTP calls."""
        return f"{self.prefix}:calls:http:{address}"

    def canary(self, node_id: str, tag: str = "") -> str:
        """Return the channel on which a process listens for its own voice; on a Cluster, one for each shard."""
        return f"{self.prefix}:canary:{{{tag}}}:{node_id}" if tag else f"{self.prefix}:canary:{node_id}"

    def _slot(self, partition: int) -> str:
        return f"{self.prefix}:{{{partition}}}"

    def _partition(self, partition: int) -> PartitionKeys:
        slot = self._slot(partition)
        return PartitionKeys(due=f"{slot}:due", ready=f"{slot}:ready", calls=f"{slot}:call:", control=f"{slot}:control")

    def _thread(self, ref: ThreadRef) -> ThreadKeys:
        partition = partition_of(ref, self.partitions)
        slot = self._slot(partition)
        return ThreadKeys(
            ref=ref,
            thread=f"{slot}:thread:{ref}",
            log=f"{slot}:log:{ref}",
            session=f"{slot}:session:{ref}",
            lanes=f"{slot}:lane:{ref}/",
            turns=f"{slot}:turn:{ref}/",
            steps=f"{slot}:steps:{ref}/",
            approvals=f"{slot}:approvals:{ref}/",
            texts=f"{slot}:text:{ref}/",
            idempotency=f"{slot}:idempotency:{ref}/",
            branches=f"{slot}:branches:{ref}",
            branch=f"{slot}:branch:{ref}/",
            watchers=f"{slot}:watchers:{ref}",
            requests=f"{slot}:requests:{ref}",
            live=f"{slot}:live:{ref}",
            partition=self.partition(partition),
        )


class RelayChannels:
    """The channels by which nodes carry Socket.IO's own features to each other (gateway/manager.py).

    No hash tag: on a cluster each channel has its own slot. A node's channel, a namespace's and a room's are three
    kinds of name, and what servers and clients named themselves stands in JSON: no two share a channel.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def node(self, node_id: str) -> str:
        """Return the channel of what concerns one node: its clients, and the answers to what it asked."""
        return f"{self.prefix}:node:{node_id}"

    def namespace(self, namespace: str) -> str:
        """Return the channel of what everybody in a namespace is told."""
        return f"{self.prefix}:namespace:{json.dumps(namespace)}"

    def room(self, namespace: str, room: str | int) -> str:
        """Return the channel of one room of a namespace."""
        return f"{self.prefix}:room:{json.dumps([namespace, room])}"

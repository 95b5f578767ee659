"""Notices: what those who watch a thread are told beside its log.

A notice has no offset: it is not stored, not sent again, and takes no place between two events. It travels on the
thread's live channel (lua/lib/notice.lua), and whoever needs to be sure asks the verb that tells the same.
"""

from __future__ import annotations

THREAD_DELETED = "thread_deleted"
THREAD_PRESENCE = "thread_presence"
THREAD_RENAMED = "thread_renamed"

"""Identities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backplane.errors import InvalidThreadId
from backplane.ids import ThreadRef, new_id, partition_of, thread_ref
from backplane.keys import Keys, split_member

ALLOWED = st.text(alphabet="abcXYZ019._:-", min_size=1, max_size=128)


def test_an_id_is_trimmed() -> None:
    assert thread_ref("  a:b-1 \n") == ThreadRef("default", "a:b-1")


@pytest.mark.parametrize(
    "bad",
    ["", "  ", "a" * 129, "x" * 1_000_000, "}", "{1}", "*", "a\nb", "x/meta", "😀", "é", "a b", None, 7, b"a", []],
)
def test_an_id_of_another_form_is_refused(bad: object) -> None:
    with pytest.raises(InvalidThreadId):
        thread_ref(bad)


def test_the_refusal_does_not_repeat_what_came() -> None:
    with pytest.raises(InvalidThreadId) as caught:
        thread_ref("evil\nCRITICAL forged line")
    assert "CRITICAL" not in caught.value.message


@given(ALLOWED, ALLOWED, ALLOWED, ALLOWED)
def test_no_two_threads_share_a_key(tenant: str, one: str, other_tenant: str, two: str) -> None:
    """The mapping from (tenant, thread) to every key is injective, even across kinds of keys."""
    first, second = ThreadRef(tenant, one), ThreadRef(other_tenant, two)
    keys = Keys("p", 64)

    def names(ref: ThreadRef) -> set[str]:
        found = keys.thread(ref)
        return {
            found.thread, found.log, found.session, found.lanes + "steer", found.live,
            found.turn("r"), found.texts + "r", found.idempotency + "d",
        }  # fmt: skip

    assert len(names(first)) == 8
    if first != second:
        assert not names(first) & names(second)


@given(ALLOWED)
def test_all_keys_of_a_thread_share_the_hash_tag_of_its_partition(thread_id: str) -> None:
    """One script can touch them all, on a cluster too: the tag is the first {...} of the name."""
    ref = ThreadRef("default", thread_id)
    keys = Keys("p", 64).thread(ref)
    tag = f"p:{{{partition_of(ref, 64)}}}:"
    for name in (keys.thread, keys.log, keys.session, keys.lanes, keys.turns, keys.texts, keys.idempotency, keys.live,
                 keys.partition.due, keys.partition.ready, keys.partition.control):  # fmt: skip
        assert name.startswith(tag)


def test_partitions_are_the_same_in_every_process() -> None:
    assert [partition_of(ThreadRef("default", f"t{n}"), 64) for n in range(4)] == [12, 26, 32, 54]


def test_a_member_leads_back_to_its_turn() -> None:
    ref = thread_ref("a:b")
    member = Keys("p", 4).thread(ref).member("r-1")
    assert split_member(member) == (ref, "r-1")


def test_ids_do_not_repeat_and_hold_nothing_that_splits_keys() -> None:
    made = {new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert not any("/" in one or "{" in one for one in made)

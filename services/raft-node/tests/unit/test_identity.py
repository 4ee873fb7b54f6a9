"""Identities: both volumes agree, and a wiped one is refused with the way out."""

from __future__ import annotations

import pytest

from raft_node.errors import CorruptionError, DiskError, IdentityError
from raft_node.runtime.members import identity as identities
from raft_testing.files import MemoryFileSystem

WAL, DATA = "w", "d"


def new_disk() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_directory(WAL)
    fs.make_directory(DATA)
    return fs


def load(fs: MemoryFileSystem, name: str = "shard-0-0", shard: int = 0) -> identities.Identity:
    return identities.load_or_create(fs, WAL, DATA, name, shard)


def test_a_new_node_draws_an_incarnation_and_keeps_it() -> None:
    fs = new_disk()
    first = load(fs)
    assert first.incarnation > 0
    assert load(fs) == first


def test_two_new_nodes_differ() -> None:
    assert load(new_disk()).incarnation != load(new_disk()).incarnation


def test_the_identity_is_durable_on_both_volumes_before_it_is_told() -> None:
    fs = new_disk()
    load(fs)
    assert fs.is_synced(f"{WAL}/IDENTITY")
    assert fs.is_synced(f"{DATA}/IDENTITY")


def test_joining_a_cluster_is_kept() -> None:
    fs = new_disk()
    joined = identities.join_cluster(fs, WAL, DATA, load(fs), "c0ffee")
    assert joined.cluster_id == "c0ffee"
    assert load(fs) == joined


@pytest.mark.parametrize("wiped", [WAL, DATA])
def test_a_wiped_volume_of_a_member_is_refused_with_the_way_out(wiped: str) -> None:
    fs = new_disk()
    identities.join_cluster(fs, WAL, DATA, load(fs), "c0ffee")
    fs.remove(f"{wiped}/IDENTITY")
    with pytest.raises(IdentityError, match="members replace shard-0-0"):
        load(fs)


@pytest.mark.parametrize("directory", [WAL, DATA])
def test_data_without_an_identity_is_refused(directory: str) -> None:
    fs = new_disk()
    fs.put(f"{directory}/000001.sst", b"x")
    with pytest.raises(IdentityError, match="IDENTITY"):
        load(fs)
    assert not fs.exists(f"{directory}/IDENTITY")


def test_the_volumes_of_another_node_are_refused() -> None:
    fs = new_disk()
    load(fs)
    with pytest.raises(IdentityError, match="belong to shard-0-0"):
        load(fs, "shard-0-1")
    with pytest.raises(IdentityError, match="of shard 0"):
        load(fs, "shard-0-0", 1)


def test_volumes_of_two_incarnations_are_refused() -> None:
    fs, other = new_disk(), new_disk()
    load(fs)
    load(other)
    fs.put(f"{DATA}/IDENTITY", other.read_file(f"{DATA}/IDENTITY"))
    with pytest.raises(IdentityError, match="different"):
        load(fs)


def test_volumes_of_two_clusters_are_refused() -> None:
    fs = new_disk()
    identity = load(fs)
    identities.join_cluster(fs, WAL, DATA, identity, "c0ffee")
    kept = fs.read_file(f"{WAL}/IDENTITY")
    identities.join_cluster(fs, WAL, DATA, identity, "decaf")
    fs.put(f"{WAL}/IDENTITY", kept)
    with pytest.raises(IdentityError, match="different clusters"):
        load(fs)


def test_every_flipped_bit_of_an_identity_is_noticed() -> None:
    fs = new_disk()
    load(fs)
    for bit in range(8 * len(fs.read_file(f"{WAL}/IDENTITY"))):
        fs.flip_bit(f"{WAL}/IDENTITY", bit)
        with pytest.raises(CorruptionError):
            load(fs)
        fs.flip_bit(f"{WAL}/IDENTITY", bit)


def test_a_first_start_that_is_cut_anywhere_can_be_repeated() -> None:
    for operations in range(1, 40):
        fs = new_disk()
        fs.fail_at(operations)
        try:
            load(fs)
        except DiskError:
            pass
        else:
            return
        fs.heal()
        identity = load(fs)
        assert load(fs) == identity
    raise AssertionError("the first start never ended")


@pytest.mark.parametrize("kept", [WAL, DATA])
def test_volumes_that_were_given_up_are_never_used_again(kept: str) -> None:
    fs = new_disk()
    load(fs)
    identities.give_up(fs, WAL, DATA, "it lost entry 9; run `dougctl members replace shard-0-0`")
    assert fs.is_synced(f"{WAL}/REFUSED") and fs.is_synced(f"{DATA}/REFUSED")
    fs.remove(f"{DATA if kept == WAL else WAL}/REFUSED")
    with pytest.raises(IdentityError, match="members replace shard-0-0"):
        load(fs)


def test_a_member_whose_log_was_removed_is_refused_with_the_way_out() -> None:
    fs = new_disk()
    identity = load(fs)
    identities.check_log_is_there(fs, WAL, identity)  # It has joined nothing yet.
    joined = identities.join_cluster(fs, WAL, DATA, identity, "c0ffee")
    with pytest.raises(IdentityError, match="members replace shard-0-0"):
        identities.check_log_is_there(fs, WAL, joined)
    fs.put(f"{WAL}/00000000000000000001.wal", b"x")
    identities.check_log_is_there(fs, WAL, joined)


@pytest.mark.parametrize("lost", [WAL, DATA])
def test_nobody_is_advised_to_wipe_what_may_be_all_that_is_left(lost: str) -> None:
    """The other volume may only be unmounted, or on another claim: putting it back brings everything back."""
    fs = new_disk()
    identities.join_cluster(fs, WAL, DATA, load(fs), "c0ffee")
    fs.remove(f"{lost}/IDENTITY")
    with pytest.raises(IdentityError) as refused:
        load(fs)
    assert "put it back" in str(refused.value) and "wipe" not in str(refused.value).lower()
    fs = new_disk()
    joined = identities.join_cluster(fs, WAL, DATA, load(fs), "c0ffee")
    with pytest.raises(IdentityError) as refused:
        identities.check_log_is_there(fs, WAL, joined)
    assert "put them back" in str(refused.value) and "wipe" not in str(refused.value).lower()

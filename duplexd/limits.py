"""Every limit and time-out, by name, with its unit.

Two kinds. What a format, a grammar or a protocol fixes is a constant: both ends have to know it.
What bounds a running program is a field of a frozen dataclass, one for each room. The code that
assembles a program passes it in, so a test passes a small one and reaches the bound in a few steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from duplexd.units import KIB, MIB, TIB

# Volumes
VOLUME_ALIGNMENT_BYTES = 4096
VOLUMES_MAX = 4096
VOLUME_BYTES_MAX = 1 << 60  # 1 EiB: offsets and their sums stay far from 63 bits

# Configuration
JOURNAL_SIZE_BYTES_MIN = 16 * MIB
JOURNAL_SIZE_BYTES_MAX = 4 * TIB
COPY_RATE_BYTES_MIN = 64 * KIB  # a second
# How long a disk may take to answer before its image counts as failed
SECONDARY_TIMEOUT_SECONDS_DEFAULT = 5.0
PRIMARY_TIMEOUT_SECONDS_DEFAULT = 30.0
DISK_TIMEOUT_SECONDS_MIN = 0.5
DISK_TIMEOUT_SECONDS_MAX = 3600.0
DISK_ASKED_MAX = 256  # images of a disk that are asked at once when one of them does not answer
SUSPENDED_SECONDS_DEFAULT = 24 * 3600.0  # longer than a backup takes
SCRUB_RATE_BYTES_DEFAULT = 32 * MIB  # a second, of each image
EXPECTED_SECONDS_MIN, EXPECTED_SECONDS_MAX = 1.0, 10 * 366 * 86400.0  # of [health]
HOLD_SECONDS_DEFAULT = 2.0
DELAY_SECONDS_MIN, DELAY_SECONDS_MAX = 1.0, 7 * 86400.0  # of a delayed secondary
HOLD_SECONDS_MAX = 10.0  # Linux's NBD client may give up at 30 s
# `duplexd attach`: for an answer to one request of the kernel's driver, which then sends it again
# on a new connection. A request that was in flight when the daemon died waits for as long.
ATTACH_TIMEOUT_SECONDS_DEFAULT = 30
ATTACH_TIMEOUT_SECONDS_MIN, ATTACH_TIMEOUT_SECONDS_MAX = 15, 3600  # above any hold
ATTACH_DEAD_SECONDS_DEFAULT = 3600  # without a daemon, until requests fail
ATTACH_DEAD_SECONDS_MAX = 30 * 86400
ATTACH_CONNECTIONS_MAX = 16
# Programs around a cut. A database that writes a checkpoint may take minutes.
HOOK_TIMEOUT_SECONDS_DEFAULT = 10.0
HOOK_TIMEOUT_SECONDS_MIN, HOOK_TIMEOUT_SECONDS_MAX = 0.1, 600.0
HOOK_OUTPUT_BYTES_MAX = 4 * KIB  # that is kept, the last of it
HOOK_ARGUMENTS_MAX = 64
MEMBERS_MAX = 256  # controllers that take a cut together
CLONE_LIMIT_BYTES_DEFAULT = 4096 * MIB  # of changes, of each volume of a clone
CLONE_LIMIT_BYTES_MIN = 1 * MIB
TRACKED_CUTS_DEFAULT, TRACKED_CUTS_MAX = 32, 1024  # of each volume, for what changed between them
# Of a controller, 0.1 KB of each checkpoint; at least those that are being made at a time
MARKS_KEPT_DEFAULT, MARKS_KEPT_MIN, MARKS_KEPT_MAX = 1000, 16, 10_000
MARK_EVERY_SECONDS_MIN = 1.0
IMAGE_MODE_DEFAULT = 0o600  # of images that are created: what is on volumes is nobody else's
SOCKET_PATH_BYTES_MAX = 107  # sun_path holds 108 with its NUL
CANARY_RECORDS_PER_SECOND_DEFAULT = 200
CANARY_RECORDS_PER_SECOND_MAX = 10_000

# The API
# What controllers and coordinators say to each other; raised when old and new do not understand
# each other.
GROUP_PROTOCOL = 1
CUT_READ_BYTES_DEFAULT = 64 * KIB
CUT_READ_BYTES_MAX = 1 * MIB  # of a suspended secondary, in one request
# A journal whose disk is silent for so long takes no changes: said by status, and not ready
JOURNAL_SILENT_SECONDS_MAX = 3.0
GRADE_CHARACTERS_MAX = 400
NAME_CHARACTERS_MAX = 255
PATH_CHARACTERS_MAX = 4095
TAG_CHARACTERS_MAX = 200

# Threads: read only by the daemon, which makes them
WORKER_THREADS = 4  # that read, write or sync one leg at once
WORKER_THREADS_SHARED = 32  # all together; a leg that none works on gets one even then
WORKERS_CLOSE_SECONDS_MAX = 5.0  # for calls that still run: what matters has been waited for
JOURNAL_THREADS = 2  # one batch and one sync at a time


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Of one controller: write path, journal, pairs, holds."""

    # A batch up to this, zeroes included, is done in the event loop, a larger one in a thread
    inline_batch_bytes_max: int = 512 * KIB
    # A batch takes a few milliseconds, and all else waits for it. A change counts for its length
    # and for what it costs however short it is. Four of the longest records fit.
    batch_bytes_max: int = 4 * MIB + 128 * KIB
    change_cost_bytes: int = 24 * KIB
    shared_cost_max: int = 768 * KIB  # of a batch while several volumes have changes queued
    shared_piece_bytes: int = 256 * KIB  # and of a long WRITE in it
    shared_batches: int = 64  # that are like this once several had
    turn_cost: int = 256 * KIB  # that one volume may take before it is the next one's turn
    # A piece of a long TRIM or WRITE_ZEROES; how long the next one is follows from its time
    zero_bytes_first: int = 4 * MIB
    zero_bytes_max: int = 256 * MIB
    zero_seconds: float = 0.002
    marker_reserve_bytes: int = 2 * MIB  # room that batches leave in the journal for markers
    record_bytes_max: int = 1 * MIB  # a longer WRITE becomes several records
    journal_segments: int = 16  # of a small journal; a large one has more, of the largest size
    spare_segments: int = 2  # kept ready to be written
    segment_bytes_min: int = 4 * MIB
    segment_bytes_max: int = 16 * MIB  # recovery holds a whole segment in memory
    checkpoint_interval_s: float = 20.0
    sync_interval_s: float = 1.0
    change_grain_bytes_min: int = 64 * KIB
    change_grains_max: int = 1 << 20  # a volume's change map has at most this many grains
    region_bytes_min: int = 16 * MIB
    regions_max: int = 4096
    changed_extents_max: int = 8192  # of one answer: some 3 ms of the loop, half a MiB of JSON
    follower_chunk_bytes: int = 4 * MIB
    staged_piece_bytes_max: int = 4 * MIB
    copied_mark_bytes: int = 64 * MIB  # progress of a copy is made durable this often
    copy_ahead_bytes_max: int = 64 * MIB  # of a copy, in memory only
    staging_file_bytes_max: int = 256 * MIB  # but not more than the journal has
    unreadable_ranges_max: int = 64  # of a primary, that a copy leaves out before it gives up
    copy_pause_seconds_max: float = 0.05  # how long a paced copy does not look at the journal
    look_again_seconds_max: float = 0.5  # that status waits for images that were found wrong
    image_look_seconds: float = 10.0  # between two looks at the paths of open images
    mark_look_seconds: float = 0.1  # between two looks for a group whose mark is due
    auto_resync_look_seconds: float = 1.0  # between two looks for pairs that need one
    auto_resync_pause_seconds_min: float = 1.0  # before the first attempt; doubles with each
    auto_resync_pause_seconds_max: float = 300.0
    auto_resync_calm_seconds: float = 60.0  # of DUPLEX, after which pauses are short again
    follower_final_bytes: int = 128 * KIB  # the lag that a follower makes up in the event loop
    follower_step_seconds: float = 0.002  # that a step takes at most which clients may wait for
    async_lag_bytes_max: int = 64 * MIB
    hold_seconds_max: float = HOLD_SECONDS_MAX
    # In one answer to a client that asks what is data, 0.2 ms of the loop; it asks on from there
    extents_max: int = 512
    extents_seconds_max: float = 0.25
    extents_slow_seconds: float = 0.02  # that such a question makes those of other disks wait
    # Of what changed up to a point since an earlier cut: 128 KiB each, all that one connection may
    # ask for, and some more
    bitmaps_kept_max: int = 64
    differing_runs_max: int = 64  # ranges recorded of a pair whose legs differ; more become one
    scrub_look_seconds: float = 10.0  # between two looks for a pair that is due
    scrub_mark_bytes: int = 1024 * MIB  # compared, before the journal says how far a scrub is
    recheck_hold_seconds: float = 5.0  # of `verify`, while it looks at a difference again
    leases_max: int = 256
    clones_max: int = 64  # of volumes; each takes up to 4 MiB of memory
    # What clones leave free on the disk of state_dir, for the journal and its checkpoints
    clone_free_bytes_min: int = 256 * MIB
    named_readers_max: int = 32  # of a volume at its cut; each is in every checkpoint
    cuts_kept_max: int = 512  # remembered; a forgotten cut is never called consistent
    void_cuts_kept_max: int = 64  # the same of void ones, which use up none of those
    cut_figures_kept_max: int = 16  # of them, those of which is known how long writes waited

    def __post_init__(self) -> None:
        """Raise ValueError if a piece that shares a batch would not fit into a record: the journal
        would wait for ever for room that it believes to have.
        """
        if self.shared_piece_bytes > self.record_bytes_max:
            raise ValueError(
                f"shared_piece_bytes {self.shared_piece_bytes} is above "
                f"record_bytes_max {self.record_bytes_max}"
            )


@dataclass(frozen=True, slots=True)
class NbdLimits:
    """Of the NBD server, over all its listeners."""

    connections_max: int = 4096  # further ones are closed at once
    handshake_seconds_max: float = 10.0  # from one option to the next
    handshake_total_seconds_max: float = 600.0
    # a client that lists asks about each export; an entry of a LIST counts as one
    tls_handshakes_per_second_max: float = 200.0  # each costs the loop 1 or 2 ms
    handshake_options_max: int = 8 * VOLUMES_MAX
    close_seconds_max: float = 10.0  # for a client to take its last replies
    # Changes that wait (held, or behind a batch) and receive buffers, all connections; beyond it a
    # connection has no more than its share
    queued_bytes_max: int = 256 * MIB
    # Reads in worker threads, and replies until the socket has taken them, all connections
    read_bytes_max: int = 256 * MIB
    connection_share_bytes: int = 64 * KIB  # what each may have of both, whatever others have
    receive_bytes_min: int = 16 * KIB  # a receive buffer at first, and again when nothing comes
    connection_receive_bytes: int = 256 * KIB  # a receive buffer that was full several times
    # A long payload is taken in pieces of this size, and a long read made; both in those of the
    # other one while there is no room
    piece_bytes_max: int = 1 * MIB
    piece_bytes_min: int = 64 * KIB
    # Of one connection, waiting; beyond them nothing is read from it. While a batch of four long
    # changes is written, the next one comes.
    connection_in_flight_bytes_max: int = 8 * MIB
    connection_in_flight_requests_max: int = 1024
    request_bytes: int = 512  # what a change takes beside its payload
    connection_read_bytes_max: int = 16 * MIB  # of one connection; one READ may be longer
    # Of one connection, before others have their turn of the loop. A receive buffer holds thousands
    # of those without a payload.
    turn_requests_max: int = 64
    # What those together may take of a turn of the loop who go on with what they have sent, and
    # those who get long replies
    turn_seconds: float = 0.0005
    volume_pieces_max: int = 2  # of long reads of a volume, that are read at once
    # replies the client does not take; beyond it nothing more is read for it
    connection_unsent_bytes_max: int = 1 * MIB
    inline_read_bytes_max: int = 256 * KIB  # longer reads are done in worker threads
    spliced_read_bytes_min: int = 128 * KIB  # longer reads over Unix sockets are not copied
    pipes_max: int = 16  # for these, of 1 MiB and two descriptors; the others are copied
    # A shorter read that needs a worker brings holes into the page cache, too: the next one of it
    # is served from there
    sparse_read_bytes_min: int = 64 * KIB
    cache_bytes_max: int = 64 * MIB  # of one CACHE; the rest of it is ignored
    cache_piece_bytes: int = 1 * MIB  # that it reads at once
    status_bytes: int = 2 * MIB  # that a BLOCK_STATUS counts for as a read: 8 of one connection
    bitmap_extents_max: int = 256  # of all dirty bitmaps in one answer: 1 ms of the loop
    reply_buffer_bytes: int = 512 * KIB
    # A payload that does not go on, or replies that are not taken, for so long close the connection
    stall_seconds_max: float = 30.0
    stall_bytes_min: int = 4 * KIB  # in that time, or it does not go on
    look_seconds: float = 7.5  # between two looks at that
    keepalive_idle_seconds: int = 30  # of silence, after which TCP asks whether the client is there
    keepalive_interval_seconds: int = 10
    keepalive_probes: int = 3
    log_lines_burst: int = 20  # of one kind, about clients that come, go and misbehave
    log_lines_per_second: float = 1.0  # of one kind, after these


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """Of the control API, over the Unix socket and TLS."""

    body_bytes_max: int = 1 * MIB  # of a request
    drain_bytes_max: int = 16 * MIB  # of a body that is too large, read so that the answer arrives
    header_bytes_max: int = 64 * KIB
    pipelined_requests_max: int = 16  # sent ahead of their answers, on one connection
    connections_max: int = 320  # every lease has a connection; the rest is for commands
    local_connections_min: int = 32  # of them, those that TLS clients leave to the Unix socket
    owner_connections_min: int = 16  # of these, those kept for root and the daemon's user
    observers_max: int = 64  # connections of all who may only look
    observer_connections_max: int = 16  # of one of them: a user, or the name of a certificate
    exporter_connections_max: int = 16  # of [metrics] listen, beside the others
    roleless_max: int = 16  # connections of all certificates without a role
    roleless_connections_max: int = 4
    look_share: float = 0.05  # of the event loop, for requests that look: of each kind of peer
    look_seconds_max: float = 5.0  # for such a request to wait for its turn
    operator_credit_seconds: float = 0.5  # of the loop, that they may take at once after a pause
    observer_credit_seconds: float = 0.1
    unread_seconds_max: float = 30.0  # for the reader of a stream to take what was sent
    request_seconds_max: float = 10.0  # from the first byte of a request to its last; between two
    stop_seconds_max: float = 1.0  # running answers may take this long when the daemon stops
    silent_max: int = 256  # TLS clients that have sent nothing yet
    accepts_per_second_max: int = 500  # over TLS, and on the Unix socket
    user_connections_burst: float = 400.0  # on the Unix socket, that a user may open at once
    user_connections_per_second: float = 50.0
    handshakes_max: int = 64  # TLS clients without a certificate yet; others wait to be begun
    handshakes_per_second_max: int = 50  # each costs the loop 1 or 2 ms, and needs no permission
    handshake_seconds_max: float = 5.0  # and for the first bytes of a client
    handshake_seconds_min: float = 1.0  # that none is broken off for others who want its place
    peer_silent_seconds_max: int = 10  # a TLS peer that acknowledges nothing for so long is gone
    events_queued_max: int = 1024  # for one listener; beyond it the listener is disconnected
    threads_answer_seconds_max: float = 3.0  # for /healthz to hear of the disk threads
    heartbeat_seconds: float = 0.25  # a hold's stream has a line at least this often
    progress_seconds: float = 0.25


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Of clients of the control API: duplexctl and groups of controllers."""

    body_bytes_max: int = 64 * MIB  # of an answer
    header_bytes_max: int = 64 * KIB
    connect_seconds_max: float = 5.0
    # an answer that takes no time takes no longer; of others, a sign of life this often
    answer_seconds_max: float = 10.0
    settle_seconds: float = 10.0  # members that did not answer are asked again for so long
    release_seconds_max: float = 5.0  # for a daemon to say how a hold ended that is being released
    changes_answers_max: int = 4096  # with extents of one volume: 32 million of these
    late_seconds_max: float = 2.0  # for a daemon to say that the lease has reached its deadline


@dataclass(frozen=True, slots=True)
class ProofLimits:
    """Of `duplexctl verify-cut`."""

    certificate_bytes_max: int = 64 * MIB
    chunk_bytes: int = 4 * MIB  # of an image, compared at a time
    # Ranges kept apart, over all volumes of a controller: 16 bytes each. With more, less is
    # checked.
    ranges_max: int = 1 << 20
    tries: int = 5  # to read a journal that its daemon recycles meanwhile
    start_seconds_max: float = 5.0  # to wait for a daemon that is starting
    places_max: int = 16  # of a volume that differ, listed one by one; the rest is counted


@dataclass(frozen=True, slots=True)
class AttachLimits:
    """Of `duplexd attach`."""

    answer_seconds_max: float = 10.0  # of a server, to each step of a handshake
    retry_seconds_min: float = 0.1  # before another attempt to connect; doubled each time
    retry_seconds_max: float = 2.0
    look_seconds: float = 60.0  # without a notice, at the device and at connections not known
    size_seconds: float = 5.0  # between two looks at the volume, whether it has grown


@dataclass(frozen=True, slots=True)
class BackupLimits:
    """Of `duplexctl backup`."""

    copies: int = 4  # volumes that are copied, compared or summed at a time
    chain_max: int = 100  # images that lie on one another: QEMU opens all of them
    # for the connections of a run that was killed to end: the kernel kills its programs at once
    reader_seconds_max: float = 5.0
    look_seconds: float = 0.2  # between two looks at them


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """Of a canary."""

    volume_bytes_max: int = 64 * MIB  # of a reserved volume: it is read before the first write
    answer_seconds_max: float = 10.0  # of a controller, to one request
    probe_seconds: float = 0.5  # between two questions for a controller's sequence number
    poll_seconds: float = 0.1
    again_seconds: float = 0.5  # before another attempt to reach what did not answer
    decided_seconds_max: float = 60.0  # for all members to be READY for a cut, or know its verdict
    delivered_seconds_max: float = 60.0  # a good grade to a controller; a bad one: no limit
    write_seconds_max: float = 60.0  # longer than any hold: a later reply is a lost connection
    remembered_seconds: float = 300.0  # of writes, so that a cut can be graded that late
    probes_max: int = 600  # remembered, of each member
    cuts_remembered_max: int = 1024
    stop_seconds_max: float = 5.0


@dataclass(frozen=True, slots=True)
class DaemonLimits:
    """Of the process around the engine: its start, its stop, what it keeps for a bad day."""

    # At a start, for an address, a name or an image to be had. With the unit's five starts in five
    # minutes it must be above one minute, or systemd gives up before the state has passed.
    passing_seconds_max: float = 90.0
    passing_retry_seconds: float = 1.0
    stand_in_passing_seconds: float = 1.0  # the same, while clients wait for a restart in place
    state_lock_seconds_max: float = 1.0  # for `duplexd check` to have looked at it
    look_seconds_max: float = 2.0  # at paths, before there is anything that could watch a disk
    check_answer_seconds_max: float = 5.0  # of `duplexd check`, for a sign of a daemon that runs
    start_extension_seconds: float = 60.0  # asked of systemd, again and again while the loop runs
    stop_seconds_max: float = 60.0  # TimeoutStopSec of the unit is longer
    # Without its journal a stop can do nothing more, and loses nothing by ending
    stop_journal_seconds_max: float = 10.0
    reserve_bytes: int = 4 * MIB  # on the disk of state_dir; more if the checkpoint is large
    checkpoint_reserve_bytes: int = 1 * MIB  # the same, for checkpoints while the daemon runs
    reserve_retry_seconds: float = 30.0  # while there is no room for it
    reserve_check_seconds: float = 60.0  # whether it is large enough still
    health_look_seconds: float = 30.0  # between two looks at what is not well, for the log
    room_look_seconds: float = 30.0  # between two looks at what room the images have
    room_answer_seconds_max: float = 5.0  # for a disk to say that
    # For what is opened now and then: segments, checkpoints, logs, pipes of long replies
    descriptors_reserve: int = 96
    connections_min: int = 8  # of NBD clients; with fewer descriptors than that takes, no start


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of a daemon."""

    engine: EngineLimits = EngineLimits()
    nbd: NbdLimits = NbdLimits()
    api: ApiLimits = ApiLimits()
    daemon: DaemonLimits = DaemonLimits()

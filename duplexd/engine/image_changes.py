"""What opens images while the daemon runs: a reload, images that come back, images taken as they
are.

All of it opens by one opener and asks the same parts first, so it is put together here and not in
the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.engine.adopt import Adoptions
from duplexd.engine.growing import Growing
from duplexd.engine.left_images import LeftImages
from duplexd.engine.live_changes import LiveChanges
from duplexd.engine.new_images import NewImages
from duplexd.engine.reload import Reload
from duplexd.engine.reopen import Reopening

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.config.daemon_file import Config
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.cut_readers import CutReaders
    from duplexd.engine.events import Events
    from duplexd.engine.failures import Failures
    from duplexd.engine.leases import Leases
    from duplexd.engine.opening import Opener
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.engine.write_path import WritePath
    from duplexd.limits import EngineLimits
    from duplexd.replication.followers import Followers
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.threads import Workers


class ImageChanges:
    """Of one controller. `config` gives the configuration of now."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        checkpointer: Checkpointer,
        write_path: WritePath,
        leases: Leases,
        archive: CutArchive,
        followers: Followers,
        readers: CutReaders,
        failures: Failures,
        opener: Opener,
        legs: LegCalls,
        workers: Workers,
        config: Callable[[], Config],
        events: Events,
        limits: EngineLimits,
    ) -> None:
        emit = events.emit
        self.growing = growing = Growing(timeline, volumes, checkpointer, legs, emit)
        live_changes = LiveChanges(volumes, leases, archive, followers, readers)
        new_images = NewImages(timeline, volumes, opener, live_changes)
        self.reloads = Reload(
            timeline, volumes, checkpointer, followers, leases, live_changes, new_images,
            LeftImages(opener, emit), growing,
        )  # fmt: skip
        self.reopening = Reopening(
            timeline, volumes, checkpointer, write_path, followers, failures, opener, workers,
            config, emit, limits,
        )  # fmt: skip
        self.adoptions = Adoptions(
            timeline, volumes, checkpointer, failures, self.reopening, legs, emit, limits
        )
        failures.on_left = opener.close_later

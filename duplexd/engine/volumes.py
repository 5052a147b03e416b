"""The configured volumes: opening their images, and what the journal has to be told when the configuration changed.

Used by recovery at start and by reload later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.core import state
from duplexd.core.change_map import ChangeMap
from duplexd.core.ledger import pack_map
from duplexd.errors import ConfigurationError
from duplexd.images.open import open_leg
from duplexd.units import format_size

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.core.pair import Pair
    from duplexd.engine.controller import Controller


def open_images(
    controller: Controller, config: VolumeConfig, name: str, known: Pair | None
) -> tuple[Any, Any, bool, bool]:
    """The legs of a volume, and which of them were created just now. Raises ConfigurationError, with nothing left open."""
    disk = controller.disk
    primary_path, secondary_path = (
        str(config.primary),
        str(config.secondary) if config.secondary else "",
    )
    if known is not None and known.size != config.size:
        raise ConfigurationError(
            f"volumes.{name}.size: the volume has {known.size} bytes, not {config.size}; a volume can't be resized"
        )
    if known is not None and not disk.exists(primary_path):
        raise ConfigurationError(
            f"volumes.{name}.primary: {primary_path} is missing, but the volume was in use; put the image back"
        )
    had_secondary = known is not None and known.state != state.SIMPLEX
    if secondary_path and had_secondary and not disk.exists(secondary_path):
        raise ConfigurationError(
            f"volumes.{name}.secondary: {secondary_path} is missing, but the pair was {known.state if known else ''}; "
            "put the image back, or leave `secondary` out, start, and then give a new one"
        )
    if (
        known is not None
        and had_secondary
        and secondary_path
        and known.secondary_path not in ("", secondary_path)
    ):
        raise ConfigurationError(
            f"volumes.{name}.secondary: the pair is {known.state} with {known.secondary_path}; nothing is known of {secondary_path}. "
            "Put the old path back, or leave `secondary` out, start, and then give the new one: it gets a first copy"
        )
    if secondary_path and not disk.exists(primary_path) and disk.exists(secondary_path):
        raise ConfigurationError(
            f"volumes.{name}: the secondary {secondary_path} exists, but the primary {primary_path} does not; a copy would erase it. "
            "Put the primary back, or move the secondary away"
        )
    primary, primary_new = open_leg(disk, primary_path, config.size)
    if not secondary_path:
        return primary, None, primary_new, False
    try:
        secondary, secondary_new = open_leg(disk, secondary_path, config.size)
    except Exception:
        primary.close()
        raise
    return primary, secondary, primary_new, secondary_new


def introduce(
    controller: Controller,
    name: str,
    config: VolumeConfig,
    legs: tuple[Any, Any, bool, bool],
    known: Pair | None,
) -> Pair:
    """Tell the journal what is new about a volume whose images are open. Within a step, once the journal can be written."""
    primary, secondary, primary_new, secondary_new = legs
    pair = known
    if pair is None:
        number = controller.ledger.next_id()
        controller.mark({"m": "volume", "id": number, "name": name, "size": config.size})
        pair = controller.ledger.pairs[number]
    pair.set_legs(primary, secondary, config.mode)
    if secondary is None and pair.state != state.SIMPLEX:
        controller.mark({"m": "detach", "volumes": [pair.id]})
    elif secondary is not None and pair.state == state.SIMPLEX:
        if primary_new and secondary_new:
            controller.mark({"m": "attach", "volumes": [pair.id]})
        else:
            changed = first_copy_map(pair, secondary_new)
            controller.mark(
                {
                    "m": "copy",
                    "volumes": {str(pair.id): pack_map(changed)},
                    "reason": state.FIRST_COPY,
                }
            )
    return pair


def first_copy_map(pair: Pair, secondary_new: bool) -> ChangeMap:
    """What a first copy has to look at: to a new secondary only what the primary has data in."""
    changed = ChangeMap(pair.size)
    if not secondary_new:
        changed.set_all()
        return changed
    for offset, length, is_data in pair.primary.extents(0, pair.size):
        if is_data:
            changed.set(offset, length)
    return changed


def assign_groups(controller: Controller, config: Config) -> None:
    """Take over the configured groups."""
    controller.groups = {name: list(group.volumes) for name, group in config.groups.items()}
    for pair in controller.pairs.values():
        pair.groups = [name for name, members in controller.groups.items() if pair.name in members]


def refuse_live(controller: Controller, config: Config) -> None:
    """Raises ConfigurationError that names every change that can't be made while running."""
    problems: list[str] = []
    old = controller.config.volumes
    for name, pair in controller.pairs.items():
        new = config.volumes.get(name)
        if new is None:
            if pair.connections or pair.holds:
                problems.append(
                    f"volumes.{name}: can't be removed while clients use it ({pair.connections} connected); disconnect them first"
                )
            if pair.state == state.PENDING or (
                pair.cut is not None and pair.cut.id in controller.cuts.unsettled
            ):
                problems.append(
                    f"volumes.{name}: can't be removed while its secondary is on its way; wait until it stands, or is DUPLEX"
                )
            continue
        fixed = [
            key
            for key in ("size", "primary", "mode")
            if getattr(new, key) != getattr(old[name], key)
        ]
        problems += [
            f"volumes.{name}.{key}: can't be changed while running; stop the daemon first"
            for key in fixed
        ]
        if new.secondary != old[name].secondary and old[name].secondary is not None:
            problems.append(
                f"volumes.{name}.secondary: can't be changed or removed while running; stop the daemon first, start it without, then add it"
            )
    if problems:
        raise ConfigurationError("\n".join(f"{config.source}: {problem}" for problem in problems))


async def reload(controller: Controller, config: Config) -> list[str]:
    """See `Controller.reload`."""
    refuse_live(controller, config)
    fresh = {
        name: new for name, new in config.volumes.items() if _needs_images(controller, name, new)
    }
    opened: dict[str, tuple[Any, Any, bool, bool]] = {}
    try:
        for name, new in fresh.items():
            opened[name] = _open_fresh(controller, name, new)
        if controller.pairs.keys() - config.volumes.keys():
            await (
                controller.maintenance.checkpoint()
            )  # what was flushed to them is to survive a power cut, and nobody replays it later
        async with (
            controller.maintenance.standing_still(),
            controller.jobs.trail.stepping,
        ):  # nobody is at a leg that is about to be closed
            changes = await controller.step(lambda: _switch(controller, config, opened))
    except Exception:
        for primary, secondary, *_ in opened.values():
            _close(primary, secondary)
        raise
    await controller.durable(controller.writer.written)
    await controller.maintenance.checkpoint()
    return changes


def _needs_images(controller: Controller, name: str, new: VolumeConfig) -> bool:
    return name not in controller.pairs or (
        new.secondary is not None and controller.pairs[name].secondary is None
    )


def _open_fresh(
    controller: Controller, name: str, new: VolumeConfig
) -> tuple[Any, Any, bool, bool]:
    known = controller.pairs.get(name)
    if known is None:
        return open_images(controller, new, name, None)
    secondary, created = open_leg(controller.disk, str(new.secondary), new.size)
    return None, secondary, False, created


def _close(primary: Any, secondary: Any) -> None:
    for leg in (primary, secondary):
        if leg is not None:
            leg.close()


def _switch(
    controller: Controller, config: Config, opened: dict[str, tuple[Any, Any, bool, bool]]
) -> list[str]:
    refuse_live(controller, config)  # again: clients may have come meanwhile
    written = [
        name
        for name, pair in controller.pairs.items()
        if name not in config.volumes and pair.primary_dirty
    ]
    if written:
        raise ConfigurationError(
            f"{config.source}: volumes.{written[0]}: was written to just now, so it can't be removed yet; try again"
        )
    try:
        return _switch_over(controller, config, opened)
    except Exception as error:
        controller.fail(f"a reload could not be finished: {error}")  # half of it is in the journal
        raise


def _switch_over(
    controller: Controller, config: Config, opened: dict[str, tuple[Any, Any, bool, bool]]
) -> list[str]:
    changes: list[str] = []
    for name, (primary, secondary, primary_new, secondary_new) in opened.items():
        known = controller.pairs.get(name)
        legs = (known.primary if known else primary, secondary, primary_new, secondary_new)
        controller.pairs[name] = introduce(controller, name, config.volumes[name], legs, known)
        changes.append(f"volume {name} {'has a secondary now' if known else 'added'}")
    for name in [name for name in controller.pairs if name not in config.volumes]:
        pair = controller.pairs.pop(name)
        controller.mark({"m": "remove", "id": pair.id})
        controller.jobs.trail.forget(pair)
        _close(pair.primary, pair.secondary)
        changes.append(f"volume {name} removed")
    if {name: list(group.volumes) for name, group in config.groups.items()} != controller.groups:
        changes.append("groups changed")
    before, rate = controller.config.controller.copy_rate, config.controller.copy_rate
    if before != rate:
        changes.append(
            "copies go as fast as they can"
            if rate is None
            else f"copies go at {format_size(rate)} a second at most"
        )
    controller.config = config
    assign_groups(controller, config)
    controller.jobs.adopt([controller.pairs[name] for name in opened])
    controller.emit("reloaded", changes=changes)
    return changes

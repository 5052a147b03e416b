"""`duplexctl backup --incremental` on daemons started as users start them.

Each backup is restored from its chain by QEMU alone, and compared with the secondaries at the cut.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.backup.proofs import RECORD
from duplexd.backup.run import Plan, run
from duplexd.backup.saved import CHANGED, FULL
from duplexd.backup.side_by_side import DiffersError
from duplexd.backup.sources import Source
from duplexd.backup.steps import Step
from duplexd.client import Client
from duplexd.limits import BackupLimits
from duplexd.units import KIB, MIB
from tests.support.backups import backup, ctl, is_duplex_again, made, names, restored, write
from tests.support.cluster import Cluster
from tests.support.daemon import run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.client.results import Changes
    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 64 * MIB  # several regions: a kill counts whole ones as changed
GRAIN = 64 * KIB
VOLUMES = ("data", "wal")


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    files = make_files(volumes=dict.fromkeys(VOLUMES, SIZE), groups={"db": list(VOLUMES)})
    started = start_daemon(files)
    write(files.uri("data"), 0x11, 0, 4 * MIB)
    write(files.uri("wal"), 0x22, 0, 4 * MIB)
    return started


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def do(uri: str, *commands: str) -> None:
    """What qemu-io does to a volume."""
    options = [option for command in commands for option in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "raw", *options, uri], check=True, capture_output=True)


def incremental(daemon: Daemon, destination: Path, *options: str) -> dict[str, Any]:
    """One that is there; `said`: what it wrote to stderr."""
    done = backup(daemon, destination, "--incremental", "--no-verify-cut", *options)
    return made(done) | {"said": done.stderr}


def full(daemon: Daemon, destination: Path) -> dict[str, Any]:
    return made(backup(daemon, destination, "--no-verify-cut"))


def secondaries(daemon: Daemon) -> dict[str, bytes]:
    return {name: daemon.files.secondary_of(name).read_bytes() for name in VOLUMES}


def spoil(path: Path) -> None:
    """A byte of an image."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def base_of(answer: dict[str, Any]) -> str | None:
    return answer["base"]["id"] if answer["base"] is not None else None


# ------------------------------------------------------------------------------------ a whole one


def test_a_chain_is_at_each_link_what_the_secondaries_were_also_after_trims_and_a_kill(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    uri = daemon.files.uri("data")
    links = [full(daemon, destination)]
    cuts = []
    for number in range(3):
        at = number * MIB
        do(
            uri,
            f"write -P {0x30 + number} {at + 4096} 8k",
            f"discard {at + 256 * KIB} {GRAIN}",
            f"write -z {at + 512 * KIB} 4k",
            f"write -P 9 {9 * MIB + at} {2 * GRAIN}",
        )
        if number == 1:  # an interval that counts more than what changed
            daemon.kill()
            daemon.start()
        options = ("--verify", "full") if number == 2 else ()
        links.append(made(backup(daemon, destination, "--incremental", "--no-resync", *options)))
        cuts.append(secondaries(daemon))
    assert [base_of(each) for each in links] == [None, *(each["id"] for each in links[:-1])]
    assert [restored(each, tmp_path) for each in links[1:]] == cuts
    assert [each["verify"] for each in links] == ["full", "changed", "changed", "full"]
    # after the kill the journal alone does not say what all of the secondaries held
    assert [each["verify_cut"] for each in links[1:]] == ["confirmed", "recorded", "confirmed"]
    assert cuts[0]["data"][256 * KIB : 256 * KIB + GRAIN] == bytes(GRAIN)
    first = {each["name"]: each["bytes"] for each in links[1]["volumes"]}
    # two grains and those beside them, and what an empty image has
    assert first["data"] <= 4 * GRAIN + 6 * GRAIN
    assert first["wal"] <= 6 * GRAIN
    image = Path(links[3]["path"]) / "data.qcow2"
    info = ["qemu-img", "info", "--backing-chain", "--output", "json", str(image)]
    found = json.loads(subprocess.run(info, check=True, capture_output=True).stdout)
    assert [each.get("backing-filename") for each in found] == [
        *(f"../{each['id']}/data.qcow2" for each in reversed(links[:-1])),
        None,
    ]
    assert run_duplexctl(daemon.files, "backups", str(destination), "--check").returncode == 0


def test_a_group_over_two_daemons_is_one_incremental_backup(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", {"alpha": ["a0"], "beta": ["b0"]}) as cluster:
        groups = cluster.write_groups({"db": cluster.members})
        command = ("--groups", str(groups), "--json", "backup", "db", str(tmp_path / "d"))
        for member in cluster.members:
            write(str(cluster.uri(member)), 0x40, 0, 512 * KIB)
        older = made(ctl(*command, "--no-verify-cut"))
        for byte, member in enumerate(cluster.members, 0x41):
            write(str(cluster.uri(member)), byte, GRAIN, 4096)
        answer = made(ctl(*command, "--incremental"))
        assert base_of(answer) == older["id"]
        for byte, (_, content) in enumerate(sorted(restored(answer, tmp_path).items()), 0x41):
            assert content[: 3 * GRAIN] == (
                bytes([0x40]) * GRAIN + bytes([byte]) * 4096 + bytes([0x40]) * (2 * GRAIN - 4096)
            )


def test_a_region_that_counts_after_a_kill_needs_no_more_room_than_its_data(
    daemon: Daemon, destination: Path
) -> None:
    destination.mkdir(0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "duplexd-test", str(destination)],
        check=True,
    )
    try:
        first = full(daemon, destination)
        do(daemon.files.uri("data"), "write -P 5 0 4k")
        daemon.kill()
        daemon.start()
        second = incremental(daemon, destination)
        assert base_of(second) == first["id"]
    finally:
        subprocess.run(["umount", str(destination)], check=True)


# --------------------------------------------------------------------- what cannot be built on


def test_the_first_is_full_and_then_every_nth_without_a_warning(
    daemon: Daemon, destination: Path
) -> None:
    made_of = [incremental(daemon, destination, "--full-every", "2") for _ in range(4)]
    assert "there is no older backup of these targets" in made_of[0]["said"]
    assert [base_of(each) for each in made_of] == [None, made_of[0]["id"], None, made_of[2]["id"]]
    assert [each["said"] for each in made_of[1:]] == ["", "", ""]


def test_an_older_backup_that_was_changed_is_not_built_on(
    daemon: Daemon, destination: Path
) -> None:
    first = full(daemon, destination)
    write(daemon.files.uri("data"), 0x33, MIB, GRAIN)
    second = incremental(daemon, destination)
    spoil(destination / second["id"] / "data.qcow2")
    third = incremental(daemon, destination)
    assert base_of(third) == first["id"]
    assert f"cannot be built on: {second['id']}: data.qcow2: its SHA-256" in third["said"]
    spoil(destination / first["id"] / "data.qcow2")
    fourth = incremental(daemon, destination)
    assert base_of(fourth) is None
    assert "this is a full backup: no older backup is sound" in fourth["said"]
    # and all that is lost by it is named
    done = run_duplexctl(daemon.files, "backups", str(destination), "--check")
    assert done.returncode == 1
    lost = [line for line in done.stderr.splitlines() if "which cannot be restored" in line]
    assert [line.split(": ")[-2:] for line in lost] == [
        [third["id"], f"it lies on {first['id']}, which cannot be restored"]
    ]
    assert fourth["id"] not in done.stderr


def test_a_cut_that_is_forgotten_is_not_built_on(daemon: Daemon, destination: Path) -> None:
    full(daemon, destination)
    config = daemon.files.config
    config.write_text(config.read_text().replace("[nbd]", "tracked_cuts = 2\n[nbd]"))
    assert run_duplexctl(daemon.files, "reload").returncode == 0
    for _ in range(2):
        assert run_duplexctl(daemon.files, "suspend", "db").returncode == 0
        assert run_duplexctl(daemon.files, "resync", "db", "--wait").returncode == 0
    answer = incremental(daemon, destination)
    assert base_of(answer) is None
    assert "this is a full backup: changes since" in answer["said"]


def test_another_volume_of_the_same_name_is_not_built_on(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    older = full(daemon, destination)
    daemon.stop()
    volumes = daemon.files.volumes
    daemon.files.volumes = {"wal": SIZE}
    daemon.files.groups = {"db": ["wal"]}
    daemon.files.write()
    daemon.start()
    daemon.stop()
    for image in (daemon.files.primary("data"), daemon.files.secondary_of("data")):
        image.unlink()
    daemon.files.volumes, daemon.files.groups = volumes, {"db": list(VOLUMES)}
    daemon.files.write()
    daemon.start()
    answer = incremental(daemon, destination)
    assert base_of(answer) is None
    assert f"this is a full backup: changes since {older['id']}" in answer["said"]
    assert restored(answer, tmp_path)["data"] == bytes(SIZE)


class _Watch:
    """`at` is called when a step begins."""

    def __init__(self, at: Mapping[Step, Callable[[], None]]) -> None:
        self.warned: list[str] = []
        self._at = at

    def step(self, step: Step) -> None:
        self._at.get(step, lambda: None)()

    def progress(self, name: str, done: int, total: int) -> None: ...
    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def forgotten(daemon: Daemon, destination: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A full backup, and two changes since. What is copied lacks the first: it is taken for a
    backup of the cut in between.
    """
    base = full(daemon, destination)
    write(daemon.files.uri("data"), 0x33, MIB, GRAIN)
    assert is_duplex_again(daemon)
    between = json.loads(run_duplexctl(daemon.files, "suspend", "db", "--json").stdout)["cut"]
    assert run_duplexctl(daemon.files, "resync", "db", "--wait").returncode == 0
    write(daemon.files.uri("data"), 0x34, 3 * MIB, GRAIN)
    image = Source.image

    def of_the_other(source: Source, since: str = "") -> str:
        return image(source, since and between)

    monkeypatch.setattr(Source, "image", of_the_other)
    return base


class _Forgetful(Client):
    """It learns of all changes but the first."""

    async def changes(self, *targets: str, since: str, until: str | None = None) -> Changes:
        found = await super().changes(*targets, since=since, until=until)
        for row in found.volumes:
            row["extents"] = row["extents"][1:]
        return found


async def _run(
    daemon: Daemon,
    destination: Path,
    verify: str,
    client_of: type[Client] = Client,
    at: Mapping[Step, Callable[[], None]] = MappingProxyType({}),
) -> tuple[dict[str, Any], list[str]]:
    """An incremental backup of this process; its answer, and what it warned of."""
    async with client_of.local(daemon.files.control_socket) as client:
        plan = Plan(("db",), str(destination), verify_cut=False, full_every=7, verify=verify)
        found = await run(plan, client, watch := _Watch(at), BackupLimits())
    return found.json(), watch.warned


@pytest.mark.parametrize(
    ("verify", "client_of"),
    [(FULL, _Forgetful), (CHANGED, Client)],
    ids=["known to nobody", "known to be changes"],
)
async def test_changes_that_are_not_copied_make_a_full_backup_where_they_are_compared(
    daemon: Daemon,
    destination: Path,
    tmp_path: Path,
    forgotten: dict[str, Any],
    verify: str,
    client_of: type[Client],
) -> None:
    answer, (warned,) = await _run(daemon, destination, verify, client_of)
    assert warned.startswith(f"this is a full backup: what changed, on {forgotten['id']}, is not")
    assert "data: the copy differs from the cut" in warned
    assert (answer["base"], answer["verify"]) == (None, FULL)
    assert restored(answer, tmp_path) == secondaries(daemon)
    assert len(names(destination)) == 2
    assert is_duplex_again(daemon)


async def test_a_cut_that_is_forgotten_before_it_is_copied_makes_a_full_backup(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    """As with a daemon that does not have the context: what changed cannot be asked for then."""
    base = full(daemon, destination)
    write(daemon.files.uri("data"), 0x33, MIB, GRAIN)
    assert is_duplex_again(daemon)
    config = daemon.files.config

    def forget() -> None:
        if "tracked_cuts" not in config.read_text():
            config.write_text(config.read_text().replace("[nbd]", "tracked_cuts = 1\n[nbd]"))
            assert run_duplexctl(daemon.files, "reload").returncode == 0

    answer, (warned,) = await _run(daemon, destination, CHANGED, at={Step.COPY: forget})
    assert warned.startswith(f"this is a full backup: what changed, on {base['id']}, is not")
    assert "cannot be asked for any more" in warned
    assert (answer["base"], answer["verify"]) == (None, FULL)
    assert restored(answer, tmp_path) == secondaries(daemon)
    assert is_duplex_again(daemon)


@pytest.mark.usefixtures("forgotten")
async def test_changes_that_were_too_few_are_found_by_the_next_run_that_verifies_all(
    daemon: Daemon, destination: Path, tmp_path: Path
) -> None:
    """What `--verify changed` leaves to the controllers."""
    wrong, warned = await _run(daemon, destination, CHANGED, _Forgetful)
    assert (warned, wrong["verify"]) == ([], CHANGED)
    assert is_duplex_again(daemon)
    answer = incremental(daemon, destination, "--verify", "full")
    assert f"what changed, on {wrong['id']}, is not the cut" in answer["said"]
    assert base_of(answer) is None
    assert restored(answer, tmp_path) == secondaries(daemon)


# ------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("verify", [CHANGED, FULL])
async def test_a_new_image_that_its_disk_damages_is_not_kept(
    daemon: Daemon, destination: Path, tmp_path: Path, verify: str
) -> None:
    base = full(daemon, destination)
    write(daemon.files.uri("data"), 0x33, MIB, GRAIN)
    overlays: list[Path] = []

    def damage() -> None:
        if not overlays:  # else it is that of the full backup
            overlays.extend(destination.glob("*.partial/data.qcow2"))
            flip(overlays[0], b"\x33" * 4096)

    answer, (warned,) = await _run(daemon, destination, verify, at={Step.COMPARE: damage})
    assert f"this is a full backup: what changed, on {base['id']}, is not the cut" in warned
    assert base_of(answer) is None
    assert restored(answer, tmp_path) == secondaries(daemon)


@pytest.mark.parametrize("verify", [CHANGED, FULL])
async def test_an_image_below_that_is_written_to_while_a_backup_is_made_is_not_built_on(
    daemon: Daemon, destination: Path, tmp_path: Path, verify: str
) -> None:
    base = full(daemon, destination)
    write(daemon.files.uri("data"), 0x33, MIB, GRAIN)
    below = destination / base["id"] / "wal.qcow2"

    def damage() -> None:
        if not base.get("damaged"):
            base["damaged"] = True
            flip(below, b"\x22" * 4096)

    answer, (warned,) = await _run(daemon, destination, verify, at={Step.COPY: damage})
    assert f"this is a full backup: what changed, on {base['id']}, is not the cut" in warned
    assert base_of(answer) is None
    assert restored(answer, tmp_path) == secondaries(daemon)


async def test_an_image_below_that_is_written_to_at_the_end_is_no_backup(
    daemon: Daemon, destination: Path
) -> None:
    base = full(daemon, destination)
    write(daemon.files.uri("data"), 0x33, MIB, GRAIN)
    below = destination / base["id"] / "wal.qcow2"
    damage = {Step.CONFIRM: lambda: flip(below, b"\x22" * 4096)}
    with pytest.raises(DiffersError, match="somebody wrote to it while the backup was made"):
        await _run(daemon, destination, CHANGED, at=damage)
    assert names(destination) == [base["id"]]
    assert is_duplex_again(daemon)


def flip(image: Path, content: bytes) -> None:
    """A byte in the middle of the last place that holds this."""
    found = bytearray(image.read_bytes())
    at = found.rindex(content)
    found[at + len(content) // 2] ^= 1
    image.write_bytes(found)


def rot(destination: Path, image: Path) -> None:
    """A disk returns another byte than was written, and nobody has written to the file: as far as
    its inode, length and times say, which a test cannot set, but the record can agree with them.
    """
    spoil(image)
    record = destination / RECORD
    found = json.loads(record.read_text())
    status = image.stat()
    row = found["images"][str(image.relative_to(destination))]
    row |= {"modified_ns": status.st_mtime_ns, "changed_ns": status.st_ctime_ns}
    record.write_text(json.dumps(found))


@pytest.fixture
def chain(daemon: Daemon, destination: Path) -> list[Path]:
    """The directories of a full backup and of one that lies on it."""
    older = full(daemon, destination)
    write(daemon.files.uri("data"), 0x33, MIB, GRAIN)
    newer = incremental(daemon, destination)
    write(daemon.files.uri("data"), 0x34, 2 * MIB, GRAIN)
    return [Path(older["path"]), Path(newer["path"])]


@pytest.mark.parametrize("damaged", [0, 1])
def test_rot_below_is_found_by_a_check_and_then_built_upon_no_more(
    daemon: Daemon, destination: Path, tmp_path: Path, chain: list[Path], damaged: int
) -> None:
    rot(destination, chain[damaged] / "data.qcow2")
    answer = incremental(daemon, destination)  # it does not read what nobody wrote to
    assert (base_of(answer), answer["verify"], answer["said"]) == (chain[1].name, CHANGED, "")
    done = run_duplexctl(daemon.files, "backups", str(destination), "--check")
    assert done.returncode == 1
    lost = [path.name for path in chain[damaged:]] + [answer["id"]]
    lines = done.stderr.removeprefix("duplexctl: ").splitlines()
    assert [line.partition(": ")[0] for line in lines] == lost
    after = incremental(daemon, destination, "--full-every", "9")
    assert base_of(after) == (chain[0].name if damaged else None)
    assert f"cannot be built on: {chain[damaged].name}: data.qcow2: its SHA-256" in after["said"]
    assert restored(after, tmp_path) == secondaries(daemon)


@pytest.mark.parametrize("damaged", [0, 1])
def test_rot_below_is_found_by_a_run_that_verifies_all(
    daemon: Daemon, destination: Path, chain: list[Path], damaged: int
) -> None:
    rot(destination, chain[damaged] / "data.qcow2")
    answer = incremental(daemon, destination, "--verify", "full")
    assert base_of(answer) == (chain[0].name if damaged else None)
    assert f"cannot be built on: {chain[damaged].name}: data.qcow2: its SHA-256" in answer["said"]


def test_without_the_record_all_that_is_below_is_read(
    daemon: Daemon, destination: Path, chain: list[Path]
) -> None:
    rot(destination, chain[0] / "data.qcow2")
    (destination / RECORD).write_text("{")
    answer = incremental(daemon, destination)
    assert base_of(answer) is None
    assert f"cannot be built on: {chain[0].name}: data.qcow2: its SHA-256" in answer["said"]


def test_images_below_that_qemu_cannot_open_make_a_full_backup(
    daemon: Daemon, destination: Path, tmp_path: Path, chain: list[Path]
) -> None:
    image = chain[0] / "data.qcow2"
    content = image.read_bytes()
    image.write_bytes(b"rot!" + content[4:])
    rot(destination, image)
    answer = incremental(daemon, destination)
    assert base_of(answer) is None
    assert f"what changed, on {chain[1].name}, is not the cut" in answer["said"]
    assert restored(answer, tmp_path) == secondaries(daemon)


# ---------------------------------------------------------------------------------- retention


def test_what_a_kept_one_lies_on_is_kept(daemon: Daemon, destination: Path) -> None:
    options = ("--keep", "1", "--full-every", "3")
    chain = [incremental(daemon, destination, *options) for _ in range(3)]
    assert [each["removed"] for each in chain] == [[], [], []]
    listed = run_duplexctl(daemon.files, "backups", str(destination))
    assert listed.returncode == 0
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert rows[0][-3:] == ["LIES", "ON", "STATE"]
    assert [row[-2] for row in rows[1:]] == ["-", chain[0]["id"], chain[1]["id"]]
    last = incremental(daemon, destination, *options)
    assert last["removed"] == [each["id"] for each in reversed(chain)]
    assert names(destination) == [last["id"]]


def test_damaged_ones_do_not_stay_in_place_of_sound_ones(daemon: Daemon, destination: Path) -> None:
    chains = [incremental(daemon, destination, "--full-every", "3") for _ in range(5)]
    spoil(destination / chains[3]["id"] / "data.qcow2")
    last = incremental(daemon, destination, "--full-every", "3", "--keep", "2")
    assert f"cannot be built on: {chains[3]['id']}: data.qcow2: its SHA-256" in last["said"]
    assert base_of(last) is None
    assert last["removed"] == []
    assert names(destination) == sorted(each["id"] for each in (*chains, last))


# ---------------------------------------------------------------------------------- own tools


def test_an_own_tool_finds_what_changed_since_a_cut(daemon: Daemon, tmp_path: Path) -> None:
    first = run_duplexctl(daemon.files, "suspend", "db", "--tag", "nightly", "--json")
    cut = json.loads(first.stdout)["cut"]
    write(daemon.files.uri("data"), 0x33, MIB, GRAIN)
    kept = tmp_path / "changes"
    script = f'cp "$DUPLEXD_CHANGES" {kept}; test "$DUPLEXD_SINCE" = {cut}'
    # the new cut has that tag as well
    options = ("--since", "nightly", "--tag", "nightly")
    done = run_duplexctl(daemon.files, "backup", "db", *options, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row["extents"] for row in json.loads(kept.read_text())["volumes"]}
    assert rows == {"data": [{"offset": MIB, "length": GRAIN}], "wal": []}


def test_nothing_is_suspended_for_an_own_tool_if_the_changes_are_not_known(daemon: Daemon) -> None:
    options = ("--since", "0123456789abcdef")
    done = run_duplexctl(daemon.files, "backup", "db", *options, "--", sys.executable)
    assert done.returncode == 5  # nothing is remembered yet
    assert json.loads(run_duplexctl(daemon.files, "cuts", "--json").stdout)["cuts"] == []


@pytest.mark.parametrize(
    "options",
    [
        ("d", "--full-every", "3"),
        ("d", "--since", "x"),
        ("d", "--incremental", "--full-every", "1"),
        ("d", "--verify", "full"),
        ("d", "--incremental", "--verify", "none"),
        ("--verify", "full", "--", "true"),
        ("--incremental", "--", "true"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    daemon: Daemon, options: tuple[str, ...]
) -> None:
    assert run_duplexctl(daemon.files, "backup", "db", *options).returncode == 2

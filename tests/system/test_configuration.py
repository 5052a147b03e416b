"""`duplexd check`, and `run` with the same errors: whether a configuration fits the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE_SECONDS, ROOT, DaemonFiles, environment, run_duplexd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon


def listing(directory: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in directory.rglob("*"))


def test_check_prints_a_summary_and_changes_nothing(make_files: Callable[..., DaemonFiles]) -> None:
    files = make_files({"data": "8MiB", "wal": "4MiB"}, groups={"db": ["data", "wal"]})
    before = listing(files.directory)
    result = run_duplexd("check", "--config", str(files.config))
    (warning,) = result.stderr.splitlines()
    assert result.returncode == 0
    assert "both images of data, wal lie on one file system" in warning
    lines = result.stdout.splitlines()
    assert lines[0] == f"{files.config}: ok"
    assert (
        f"volume     data: 8.0 MiB, {files.primary('data')} -> {files.secondary_of('data')} (sync)"
        in lines
    )
    assert "group      db: data, wal" in lines
    assert listing(files.directory) == before


def test_check_as_json(make_files: Callable[..., DaemonFiles]) -> None:
    files = make_files({"data": "8MiB"}, secondary=False)
    good = run_duplexd("check", "--config", str(files.config), "--json")
    body = json.loads(good.stdout)
    assert (good.returncode, body["ok"], body["problems"]) == (0, True, [])
    assert body["summary"]["volumes"]["data"] == {
        "size": 8 << 20,
        "primary": str(files.primary("data")),
        "secondary": None,
        "mode": None,
        "delay": None,
    }
    files.config.write_text("[controller]\n")
    bad = run_duplexd("check", "--config", str(files.config), "--json")
    body = json.loads(bad.stdout)
    assert (bad.returncode, body["ok"], body["summary"], bad.stderr) == (6, False, None, "")
    assert body["problems"][0].startswith(f"{files.config}: controller.name: is missing")


def test_check_accepts_images_of_the_right_size(make_files: Callable[..., DaemonFiles]) -> None:
    files = make_files()
    for image in (files.primary("data"), files.secondary_of("data")):
        with image.open("wb") as file:
            file.truncate(8 << 20)
    assert run_duplexd("check", "--config", str(files.config)).returncode == 0


def wrong_size(files: DaemonFiles) -> str:
    files.primary("data").write_bytes(b"x" * 5000)
    return (
        f"volumes.data.primary: '{files.primary('data')}' has 5000 bytes (4.9 KiB), "
        "the configuration says 8388608 (8.0 MiB); images are never resized: "
        "correct the size or give another image"
    )


def a_directory(files: DaemonFiles) -> str:
    files.secondary_of("data").mkdir()
    return (
        f"volumes.data.secondary: '{files.secondary_of('data')}' is a directory; "
        "give the path of an image"
    )


def a_fifo(files: DaemonFiles) -> str:
    os.mkfifo(files.primary("data"))
    return (
        f"volumes.data.primary: '{files.primary('data')}' is neither a file nor a block device; "
        "give the path of an image"
    )


def no_directory(files: DaemonFiles) -> str:
    (files.directory / "b").rmdir()
    return (
        f"volumes.data.secondary: there is no directory '{files.directory}/b' "
        "to create the image in; create it, or correct the path"
    )


def a_dangling_link(files: DaemonFiles) -> str:
    files.primary("data").symlink_to(files.directory / "nowhere")
    return (
        f"volumes.data.primary: '{files.primary('data')}' is a dangling symbolic link; "
        "remove it or create its target"
    )


def state_is_a_file(files: DaemonFiles) -> str:
    files.state_dir.write_text("")
    return f"controller.state_dir: '{files.state_dir}' is not a directory; correct the path"


def no_such_group(files: DaemonFiles) -> str:
    files.config.write_text(
        files.config.read_text().replace("[control]", '[control]\ngroup = "nobody-has-this"')
    )
    return (
        "control.group: there is no group 'nobody-has-this' on this machine; "
        "create it with: groupadd --system nobody-has-this"
    )


def wrong_in_the_file(files: DaemonFiles) -> str:
    files.config.write_text(files.config.read_text().replace('"8MiB"', '"10 bananas"'))
    return (
        "volumes.data.size: '10 bananas' is not a size; "
        'write for example "64MiB", "10GiB" or a number of bytes'
    )


MISTAKES = [
    wrong_size,
    a_directory,
    a_fifo,
    no_directory,
    a_dangling_link,
    state_is_a_file,
    no_such_group,
    wrong_in_the_file,
]


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_an_error_is_one_line_and_exit_code_6(
    mistake: Callable[[DaemonFiles], str], command: str, make_files: Callable[..., DaemonFiles]
) -> None:
    files = make_files()
    line = mistake(files)
    before = listing(files.directory)
    result = run_duplexd(command, "--config", str(files.config))
    assert result.returncode == 6
    assert result.stderr.splitlines() == [f"duplexd: {files.config}: {line}"]
    assert result.stdout == ""
    assert listing(files.directory) == before


def test_each_error_has_its_own_line(make_files: Callable[..., DaemonFiles]) -> None:
    files = make_files()
    expected = [wrong_size(files), no_directory(files)]
    result = run_duplexd("check", "--config", str(files.config))
    assert result.stderr.splitlines() == [f"duplexd: {files.config}: {line}" for line in expected]


def test_the_path_of_the_configuration_is_named_as_it_was_given(
    make_files: Callable[..., DaemonFiles],
) -> None:
    files = make_files()
    wrong_size(files)
    result = run_duplexd("check", "--config", "duplexd.toml", cwd=files.directory)
    assert result.stderr.startswith("duplexd: duplexd.toml: volumes.data.primary: ")


# ----------------------------------------------------------------------------- text and encodings


def test_names_that_the_terminal_cannot_show_are_shown_with_escapes(
    make_files: Callable[..., DaemonFiles],
) -> None:
    files = make_files()
    strange = files.directory / "☂.toml"
    files.config.rename(strange)
    result = subprocess.run(
        [sys.executable, "-m", "duplexd", "check", "--config", str(strange)],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        env={**environment(), "PYTHONIOENCODING": "latin-1"},
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"\\u2602.toml: ok" in result.stdout


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf[controller]\n", b"begins with a byte order mark; save the file as UTF-8"),
        (b"[controller]\nname = '\xe4'\n", b"line 2: not UTF-8; save the file as UTF-8 text"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_file_of_another_encoding_gets_a_plain_message(
    make_files: Callable[..., DaemonFiles], command: str, data: bytes, message: bytes
) -> None:
    files = make_files()
    files.config.write_bytes(data)
    result = run_duplexd(command, "--config", str(files.config))
    assert result.returncode == 6
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"duplexd: {files.config}: {message.decode()}")


# ---------------------------------------------------------------- images that cannot be used


@pytest.fixture
def known(start_daemon: Callable[..., Daemon]) -> DaemonFiles:
    """The files of a controller that has run."""
    daemon = start_daemon()
    assert daemon.stop() == 0
    return daemon.files


def spoil(files: DaemonFiles, how: str) -> None:
    image = files.secondary_of("data")
    image.unlink()
    if how == "another size":
        image.write_bytes(b"x")
    elif how == "no directory":
        image.parent.rmdir()


@pytest.mark.parametrize("how", ["another size", "no directory"])
def test_check_warns_of_an_image_that_the_start_goes_on_without(
    known: DaemonFiles, how: str
) -> None:
    spoil(known, how)
    result = run_duplexd("check", "--config", str(known.config))
    assert result.returncode == 0
    assert "warning: " in result.stderr
    assert "volumes.data.secondary: " in result.stderr
    assert str(known.secondary_of("data").parent) in result.stderr
    found = json.loads(run_duplexd("check", "--config", str(known.config), "--json").stdout)
    assert found["ok"]
    assert found["warnings"]
    usual = ("lie on one file system", "(tmpfs)")
    others = [line for line in found["warnings"] if not any(each in line for each in usual)]
    assert all(": volumes.data.secondary: " in line for line in others)


@pytest.mark.parametrize("how", ["another size", "no directory"])
def test_with_on_start_error_refuse_it_is_a_problem(known: DaemonFiles, how: str) -> None:
    spoil(known, how)
    text = known.config.read_text()
    known.config.write_text(text.replace("[nbd]", 'on_start_error = "refuse"\n[nbd]'))
    assert run_duplexd("check", "--config", str(known.config)).returncode == 6


def test_a_directory_in_the_place_of_an_image_is_a_mistake(known: DaemonFiles) -> None:
    known.primary("data").unlink()
    known.primary("data").mkdir()
    for command in ("check", "run"):
        result = run_duplexd(command, "--config", str(known.config))
        assert result.returncode == 6
        assert "is a directory; give the path of an image" in result.stderr


def test_check_warns_of_images_without_the_state_that_knows_them(known: DaemonFiles) -> None:
    shutil.rmtree(known.state_dir)
    known.state_dir.mkdir()
    result = run_duplexd("check", "--config", str(known.config))
    assert result.returncode == 0
    assert "has no state of a controller, but 2 of its images exist" in result.stderr
    assert "is a file system not mounted?" in result.stderr


def test_too_few_open_files_are_found_by_check_as_by_run(
    make_files: Callable[..., DaemonFiles],
) -> None:
    """Each segment of the journal is one."""

    def limited(command: str) -> subprocess.CompletedProcess[str]:
        words = ["prlimit", "--nofile=1024:1024", sys.executable, "-m", "duplexd", command]
        return subprocess.run(
            [*words, "--config", str(files.config)],
            capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=environment(), cwd=ROOT,
            check=False,
        )  # fmt: skip

    files = make_files({"data": "4MiB"}, journal_size="3TiB")
    for command in ("check", "run"):
        done = limited(command)
        assert done.returncode == 1, done
        assert "the limit of open files is 1024, which is too low" in done.stderr
        assert "196608 journal segments need at least" in done.stderr
    files = make_files({"data": "4MiB"})
    assert limited("check").returncode == 0

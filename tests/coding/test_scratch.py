"""Scratch folders: they are removed at the end, or by a later task if their task was killed. Nothing else is."""

import os
import subprocess
import sys

import pytest

from include.coding.errors import StagingError
from include.coding.scratch import FILES, LOCK_FILE, PREFIX, open_scratch, remove_stale_scratch
from tests.coding.conftest import ROOT

OURS, THEIRS = "s3://bucket/ours", "s3://bucket/theirs"
#: Opens a scratch folder and works in it until it is killed. The arguments are the base and the deployment.
TASK = """
import sys
from pathlib import Path
from include.coding.scratch import open_scratch
with open_scratch(Path(sys.argv[1]), sys.argv[2]) as folder:
    (folder / "prepare.duckdb").write_text("what a person wrote")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start_task(tmp_path):
    """Start a task of a deployment in another process; return the process."""
    processes = []

    def start(deployment=OURS):
        command = [sys.executable, "-c", TASK, str(tmp_path), deployment]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline().startswith(str(tmp_path))
        return process

    yield start
    for process in processes:
        with process:  # closes its input and waits for the end
            pass


def kill(process):
    process.kill()
    process.wait()


def test_a_scratch_folder_is_removed_at_the_end_even_of_a_failed_task(tmp_path):
    def fail():
        with open_scratch(tmp_path, OURS) as folder:
            assert folder.parent.stat().st_mode & 0o077 == 0  # nobody else can enter it
            (folder / "land.spill").mkdir()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_task_is_removed_and_that_of_a_running_task_stays_however_old_it_is(
    tmp_path, start_task
):
    killed, running = start_task(), start_task()
    kill(killed)
    folders = set(tmp_path.iterdir())
    for folder in folders:
        os.utime(folder, (0, 0))
    remove_stale_scratch(tmp_path, OURS)
    (folder,) = tmp_path.iterdir()
    assert (folder / FILES / "prepare.duckdb").exists()
    assert running.poll() is None
    kill(running)
    remove_stale_scratch(tmp_path, OURS)
    assert list(tmp_path.iterdir()) == []


def test_folders_of_another_deployment_and_those_that_no_task_created_stay(tmp_path, start_task):
    kill(start_task(THEIRS))
    names = [
        "occupation-coding-runs", "occupation-coding-exchange", "occupation-coding-comparisons", "occupation-coding-x",
        f"{PREFIX}of-a-person", "other",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.md").touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / f"{PREFIX}file").touch()
    before = sorted(tmp_path.rglob("*"))
    remove_stale_scratch(tmp_path, OURS)
    assert sorted(tmp_path.rglob("*")) == before


def test_symbolic_links_are_not_followed(tmp_path, start_task):
    kill(start_task())
    (folder,) = tmp_path.iterdir()
    base = tmp_path / "base"
    base.mkdir()
    (base / f"{PREFIX}linked").symlink_to(folder)
    remove_stale_scratch(base, OURS)
    assert (folder / FILES / "prepare.duckdb").exists()
    (base / "theirs").mkdir()
    (base / "theirs" / "data.csv").touch()
    (folder / FILES / "link").symlink_to(base / "theirs")
    remove_stale_scratch(tmp_path, OURS)
    assert not folder.exists()
    assert (base / "theirs" / "data.csv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can create files of another user")
@pytest.mark.parametrize("name", ["", LOCK_FILE])
def test_a_folder_of_another_user_stays(tmp_path, start_task, name):
    kill(start_task())
    (folder,) = tmp_path.iterdir()
    os.chown(folder / name, 12345, 12345)
    remove_stale_scratch(tmp_path, OURS)
    assert (folder / FILES / "prepare.duckdb").exists()


def test_a_base_that_does_not_exist_is_named(tmp_path):
    message = "no folder for scratch files can be created in '.*/missing'.*check CODING_SCRATCH"
    remove_stale_scratch(tmp_path / "missing", OURS)
    with pytest.raises(StagingError, match=message), open_scratch(tmp_path / "missing", OURS):
        pass

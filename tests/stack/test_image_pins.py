"""Images are pinned by the digests that the container engine reports, and by no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.stack.image_pins import FILES, IMAGE, PinError, pin_images
from include.stack.processes import PROJECT

ENGINE = """#!/bin/sh
case "$1 $2" in
"pull --quiet") case "$3" in redis:*) echo 'no such host' >&2; exit 1;; esac;;
inspect*) printf '%s' "$4" | sha256sum | sed 's/^/mirror.example\\/image@sha256:/; s/ .*//';;
esac
"""
COMPOSE = "  postgres:\n    image: postgres:17.11\n  ours:\n    image: ${CODING_IMAGE:-occupation-coding:0.3.0}\n"


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container engine that makes the digest of an image from its tag, and cannot reach the image redis."""
    path = tmp_path / "docker"
    path.write_text(ENGINE)
    path.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return path


def test_every_image_of_others_gets_its_digest_and_keeps_its_tag() -> None:
    pinned = pin_images(COMPOSE)
    assert pinned.startswith("  postgres:\n    image: postgres:17.11@sha256:")
    assert pinned.endswith("\n  ours:\n    image: ${CODING_IMAGE:-occupation-coding:0.3.0}\n")
    assert pin_images(pinned) == pinned


def test_a_new_tag_gets_a_new_digest() -> None:
    pinned = pin_images(COMPOSE)
    changed = pinned.replace("17.11", "17.12")
    assert pin_images(changed) == pin_images(COMPOSE.replace("17.11", "17.12")) != changed


def test_without_an_answer_of_the_engine_there_is_no_digest(engine: Path) -> None:
    with pytest.raises(PinError, match=r"digest of 'redis:7.4.11' is unknown: no such host"):
        pin_images("FROM redis:7.4.11 AS base\n")
    engine.write_text("#!/bin/sh\n")
    with pytest.raises(PinError, match="the engine has none"):
        pin_images(COMPOSE)


def test_stages_and_all_images_of_the_project_are_recognised() -> None:
    texts = [(PROJECT / name).read_text(encoding="utf-8") for name in FILES]
    tags = [match["tag"].partition(":")[0] for text in texts for match in IMAGE.finditer(text)]
    assert tags == ["apache/airflow", "postgres", "redis", "motoserver/moto"]

"""`python -m include.stack.image_pins`: pin the images of others in Dockerfile and docker-compose.yaml.

The container engine pulls each image by its tag and reports its digest. A tag can be moved to another image, a digest
cannot.
"""

from __future__ import annotations

import re
import subprocess
import sys

from include.stack.processes import PROJECT

FILES = ("Dockerfile", "docker-compose.yaml")
#: An image of another project with its tag, and its digest if it has one. Ours are in a variable, stages have no tag.
IMAGE = re.compile(
    r"^(?P<start>FROM |\s+image: )(?P<tag>[a-z][\w./-]*:[\w.-]+)(?:@sha256:[0-9a-f]{64})?(?P<end>\s|$)", re.M
)
DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$", re.M)


class PinError(Exception):
    """An image cannot be pinned."""


def resolve_digest(tag: str) -> str:
    """Pull an image and return its digest.

    :raises PinError: the engine is missing, or does not get the image
    """
    try:
        for command in (["pull", "--quiet", tag], ["inspect", "--format", '{{join .RepoDigests "\\n"}}', tag]):
            output = subprocess.run(["docker", *command], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise PinError(f"The digest of {tag!r} is unknown: {detail.strip()}. Check docker and its network.") from None
    if not (match := DIGEST.search(output)):
        raise PinError(f"The digest of {tag!r} is unknown: the engine has none. Pull it from a registry.")
    return match[1]


def pin_images(text: str) -> str:
    """Return the text of a Dockerfile or compose file with the current digest of each image of others."""
    return IMAGE.sub(lambda m: f"{m['start']}{m['tag']}@{resolve_digest(m['tag'])}{m['end']}", text)


def main() -> int:
    try:
        texts = {PROJECT / name: pin_images((PROJECT / name).read_text(encoding="utf-8")) for name in FILES}
    except PinError as error:
        print(error, file=sys.stderr)
        return 1
    for path, text in texts.items():  # all or none
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

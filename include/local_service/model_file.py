"""A trained coder as a file: there whole or not at all, and for one classification and one program only."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from include.local_service.calibration import Lines
from include.local_service.features import Features
from include.local_service.models import Models

_DECISIVE = ("hierarchy", "examples", "spelling", "features", "models", "calibration", "coder", "model_file")


class Trained(NamedTuple):
    """What training finds out."""

    features: Features
    models: Models
    lines: Lines


def model_path(folder: Path, classification: bytes) -> Path:
    """Where the coder of this classification lies; the name changes with whatever changes the coder."""
    programs = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in _DECISIVE)
    parts = (classification, version("scikit-learn").encode(), *programs)
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return folder / f"coder-{digest[:16]}.bin"


def write_model(path: Path, trained: Trained) -> None:
    """Write the file; that it cannot be written is no failure, the next start trains again."""
    content = _pack(trained)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            whole.write_bytes(hashlib.sha256(content).digest() + content)
            whole.replace(path)


def read_model(path: Path) -> Trained | None:
    """Return None for a file that is missing or damaged: its digest, which stands first, tells."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, content = stored[:32], memoryview(stored)[32:]
    return _unpack(content) if hashlib.sha256(content).digest() == digest else None


def _pack(trained: Trained) -> bytes:
    """Plain arrays, not a pickle: reading a model must never run what is in it."""
    features, models, lines = trained
    file = io.BytesIO()
    np.savez(
        file,
        vocabulary=np.frombuffer("\n".join(features.vocabulary).encode(), dtype=np.uint8),
        idf=features.idf,
        data=models.weights.data,
        indices=models.weights.indices,
        indptr=models.weights.indptr,
        intercepts=models.intercepts,
        lines=lines,
    )
    return file.getvalue()


def _unpack(content: memoryview) -> Trained:
    stored = np.load(io.BytesIO(content), allow_pickle=False)
    pieces = stored["vocabulary"].tobytes().decode().split("\n")
    features = Features({piece: place for place, piece in enumerate(pieces)}, stored["idf"])
    shape = (len(pieces), len(stored["intercepts"]))
    weights = csr_matrix((stored["data"], stored["indices"], stored["indptr"]), shape=shape)
    return Trained(features, Models(weights, stored["intercepts"]), stored["lines"])

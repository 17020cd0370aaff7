"""The model file of a trained coder. It is valid for one classification and one version of this program only."""

from __future__ import annotations

import contextlib
import hashlib
import io
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from include.local_service.coder.calibration import Lines
from include.local_service.coder.features import Features
from include.local_service.coder.files import write_atomically
from include.local_service.coder.models import Models

#: The modules that determine the result of a training: a change in one of them makes older model files invalid.
_TRAINING_MODULES = (
    "hierarchy", "examples", "spelling", "features", "models", "calibration", "coder", "model_file",
)  # fmt: skip


class TrainedModel(NamedTuple):
    """The result of a training."""

    features: Features
    models: Models
    lines: Lines


def model_path(folder: Path, classification: bytes) -> Path:
    """Return the path of the model file for this classification; another program version has another path."""
    programs = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in _TRAINING_MODULES)
    parts = (classification, version("scikit-learn").encode(), *programs)
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return folder / f"coder-{digest[:16]}.bin"


def write_model(path: Path, model: TrainedModel) -> None:
    """Write the model file. An error of the file system is ignored: then the next start trains again."""
    content = _pack(model)
    with contextlib.suppress(OSError):
        write_atomically(path, hashlib.sha256(content).digest() + content)


def read_model(path: Path) -> TrainedModel | None:
    """Return the model, or None if the file is missing or does not match the digest at its start."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, content = stored[:32], memoryview(stored)[32:]
    return _unpack(content) if hashlib.sha256(content).digest() == digest else None


def _pack(model: TrainedModel) -> bytes:
    """Return the model as plain arrays, not as a pickle: reading a model file must never run code from it."""
    features, models, lines = model
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


def _unpack(content: memoryview) -> TrainedModel:
    arrays = np.load(io.BytesIO(content), allow_pickle=False)
    names = arrays["vocabulary"].tobytes().decode().split("\n")
    features = Features({name: index for index, name in enumerate(names)}, arrays["idf"])
    shape = (len(names), len(arrays["intercepts"]))
    weights = csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
    return TrainedModel(features, Models(weights, arrays["intercepts"]), arrays["lines"])

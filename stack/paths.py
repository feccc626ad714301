"""Where things lie."""

import os
from pathlib import Path
from typing import Final

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent
HOME_VARIABLE: Final = "FLASHGATE_HOME"


def state_dir() -> Path:
    """The folder of what this installation keeps between runs: FLASHGATE_HOME, else `.flashgate` in the project."""
    told = os.environ.get(HOME_VARIABLE)
    return Path(told).absolute() if told else PROJECT_ROOT / ".flashgate"


def stack_home() -> Path:
    """The home of the local servers: their data, settings, secrets and logs."""
    return state_dir() / "stack"


def kafka_libs_dir() -> Path:
    """The cache of Kafka's program files, shared by all homes."""
    return PROJECT_ROOT / ".flashgate" / "kafka-libs"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, atomically."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

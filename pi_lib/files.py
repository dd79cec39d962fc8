"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path, tag: str = "") -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the block ends well.

    `tag` tells the writers apart where several processes write the same file.
    """
    aside = path.with_name(f"{path.stem}{tag}.aside{path.suffix}")
    yield aside
    os.replace(aside, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    with whole(path) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")

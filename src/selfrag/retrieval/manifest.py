"""What an index was built from: the manifest beside its table.

Knows nothing of the table, of vectors or of search.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from selfrag.errors import IndexNotUsable

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an index was built from, and when (UTC, ISO 8601).

    `passages_sha256` covers ids and texts in corpus order; `attribution` is the licence line that
    the passages ask for.
    """

    format_version: int
    encoder_name: str
    encoder_dim: int
    n_passages: int
    passages_sha256: str
    created_at: str
    selfrag_version: str
    attribution: str

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """The manifest of the index folder `path`; `IndexNotUsable` where there is no sound one."""
        if not path.is_dir():
            raise not_usable(path, "no such folder")
        if not (path / MANIFEST_NAME).is_file():
            raise not_usable(path, f"a folder without {MANIFEST_NAME}")
        try:
            manifest = cls(**json.loads((path / MANIFEST_NAME).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise not_usable(path, f"a {MANIFEST_NAME} that cannot be read ({error})") from error
        for field in fields(cls):
            if type(getattr(manifest, field.name)) is not field.type:
                raise not_usable(path, f"a {MANIFEST_NAME} with a damaged {field.name!r}")
        return manifest

    def save(self, path: Path) -> None:
        """Writes the manifest into the index folder `path`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (path / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def not_usable(path: Path, found: str) -> IndexNotUsable:
    """The one sentence for an index folder that cannot be opened."""
    return IndexNotUsable(
        f"cannot open the index {path}: found {found}, expected a complete selfrag index; "
        "build one with `selfrag index build`, or name the folder of one"
    )

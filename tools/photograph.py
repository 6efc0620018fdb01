"""Copy the photograph that scikit-learn ships into a folder, and print where it stands: photograph.py FOLDER."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path


def copied_photograph(folder: Path) -> Path:
    """Copy china.jpg (640x427) into ``folder``. scikit-learn is found, not imported: its import takes seconds."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise SystemExit("scikit-learn is not installed: pip install 'avsdk[export]'")
    folder.mkdir(parents=True, exist_ok=True)
    photo = folder / "china.jpg"
    shutil.copyfile(Path(found.origin).parent / "datasets" / "images" / "china.jpg", photo)
    return photo


if __name__ == "__main__":
    print(copied_photograph(Path(sys.argv[1])))

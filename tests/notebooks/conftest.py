"""The rules of the notebooks live in scripts/, where `make notebooks` and pre-commit use them too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

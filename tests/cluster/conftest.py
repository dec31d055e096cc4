"""What tests of runs on Ray share."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycondense import api
from raycondense.testing.runs import settings


@pytest.fixture(scope="session")
def unbroken(digits: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of two workers that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    api.fit(settings(), data=digits / "train.beton", out=folder, progress=False)
    return folder

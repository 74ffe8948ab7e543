from pathlib import Path

import pytest
from made_sources import image_folder, tiny_autoencoder


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_autoencoder(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve pictures, the fifth of them corrupt."""
    return image_folder(tmp_path / "source", corrupt=(4,))

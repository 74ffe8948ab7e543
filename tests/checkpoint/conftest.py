"""The families' tiny files as fixtures."""

import pytest
from official_files import FAMILIES, Official, official


@pytest.fixture(params=FAMILIES)
def file_of(request: pytest.FixtureRequest) -> Official:
    return official(request.param)


@pytest.fixture
def dit() -> Official:
    return official("dit")


@pytest.fixture
def sit() -> Official:
    return official("sit")

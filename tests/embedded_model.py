"""The embedded model tests run on. `make test` fetches it and sets REQUIRE_MODELS, so that nothing is skipped there."""

import os

import pytest

from constitutional.backends.embedded import converted_folder
from constitutional.errors import BackendError


def require(name: str = "smollm2-135m") -> None:
    """Skips the test when the model is not here; fails it where it must be."""
    try:
        converted_folder(name)
    except BackendError as error:
        if os.environ.get("REQUIRE_MODELS"):
            pytest.fail(str(error))
        pytest.skip(str(error))

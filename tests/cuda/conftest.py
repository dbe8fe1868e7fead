from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """What `--device` names; these tests are for a GPU, the CPU only rehearses them."""
    name: str = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(name)


@pytest.fixture(autouse=True)
def _any_kernels() -> Iterator[None]:
    """Runs that insist on deterministic kernels leave it so for their process."""
    yield
    torch.use_deterministic_algorithms(False)

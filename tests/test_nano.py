"""The model that tests share: what one test finds does not depend on which other came before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lumiply.engine.pipeline import Pipeline
from tests.nano import nano_adaptor, nano_model, nano_pipeline


@pytest.fixture
def threads_come_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_come_back")
def test_the_shared_pipeline_is_bit_for_bit_one_that_is_built_now() -> None:
    for threads in (1, 2, 1):  # as many as torch has; another number of them rounds otherwise
        torch.set_num_threads(threads)
        built = Pipeline(nano_model(), {"red": nano_adaptor("red")})
        assert torch.equal(nano_pipeline(("red",)).keys_values, built.keys_values), threads


@pytest.mark.usefixtures("threads_come_back")
def test_tests_share_a_pipeline_as_long_as_the_number_of_threads_is_the_same() -> None:
    shared = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        shared.append(nano_pipeline(("red",)))
        assert nano_pipeline(("red",)) is shared[-1] is not nano_pipeline(("blue",))
    assert shared[0] is shared[2] is not shared[1]

"""Every registered `ClassBatches` keeps the contract that ships in `raycondense.testing.class_batches`."""

import importlib.util
from functools import partial

import pytest

from raycondense.data.open import LOADERS, class_batches_type
from raycondense.testing.class_batches import CHECKS

VARIANTS = {"ffcv": [{"jit": False}, {"jit": False, "os_cache": False}], "resident": [{}]}


def variants():
    for loader in LOADERS:
        for options in VARIANTS[loader]:
            yield pytest.param(loader, options, id="-".join([loader, *(k for k, v in options.items() if k != "jit")]))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize(("loader", "options"), list(variants()))
def test_contract(loader, options, check, encoding, tmp_path):
    if loader == "ffcv" and importlib.util.find_spec("ffcv") is None:
        pytest.skip("FFCV is not installed")
    check(partial(class_batches_type(loader), workers=2, **options), tmp_path, encoding=encoding)

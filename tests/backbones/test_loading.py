"""Host memory while loading, at a small size; `measure_loading.py` beside measures larger ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from measure_loading import make, measure


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(("family", "layout"), [("ltx-video", "shards"), ("ltx-2", "file")])
def test_peak_while_loading(family: str, layout: str, tmp_path: Path):
    """About 220 MB of bfloat16: resident memory peaks below 1.3 times the weights, and no less than the weights."""
    found = measure(make(tmp_path, family, 220, [layout])[layout])
    assert found.weights > 180e6
    assert 0.95 < found.ratio < 1.3

"""Motion against motion: how far an edited clip moves at the same instants as its source."""

from synclora.sync.score import (
    CHANNELS,
    BlinkScore,
    ChannelScore,
    Drift,
    SyncReport,
    Window,
    compare,
    counted_blinks,
)

__all__ = ["CHANNELS", "BlinkScore", "ChannelScore", "Drift", "SyncReport", "Window", "compare", "counted_blinks"]

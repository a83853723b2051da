"""Motion against motion: how far an edited clip moves at the same instants as its source."""

from synclora.sync.score import CHANNELS, BlinkScore, ChannelScore, SyncReport, compare

__all__ = ["CHANNELS", "BlinkScore", "ChannelScore", "SyncReport", "compare"]

"""Containers, codecs, colour and sound behind `synclora.clip`; everything here runs on PyAV."""

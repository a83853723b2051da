"""What this machine can do: `synclora doctor`."""

from synclora.doctor.report import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]

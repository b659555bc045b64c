"""In and out of existing models: torch.nn's layers become fastcells', and back."""

from .models import convert, to_torch
from .patching import patched_torch
from .report import ConversionReport, LayerLine, conversion_report

__all__ = [
    "ConversionReport",
    "LayerLine",
    "conversion_report",
    "convert",
    "patched_torch",
    "to_torch",
]

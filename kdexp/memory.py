"""How much memory there is, and how sizes are told."""

from __future__ import annotations

import torch

from kdexp.data.decoding import available_memory


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors on the device may take."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def size_text(size: int) -> str:
    """Bytes to three digits, such as `369 MB`; MB = 10⁶ bytes."""
    scale, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= pair[0]), (1, "bytes"))
    return f"{size / scale:.3g} {unit}"

"""Calibration statistics -> scales -> a quantized UNet, each an artifact in the store."""

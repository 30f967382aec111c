"""PyTorch for a device: fused layers, weights and cache in any format, recorded steps."""

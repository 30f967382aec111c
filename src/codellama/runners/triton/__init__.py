"""GPU kernels in Triton. Each computes what a few lines of `runners.fused.reference` say."""

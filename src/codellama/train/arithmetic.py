"""What training costs, from sizes alone; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from codellama.model.config import ModelConfig

STATE_BYTES_PER_PARAM = 16  # float32 weight, gradient and two moments


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator at work. The defaults are the paper's: A100 of 80 GB.

    43 % of its peak are our estimate; 400 W is the power the paper reckons with, and 0.408 kg of
    CO2 per kWh is what turns its 1,400,000 hours into its 228.55 t (arXiv 2308.12950, section 6).
    """

    name: str = "A100"
    peak_tflops: float = 312.0
    share: float = 0.43  # of the peak that training reaches
    watts: float = 400.0
    kg_co2_per_kwh: float = 0.408

    def hours(self, flop: float) -> float:
        """Device hours for that much arithmetic."""
        return flop / (self.peak_tflops * 1e12 * self.share) / 3600

    def tonnes_co2(self, hours: float) -> float:
        """Of that many device hours."""
        return hours * self.watts / 1000 * self.kg_co2_per_kwh / 1000


def flop_per_token(config: ModelConfig, row_length: int) -> float:
    """Forwards and backwards, without what recomputation adds.

    6 * (parameters that multiply) + 6 * layers * heads * head_dim * T: every parameter but the
    embedding table multiplies a token twice forwards and four times backwards; the second term is
    causal attention over rows of T tokens, half of what a full square would be.
    """
    table = 0 if config.tie_embeddings else config.vocab_size * config.dim
    multiplying = config.n_params - table
    return 6 * multiplying + 6 * config.n_layers * config.n_heads * config.head_dim * row_length

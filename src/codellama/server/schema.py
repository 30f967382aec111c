"""The bodies of requests, as pydantic checks them where strangers' JSON comes in.

Null is the same as absent. Fields that are not listed are ignored. What cannot be honoured is
refused by whoever builds the prompt, not here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_INT32 = (1 << 31) - 1
_INT64 = (1 << 63) - 1

Ids = Annotated[list[Annotated[int, Field(ge=0, le=_INT32)]], Field(min_length=1)]
Stop = str | Annotated[list[str], Field(max_length=32)]
TopK = Annotated[int, Field(ge=-1, le=_INT32)]
Seed = Annotated[int, Field(ge=-_INT64 - 1, le=_INT64)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Tokens = Annotated[int, Field(ge=0, le=_INT32)]


class Body(BaseModel):
    """A JSON object in which null is absent and unknown fields do no harm."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: item for name, item in value.items() if item is not None}
        return value


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class ResponseFormat(Body):
    """What the reply must look like."""

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"] = "text"
    json_schema: dict[str, Any] | None = None
    regex: Annotated[str, Field(max_length=8192)] | None = None
    grammar: Annotated[str, Field(max_length=8192)] | None = None


class Drawing(Body):
    """How replies are drawn; the names are OpenAI's, and vLLM's where it has none."""

    model: str = ""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[Tokens], Field(max_length=32)] | None = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=300)
    ] | None = None  # fmt: skip
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0, le=0)] = 0
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    response_format: ResponseFormat | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] | None = None
    bundle: bool = False


class Infilling(Body):
    """What comes first in the prompt for a hole: the prefix (psm) or the suffix (spm)."""

    order: Literal["auto", "psm", "spm"] | None = None


class Segments(Body):
    """Where a Tabby client's cursor is."""

    prefix: str
    suffix: str | None = None
    filepath: str | None = None
    clipboard: str | None = None


class CompletionRequest(Drawing, Infilling):
    """`POST /v1/completions`."""

    prompt: str | list[str] | Ids | list[Ids]
    suffix: str | None = None
    max_tokens: Tokens = 16
    n: Annotated[int, Field(ge=1, le=8)] = 1
    best_of: Annotated[int, Field(ge=1, le=8)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    return_token_ids: bool = False


class TabbyRequest(Infilling):
    """`POST /v1/completions` as Tabby's editor plugins send it."""

    language: str = ""
    segments: Segments | None = None
    user: str | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    seed: Seed | None = None


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] = ""


class ChatRequest(Drawing):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n_predict: Annotated[int, Field(ge=-1, le=_INT32)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] = 1
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template: None = None
    chat_template_kwargs: None = None


class FimRequest(Drawing, Infilling):
    """Mistral's `POST /v1/fim/completions`."""

    prompt: str
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_INT32)] | None = None
    random_seed: Seed | None = None


class Extra(Body):
    """A piece of another file."""

    text: str
    filename: str | None = None


class LlamaRequest(Infilling):
    """What llama.cpp's `/infill` and `/completion` have in common."""

    model: str = ""
    n_predict: Annotated[int, Field(ge=-1, le=_INT32)] = -1
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: TopK | None = None
    top_p: Probability | None = None
    min_p: Probability | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stream: bool = False
    n_cmpl: Annotated[int, Field(ge=1, le=8)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    n_indent: Annotated[int, Field(ge=0, le=1000)] = 0
    t_max_predict_ms: Annotated[int, Field(ge=0, le=_INT32)] = 0
    ignore_eos: bool = False
    response_fields: Annotated[list[str], Field(max_length=64)] | None = None


class InfillRequest(LlamaRequest):
    """llama.cpp's `POST /infill`."""

    input_prefix: str = ""
    input_suffix: str = ""
    prompt: str = ""
    input_extra: Annotated[list[Extra], Field(max_length=256)] | None = None


class LlamaCompletionRequest(LlamaRequest):
    """llama.cpp's `POST /completion`."""

    prompt: str | Ids


class TokenizeRequest(Body):
    """`POST /tokenize`: llama.cpp's with `content`, vLLM's with `prompt` or `messages`."""

    model: str = ""
    content: str | None = None
    add_special: bool = False
    with_pieces: bool = False
    prompt: str | None = None
    messages: Annotated[list[Message], Field(max_length=1024)] | None = None
    add_special_tokens: bool = True


class PromptRequest(Body):
    """`POST /v1/prompt_ids`: what a completion or a chat is asked with."""

    model: str = ""
    prompt: str | Ids | None = None
    suffix: str | None = None
    order: Literal["psm", "spm"] = "psm"
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None


class DetokenizeRequest(Body):
    model: str = ""
    tokens: Annotated[list[Tokens], Field(max_length=1 << 17)]


class TemplateRequest(Body):
    model: str = ""
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]


class OllamaOptions(Body):
    num_predict: Annotated[int, Field(ge=-2, le=_INT32)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=-1, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    num_ctx: Annotated[int, Field(ge=0, le=_INT32)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None


class OllamaRequest(Body):
    model: str = ""
    stream: bool = True
    options: OllamaOptions | None = None
    keep_alive: str | int | float | None = None
    format: str | dict[str, Any] | None = None


class GenerateRequest(OllamaRequest, Infilling):
    """Ollama's `POST /api/generate`."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool = False
    images: list[str] | None = None


class OllamaMessage(Body):
    role: Literal["system", "user", "assistant"]
    content: str = ""


class OllamaChatRequest(OllamaRequest):
    """Ollama's `POST /api/chat`."""

    messages: Annotated[list[OllamaMessage], Field(max_length=1024)] = []


class ShowRequest(Body):
    model: str = ""
    name: str = ""


class TgiParameters(Body):
    max_new_tokens: Annotated[int, Field(ge=1, le=_INT32)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    return_full_text: bool = False
    details: bool = False
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    frequency_penalty: Penalty | None = None


class TgiRequest(Infilling):
    """TGI's `POST /generate` and `/generate_stream`."""

    inputs: str
    parameters: TgiParameters | None = None


class EmbeddingRequest(Body):
    model: str = ""
    input: str | list[Any]


class EventRequest(Body):
    """Tabby's `POST /v1/events`."""

    type: str = ""
    completion_id: str = ""

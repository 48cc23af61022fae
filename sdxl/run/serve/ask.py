"""A request as it must be: OpenAI's fields, ours beside them, none of them ignored."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdxl.config import schema
from sdxl.config.derive import drawn_with
from sdxl.core.types import Order
from sdxl.run.serve.refusals import Refused

MOST_PICTURES = 10
MOST_CHARACTERS = 4000
SEEDS = 1 << 32

_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class Ask(BaseModel):
    """The body of POST /v1/images/generations."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[_Text, Field(description="what the pictures show")]
    model: str | None = Field(None, description="the served model's name; null: whatever it is")
    n: int | None = Field(1, ge=1, le=MOST_PICTURES, description="pictures")
    size: str | None = Field(None, description="WIDTHxHEIGHT of the setting, or auto")
    response_format: Literal["b64_json", "url"] | None = "b64_json"
    output_format: Literal["png"] | None = "png"
    background: Literal["auto", "opaque"] | None = None
    quality: Literal["auto"] | None = None
    stream: Literal[False] | None = None
    user: _Text | None = Field(None, description="who asks; nothing depends on it")
    seed: int | None = Field(
        None, ge=0, lt=SEEDS, description="of the noise; picture k has that of seed + k"
    )
    negative_prompt: _Text | None = Field(None, description="null: the setting's own")
    steps: int | None = Field(None, description="denoising steps: those of the setting")
    guidance: float | None = Field(None, strict=False, description="the scale of the setting")
    noise: Literal["own", "shared"] | None = Field(
        None, description="shared: the first latent that the setting shares among all prompts"
    )


@dataclass(frozen=True)
class Setting:
    """What is served, as far as a request can agree with it or not; `guided`: by a second row."""

    config: schema.Config
    guided: bool = True

    @property
    def size(self) -> str:
        """WIDTHxHEIGHT."""
        return f"{self.config.model.width}x{self.config.model.height}"

    @property
    def shares(self) -> bool:
        """Whether there is a latent that prompts share."""
        return self.config.model.noise is schema.Noise.shared

    def describe(self) -> dict[str, Any]:
        """What decides the pictures, for a client that has to know (`backend=http`)."""
        config = self.config
        return {"backend": config.backend.name, "seed": config.seed, **drawn_with(config)}


def read(body: bytes) -> Ask:
    """The request in a body; raises `Refused` with the field that is wrong."""
    try:
        return Ask.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, found["loc"][:1])) or None
        said = found["msg"]
        code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}
        if found["type"] == "extra_forbidden":
            said = f"there is no parameter `{_short(place)}`: {', '.join(Ask.model_fields)}"
        elif place:
            said = f"`{place}`: {said}"
        param = place if place in Ask.model_fields else None
        raise Refused(
            400, said, param=param, code=code.get(found["type"], "invalid_value")
        ) from None


def orders_of(ask: Ask, setting: Setting) -> list[Order]:
    """The pictures of a request; raises `Refused` for what the setting cannot do."""
    model = setting.config.model
    if not ask.prompt.strip():
        raise _value("prompt", "there is nothing to draw: the prompt is empty")
    if ask.model not in (None, model.name):
        raise Refused(
            404, f"there is no model `{_short(ask.model)}` here: {model.name}",
            param="model", code="model_not_found",
        )  # fmt: skip
    if ask.response_format == "url":
        raise _value("response_format", "pictures are not kept here: only b64_json")
    fixed = (
        ("size", None if ask.size == "auto" else ask.size, setting.size),
        ("steps", ask.steps, model.steps),
        ("guidance", ask.guidance, model.guidance),
    )
    for name, asked, served in fixed:
        if asked not in (None, served):
            raise _value(name, f"the setting that is served draws with {name} {served}")
    if ask.negative_prompt is not None and not setting.guided:
        raise _value("negative_prompt", "it would be ignored: the setting draws without guidance")
    shared = ask.noise == "shared"
    if shared and not setting.shares:
        raise _value("noise", "the setting has no latent that prompts share")
    first = secrets.randbelow(SEEDS) if ask.seed is None else ask.seed
    return [
        Order(ask.prompt, first + place, ask.negative_prompt, shared) for place in range(ask.n or 1)
    ]


def _value(param: str, message: str) -> Refused:
    return Refused(400, message, param=param, code="unsupported_value")


def _short(word: str | None) -> str:
    """A client's word, as long as a message can hold."""
    return (word or "")[:80]

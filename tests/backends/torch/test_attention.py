"""The attention kernel per shape: timed, recorded, and the same picture whichever it is."""

import pytest
import torch
from torch.nn import functional

from sdxl.backends.torch import fa3
from sdxl.backends.torch.attention import Attend, Choice, install
from sdxl.backends.torch.config import Attention
from sdxl.model.sources import open_source

CPU = torch.device("cpu")


def test_auto_times_what_this_processor_has_and_keeps_the_fastest():
    choice = Choice(Attention.auto, CPU)
    query, key = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 5, 8)
    expected = functional.scaled_dot_product_attention(query, key, key)
    torch.testing.assert_close(choice.attend(query, key, key), expected)
    (shape,) = choice.describe()["shapes"]
    assert set(shape["ms"]) == {"math", "flash"} and set(shape["unable"]) == {
        "efficient", "cudnn", "fa3",
    }  # fmt: skip
    assert shape["ms"][shape["chosen"]] == min(shape["ms"].values())
    assert (shape["query"], shape["key"]) == ([2, 4, 16, 8], [2, 4, 5, 8])
    choice.attend(query, key, key)
    assert len(choice.describe()["shapes"]) == 1, "a shape is timed once"


def test_a_named_kernel_is_used_and_one_that_cannot_is_reported():
    query = torch.randn(1, 2, 6, 8)
    for wanted, chosen in ((Attention.math, "math"), (Attention.cudnn, "torch")):
        choice = Choice(wanted, CPU)
        choice.attend(query, query, query)
        described = choice.describe()
        assert described["shapes"][0]["chosen"] == chosen
        assert sum(described["fallbacks"].values()) == (chosen == "torch")


def test_all_scores_at_once_are_no_candidate_where_they_are_large():
    choice = Choice(Attention.auto, CPU)
    choice._ms = lambda known, kernel: 1.0
    choice.kernel((8, 10, 4096, 64), (8, 10, 4096, 64), torch.bfloat16)
    assert "math" not in choice.describe()["shapes"][0]["ms"]


@pytest.mark.parametrize("wanted", [Attention.auto, Attention.math])
@torch.inference_mode()
def test_unet_and_vae_draw_the_same(load, wanted):
    config = load()
    source = open_source(config.model, 0)
    latents = torch.randn(1, 4, 8, 8)
    vae = source.component("vae", torch.float32, CPU)
    expected = vae.decode(latents, return_dict=False)[0]
    choice = install([vae], wanted, CPU)
    found = vae.decode(latents, return_dict=False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(choice.describe()["shapes"]) >= 1 and choice.others == 0
    kinds = {type(m.processor) for m in vae.modules() if hasattr(m, "processor")}
    assert kinds == {Attend}


@torch.inference_mode()
def test_the_vae_is_one_graph_whatever_its_attention(load):
    """diffusers hands `temb` over; a processor without that parameter broke the graph at each."""
    vae = open_source(load().model, 0).component("vae", torch.float32, CPU)
    latents = torch.randn(1, 4, 8, 8)
    install([vae], Attention.math, CPU)
    vae.decode(latents)  # shapes are chosen before anything is traced
    seen = torch._dynamo.explain(vae.decode)(latents, return_dict=False)
    assert (seen.graph_count, seen.graph_break_count) == (1, 0), seen.break_reasons
    torch._dynamo.reset()


SCHEMA = (
    "fwd(Tensor q,Tensor k,Tensor v,Tensor(k_new!)? k_new = None,Tensor(v_new!)? v_new = None,"
    "Tensor? q_v = None,Tensor(out!)? out = None,Tensor? cu_seqlens_q = None,"
    "Tensor? cu_seqlens_k = None,Tensor? cu_seqlens_k_new = None,Tensor? seqused_q = None,"
    "Tensor? seqused_k = None,int? max_seqlen_q = None,int? max_seqlen_k = None,"
    "Tensor? page_table = None,Tensor? kv_batch_idx = None,Tensor? leftpad_k = None,"
    "Tensor? rotary_cos = None,Tensor? rotary_sin = None,Tensor? seqlens_rotary = None,"
    "Tensor? q_descale = None,Tensor? k_descale = None,Tensor? v_descale = None,"
    "float? softmax_scale = None,bool is_causal = False,int window_size_left = -1,"
    "int window_size_right = -1,int attention_chunk = 0,float softcap = 0.0,"
    "bool is_rotary_interleaved = False,Tensor? scheduler_metadata = None,int num_splits = 0,"
    "bool? pack_gqa = None,int sm_margin = 0) -> (Tensor(out!), Tensor, Tensor, Tensor)"
)
"""As it stands in the library of fa3-fwd 0.0.3."""


@pytest.fixture
def flash_3(monkeypatch):
    """The wheel's op, computed by PyTorch: (B, L, heads, width)."""
    library = torch.library.Library("fa3_fwd", "DEF")
    library.define(SCHEMA)
    names = [argument.name for argument in torch._C.parse_schema(f"fa3_fwd::{SCHEMA}").arguments]
    calls = []

    def fwd(q, k, v, *rest):
        named = dict(zip(names[3:], rest, strict=False))
        assert named["softmax_scale"] == q.shape[-1] ** -0.5 and named["num_splits"] == 1
        calls.append(tuple(q.shape))
        parts = (each.transpose(1, 2) for each in (q, k, v))
        out = functional.scaled_dot_product_attention(*parts).transpose(1, 2).contiguous()
        return out, *(torch.empty(0) for _ in range(3))

    library.impl("fwd", fwd, "CPU", allow_override=True)
    monkeypatch.setattr(fa3, "why_not", lambda device: "")
    yield calls
    library._destroy()


@torch.inference_mode()
def test_flash_attention_3_serves_a_layer_and_can_be_compiled(flash_3):
    from diffusers.models.attention_processor import Attention as Layer

    torch.manual_seed(0)
    for context in (None, torch.randn(2, 5, 40)):
        layer = Layer(24, 40 if context is not None else None, heads=3, dim_head=8).eval()
        hidden = torch.randn(2, 7, 24)
        expected = layer(hidden, encoder_hidden_states=context)
        choice = install([layer], Attention.fa3, CPU)
        found = layer(hidden, encoder_hidden_states=context)
        torch.testing.assert_close(found, expected)
        assert choice.describe()["shapes"][0]["chosen"] == "fa3"
        assert flash_3[-1] == (2, 7, 3, 8), "tokens before heads"
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(hidden, encoder_hidden_states=context), expected)
    torch._dynamo.reset()


def test_flash_attention_3_says_why_it_is_not_there():
    assert "NVIDIA" in fa3.why_not(CPU)
    choice = Choice(Attention.fa3, CPU)
    query = torch.randn(1, 2, 6, 8)
    choice.attend(query, query, query)
    assert choice.describe()["fallbacks"] == {"FlashAttention 3 needs an NVIDIA GPU": 1}

"""CLIP from OpenAI's weights gives the features of an independent formulation."""

import gzip
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sdxl.core.errors import UserError
from sdxl.model import clip_vocabulary
from sdxl.quality import clip
from tests.quality.conftest import GRID, LAYERS, MERGES, PATCH, clip_state

CPU = torch.device("cpu")
SIZE = GRID * PATCH
TEXTS = ["the cat", "A CAP on  the CAT!", "th" * 100, "caf&amp;eacute; it's 42"]


@pytest.fixture(scope="module")
def network(metric_files):
    return clip.load(metric_files / "clip.pt", metric_files / "bpe.txt", False, CPU)


def transformer(
    w, x, prefix, causal, head=64, activation=lambda x: x / (1 + torch.exp(-1.702 * x))
):
    """Pre-norm blocks as formulas on OpenAI's state dict."""
    length, width = x.shape[1:]
    heads = width // head

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    for number in range(LAYERS):
        n = f"{prefix}.resblocks.{number}"
        fused = norm(x, f"{n}.ln_1") @ w[f"{n}.attn.in_proj_weight"].T + w[f"{n}.attn.in_proj_bias"]
        q, k, v = fused.view(*x.shape[:2], 3, heads, head).unbind(2)
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(head)
        if causal:
            later = torch.arange(length)[:, None] < torch.arange(length)
            logits = logits.masked_fill(later, -math.inf)
        mixed = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v).reshape(x.shape)
        x = x + mixed @ w[f"{n}.attn.out_proj.weight"].T + w[f"{n}.attn.out_proj.bias"]
        inner = norm(x, f"{n}.ln_2") @ w[f"{n}.mlp.c_fc.weight"].T + w[f"{n}.mlp.c_fc.bias"]
        inner = activation(inner)
        x = x + inner @ w[f"{n}.mlp.c_proj.weight"].T + w[f"{n}.mlp.c_proj.bias"]
    return x, norm


def weights():
    return {name: tensor.double() for name, tensor in clip_state().items()}


def unit(x):
    return (x / torch.sqrt((x**2).sum(-1, keepdim=True))).numpy()


def reference_pictures(images, w=None, **family):
    w = w or weights()
    x = torch.stack([clip.preprocess(image, SIZE) for image in images]).double()
    patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, 3, rows, columns, p, p)
    x = torch.einsum("bcijkl,ockl->bijo", patches, w["visual.conv1.weight"]).flatten(1, 2)
    first = w["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + w["visual.positional_embedding"]
    _, norm = transformer(w, x, "visual.transformer", False, **family)
    x, _ = transformer(w, norm(x, "visual.ln_pre"), "visual.transformer", False, **family)
    return unit(norm(x[:, 0], "visual.ln_post") @ w["visual.proj"])


def reference_captions(ids):
    w = weights()
    ids = torch.from_numpy(ids)
    x = w["token_embedding.weight"][ids] + w["positional_embedding"]
    x, norm = transformer(w, x, "transformer", True)
    ends = x[torch.arange(len(ids)), ids.argmax(-1)]
    return unit(norm(ends, "ln_final") @ w["text_projection"])


def test_pictures_have_the_features_of_an_independent_formulation(network):
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 64, 3), np.uint8)
    ours, theirs = network.pictures(images), reference_pictures(images)
    assert np.abs(ours[0] - ours[1]).max() > 1e-3, "the pictures differ"
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_vit_h_14_has_heads_of_80_and_another_activation(metric_files, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 64, 3), np.uint8)
    torch.save(state := clip_state(vision=160), tmp_path / "h14.pt")
    given = tmp_path / "h14.pt", metric_files / "bpe.txt", False, CPU
    ours = clip.load(*given, clip.VIT_H_14).pictures(images)
    wide = {name: tensor.double() for name, tensor in state.items()}
    erf = lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))  # noqa: E731
    theirs = reference_pictures(images, wide, head=80, activation=erf)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(UserError, match="is no CLIP of open_clip's ViT-H/14"):
        clip.load(metric_files / "clip.pt", *given[1:], clip.VIT_H_14)


@pytest.mark.parametrize(
    ("width", "family"), [(1280, clip.OPENAI), (768, clip.VIT_H_14), (1024, clip.VIT_H_14)]
)
def test_the_published_widths_belong_to_one_family_each(width, family):
    with pytest.raises(UserError, match=f"a vision tower {width} wide"):
        clip._refuse_others(width, "file", family)


def test_captions_have_the_features_of_an_independent_formulation(network):
    ids = clip.tokenize(TEXTS, network.tokenizer, 77)
    ours = network.captions(TEXTS)
    np.testing.assert_allclose(ours, reference_captions(ids), atol=1e-5)
    alone = np.concatenate([network.captions([text]) for text in TEXTS])
    np.testing.assert_allclose(ours, alone, atol=1e-6, err_msg="the others' length matters")


def test_the_file_formats_give_one_network(network, metric_files, tmp_path):
    """OpenAI's names or transformers', half or single precision, with or without safetensors."""
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    wanted = network.pictures(images)
    theirs = {n: v.clone() for n, v in network.network.state_dict().items()}
    save_file(theirs, tmp_path / "transformers.safetensors")
    save_file(clip_state(), tmp_path / "openai.safetensors")
    for file in tmp_path.iterdir():
        other = clip.load(file, metric_files / "bpe.txt", False, CPU)
        assert np.array_equal(other.pictures(images), wanted), file.name


def test_a_torchscript_archive_is_opened_only_with_the_published_checksum(
    network, metric_files, tmp_path
):
    class Holder(torch.nn.Module):
        def __init__(self, state):
            super().__init__()
            for name, value in state.items():
                *path, last = name.split(".")
                place = self
                for part in path:
                    if not hasattr(place, part):
                        place.add_module(part, torch.nn.Module())
                    place = getattr(place, part)
                place.register_buffer(last, value)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    path = tmp_path / "ViT-B-32.pt"
    torch.jit.script(Holder(clip_state())).save(path)
    with pytest.raises(UserError, match="holds code"):
        clip.load(path, metric_files / "bpe.txt", False, CPU)
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    opened = clip.load(path, metric_files / "bpe.txt", True, CPU)
    assert np.array_equal(opened.pictures(images), network.pictures(images))


@pytest.mark.parametrize("damage", ["missing", "extra", "other", "text", "list"])
def test_other_weights_are_refused(tmp_path, metric_files, damage):
    path, state = tmp_path / "weights.pt", clip_state()
    if damage == "missing":
        del state["visual.ln_pre.bias"]
    elif damage == "extra":
        state["visual.attnpool.k_proj.weight"] = torch.zeros(2)
    elif damage == "other":
        state = {"linear.weight": torch.zeros(2, 2)}
    torch.save([1] if damage == "list" else state, path)
    if damage == "text":
        path.write_text("not weights")
    with pytest.raises(UserError, match=r"weights\.pt"):
        clip.load(path, metric_files / "bpe.txt", False, CPU)


def test_pictures_are_prepared_as_transformers_does():
    """CLIPImageProcessor, an independent reading of the same recipe; sizes of all proportions."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    theirs = CLIPImageProcessorPil()
    rng = np.random.default_rng(2)
    for height, width in ((512, 512), (224, 224), (300, 402), (333, 250), (100, 175)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        ours = clip.preprocess(image, 224)
        wanted = theirs(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(ours.numpy(), wanted, atol=1e-5)
    # An odd rest is where they differ: 299 - 224 = 75, of which torchvision cuts 38 on the left.
    image = rng.integers(0, 256, (224, 299, 3), np.uint8)
    ours = clip.preprocess(image, 224)
    assert torch.equal(ours, clip.preprocess(image[:, 38 : 38 + 224], 224))


def test_tokens_are_openais(network):
    """Bytes, merges, begin and end of text; cleaned; cut to the context with the end kept."""
    numbers = clip_vocabulary.vocabulary_of(MERGES)
    begin, end = numbers["<|startoftext|>"], numbers["<|endoftext|>"]
    assert (begin, end) == (517, 518)
    assert numbers["!"] == 0 and numbers["a</w>"] == 256 + ord("a") - ord("!")
    ids = clip.tokenize(TEXTS, network.tokenizer, 77)
    the, cat, cap = numbers["the</w>"], numbers["cat</w>"], [numbers["c"], numbers["ap</w>"]]
    assert ids[0].tolist() == [begin, the, cat, end] + [0] * 73
    words = [numbers["a</w>"], *cap, *(numbers[t] for t in ("o", "n</w>")), the, cat]
    assert ids[1, :10].tolist() == [begin, *words, numbers["!</w>"], end]
    assert ids[2, 0] == begin and ids[2, -1] == end and (ids[2, 1:-1] == numbers["th"]).all()
    both = [
        [n for n in row if n] for row in clip.tokenize(["&eacute;", "É"], network.tokenizer, 77)
    ]
    assert both[0] == both[1]


def test_marks_inside_a_caption_are_open_clips_own(network):
    """Equal to open_clip 2.26.1 on its own vocabulary: `<|endoftext|>` is three words to it."""
    end = clip_vocabulary.vocabulary_of(MERGES)["<|endoftext|>"]

    def ids(text):
        return clip.tokenize([text], network.tokenizer, 77)[0].tolist()

    for text in ("a <|endoftext|> b", "a<|EndOfText|>b", "a &lt;|endoftext|&gt; b"):
        assert ids(text) == ids("a <| endoftext |> b") and ids(text).count(end) == 1
    assert ids("!<|startoftext|>!") == ids("!<| startoftext |>!")
    assert ids("a <END_OF_TEXT> b").count(end) == 2
    assert ids("x<start_of_text>")[:4] == [end - 1, ids("x")[1], end - 1, end]


def test_a_vocabulary_is_read_from_each_of_its_forms(tmp_path, metric_files, network):
    text = (metric_files / "bpe.txt").read_bytes()
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(text))
    network.tokenizer.save_pretrained(tmp_path / "tokenizer")
    folder = tmp_path / "tokenizer"
    if not (folder / "merges.txt").is_file():  # transformers 5 keeps one file
        import json

        (folder / "merges.txt").write_text("#v\n" + "\n".join(" ".join(m) for m in MERGES))
        (folder / "vocab.json").write_text(json.dumps(clip_vocabulary.vocabulary_of(MERGES)))
    wanted = clip.tokenize(TEXTS, network.tokenizer, 77)
    for path in (tmp_path / "bpe.txt.gz", folder):
        found = clip.tokenize(TEXTS, clip_vocabulary.read_vocabulary(path), 77)
        assert np.array_equal(found, wanted)
    with pytest.raises(UserError, match="no CLIP vocabulary"):
        clip_vocabulary.read_vocabulary(tmp_path / "missing.txt")


def test_weights_and_vocabulary_must_fit(metric_files, tmp_path):
    (tmp_path / "bpe.txt").write_text("#v\na b")
    with pytest.raises(UserError, match="another CLIP"):
        clip.load(metric_files / "clip.pt", tmp_path / "bpe.txt", False, CPU)

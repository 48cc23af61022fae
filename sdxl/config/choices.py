"""Closed sets of values that settings take; a typo is answered with the list."""

from enum import Enum

# OmegaConf matches an enum by its members' names: those with a dot or a hyphen need the call.


class DType(str, Enum):
    """Storage and arithmetic type of one component."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class Device(str, Enum):
    """Where the model lives; `meta` holds shapes only and serves `plan=true`."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    meta = "meta"


class Noise(str, Enum):
    """Initial latents: one shared by all prompts (MLPerf), or one per prompt from its seed."""

    shared = "shared"
    per_prompt = "per_prompt"


class Spacing(str, Enum):
    """Which of the trained timesteps are taken (diffusers' `timestep_spacing`)."""

    leading = "leading"
    trailing = "trailing"
    linspace = "linspace"


class Prediction(str, Enum):
    """What a UNet predicts: the noise, a velocity, or the picture itself."""

    epsilon = "epsilon"
    v_prediction = "v_prediction"
    sample = "sample"


class Weighting(str, Enum):
    """How timesteps weigh in the loss of a training: by their noise, or all alike."""

    min_snr = "min_snr"
    none = "none"


class Sd2Network(str, Enum):
    """Shapes of the UNet of MLPerf's training benchmark."""

    sd2_tiny = "sd2_tiny"
    sd2_random = "sd2_random"


class Mode(str, Enum):
    """LoadGen's two modes."""

    performance = "performance"
    accuracy = "accuracy"


class Rules(str, Enum):
    """MLPerf's division rules: `closed` caches nothing and skips nothing.

    `auto` is closed for the benchmark's own weights and open for every other model.
    """

    auto = "auto"
    closed = "closed"
    open = "open"


class Format(str, Enum):
    """Number format of a quantized UNet."""

    none = "none"
    int8 = "int8"
    int8_weight_only = "int8_weight_only"
    int4_weight_only = "int4_weight_only"
    fp8 = "fp8"
    nvfp4 = "nvfp4"
    auto_mixed = "auto_mixed"  # none, INT8 or FP8, layer by layer

    @property
    def weight_only(self) -> bool:
        """Inputs of layers stay as they are: there is nothing to calibrate."""
        return self in (Format.int8_weight_only, Format.int4_weight_only)


class Calls(str, Enum):
    """How a step's amax is combined over calibration calls (one call = one prompt).

    `sum_over_steps` is NeMo's and demoDiffusion's rule: the sum over calls divided by the number
    of *steps*, so that the range grows with the number of prompts.
    """

    max = "max"
    mean = "mean"
    min = "min"
    sum_over_steps = "sum_over_steps"


class Steps(str, Enum):
    """How amax is combined over the first denoising steps."""

    max = "max"
    mean = "mean"
    min = "min"


class Convolutions(str, Enum):
    """What becomes of a quantized convolution in a graph.

    `conv` is the standard form. ONNX Runtime has no 8-bit convolution with float output: it
    runs that form in floats. `product` says the same as a MatMul of patches, which runs on
    integers. `float` leaves the layers unquantized: another network, nearer to the original.
    """

    conv = "conv"
    product = "product"
    float = "float"


class Rerun(str, Enum):
    """Which finished cells of an earlier sweep are measured again."""

    failed = "failed"
    all = "all"
    never = "never"


Round = Enum(
    "Round",
    {
        "v4.1": "v4.1",
        "v5.0": "v5.0",
        "v5.1": "v5.1",
        "v6.0": "v6.0",
        "v6.1": "v6.1",
        "custom": "custom",
    },
    type=str,
    module=__name__,
)
Round.__doc__ = "MLPerf Inference round whose rules hold; `custom`: LoadGen seeds from `seed`."


class Compliance(str, Enum):
    """MLPerf's audits: answers sampled in performance mode, and one prompt over and over."""

    test01 = "test01"
    test04 = "test04"


class Foreign(str, Enum):
    """What somebody else's work on the measured machine is to a figure."""

    warn = "warn"
    error = "error"

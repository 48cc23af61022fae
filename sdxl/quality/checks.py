"""What every quality option that scores is asked: its reference, and `quality.extra`."""

from __future__ import annotations

from sdxl.config.schema import Config
from sdxl.core.errors import Problem, did_you_mean
from sdxl.quality import extra, reference, settings


def problems_of(config: Config) -> list[Problem]:
    """Settings of the reference and of further metrics that would be ignored or mean nothing."""
    quality = config.quality
    assert isinstance(quality, settings.Scored)
    found = []
    for name in ("reference_images", "reference_steps"):
        if getattr(quality, name) and quality.reference != settings.AUTO:
            got = f"quality.reference={quality.reference or 'null'}"
            what = f"`quality.{name}` would be ignored"
            found.append(Problem(what, got, "quality.reference=auto", f"quality.{name}=null"))
    if settings.real_pictures(quality) and not isinstance(quality, settings.Fast):
        what = f"`quality.reference`: quality={quality.name} compares with no folder of pictures"
        fix = "quality=fast, or quality.reference=auto"
        found.append(Problem(what, quality.reference, "auto or null", fix))
    return found + _extra(config, quality)


def _extra(config: Config, quality: settings.Scored) -> list[Problem]:
    known, asked, found = extra.metrics(), quality.extra or [], []
    for name in asked:
        if name not in known:
            close = did_you_mean(name, [*known])
            expected = f"did you mean `{close}`?" if close else f"some of: {' '.join(known)}"
            fix = f"quality.extra=[{close}]" if close else None
            found.append(Problem(f"`quality.extra` has no metric `{name}`", name, expected, fix))
    if len(set(asked)) < len(asked):
        found.append(Problem("`quality.extra` names each metric once", ",".join(asked)))
    paired = [name for name, metric in extra.asked(quality).items() if metric.kind != "single"]
    if paired and (reason := reference.absent(config)):
        what = f"quality.extra=[{','.join(paired)}] compares with the reference, and there is none"
        found.append(Problem(what, reason, "quality.reference=auto, and a model that draws"))
    for name in extra.given_weights(quality):
        if name not in asked or name not in known or not known[name].weights:
            what = f"`quality.weights.{name}` would be ignored"
            with_weights = [n for n, m in extra.asked(quality).items() if m.weights]
            expected = f"weights of {' '.join(with_weights) or 'a metric of quality.extra'}"
            found.append(Problem(what, f"quality.extra=[{','.join(asked)}]", expected))
    return found

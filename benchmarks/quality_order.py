"""Do the quality scores put the settings in the order that they must?

    python benchmarks/quality_order.py                       1,024 captions, in pairs
    python benchmarks/quality_order.py --prompts 32 --settings fp32 int8_level3 int4_weights
    python benchmarks/quality_order.py --seeds 0 1 2 3 4 5 6 7      fid_scenes, 128 captions a seed
    python benchmarks/quality_order.py --seeds 0 1 --tuned int4_weights=FOLDER   after `train=qat`

In pairs: every setting (fp32, ONNX Runtime, bf16, INT8 at four levels, 8 and 4 bit weights) beside
the reference, the same model in torch fp32, and beside the one before it, caption by caption: PSNR,
answers that changed, accuracy. No step of distance may be reversed, and a figure of the task must
tell INT4 weights from INT8 level 3. What is done is kept in --out: the same command goes on.

With --seeds, in `fid_scenes`: real renders < unquantized <= INT8 level 1 <= level 3 < INT4 weights
< random weights; in accuracy the reverse. Every seed has its own noise and held-out captions, the
same for all settings, so they are compared seed by seed: two are apart if the 95 % interval of
their differences leaves zero out, and equal otherwise. `rebuilt` are the renders through the VAE:
what no UNet can correct.

Runs in one process without LoadGen. The last line is JSON; exit 1 if the order is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from math import isfinite
from pathlib import Path

import _pairs
import _scenes
import torch

from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.paths import BUNDLED
from sdxl.report.seeds import Spread

SETTINGS = (
    "real",
    "rebuilt",
    "unquantized",
    "int8_level1",
    "int8_level3",
    "int4_weights",
    "random",
)
ORDER = ("real", "unquantized", "int8_level1", "int8_level3", "int4_weights", "random")
STRICT = {("real", "unquantized"), ("int8_level3", "int4_weights"), ("int4_weights", "random")}
"""Neighbours that must be told apart; the others may be equal."""
SHOWN = ("fid_scenes", "attribute_accuracy", "attribute_1_accuracy", "attribute_2_accuracy",
         "attribute_3_accuracy", "clip_scenes", "clip_shuffled", "psnr_db", "ssim",
         "perceptual_scenes")  # fmt: skip
RISING = {"fid_scenes": True, "attribute_accuracy": False}


def spreads(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Spread]]:
    """setting -> score -> spread over the seeds."""
    return {
        name: {key: Spread(tuple(row[key] for row in rows)) for key in rows[0]}
        for name, rows in found.items()
    }


def verdicts(found: dict[str, dict[str, Spread]]) -> list[dict[str, str | float | bool | None]]:
    """What each pair of neighbours shows, by score: right, equal, or WRONG."""
    rows: list[dict[str, str | float | bool | None]] = []
    for one, other in pairwise(name for name in ORDER if name in found):
        for key, rising in RISING.items():
            step = found[other][key].minus(found[one][key])
            said = "equal" if not step.apart else "right" if (step.mean > 0) == rising else "WRONG"
            needed = (one, other) in STRICT
            ok = said == "right" or (said == "equal" and not needed)
            rows.append({"score": key, "pair": f"{one} -> {other}", "step": step.mean,
                         "half": step.half if isfinite(step.half) else None, "said": said,
                         "needed": "apart" if needed else "not reversed", "ok": ok})  # fmt: skip
    return rows


def recovered(found: dict[str, dict[str, Spread]]) -> dict[str, dict[str, float | None]]:
    """By tuned setting and score, the share of the loss that training won back.

    `psnr_db` is the gain in dB. None where nothing was lost, seed by seed, beyond the noise.
    """
    shares: dict[str, dict[str, float | None]] = {}
    base = found["unquantized"]
    for name in (n for n in found if n.endswith("+qat")):
        start, end = found[name.removesuffix("+qat")], found[name]
        row: dict[str, float | None] = {"psnr_db": end["psnr_db"].mean - start["psnr_db"].mean}
        for key in RISING:
            lost, won = start[key].minus(base[key]), start[key].minus(end[key])
            worse = lost.apart and (lost.mean > 0) == RISING[key]
            row[key] = won.mean / lost.mean if worse else None
        near = start["perceptual_scenes"].mean, end["perceptual_scenes"].mean
        row["perceptual_scenes"] = 1 - near[1] / near[0]
        shares[name] = row
    return shares


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print a table, the verdicts and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, help="default: 1024 in pairs, 128 for each seed")
    parser.add_argument("--seeds", type=int, nargs="+", help="over seeds, in place of pairs")
    parser.add_argument("--settings", nargs="+", metavar="SETTING")
    parser.add_argument("--out", type=Path, help="default: benchmarks/ in the store")
    parser.add_argument(
        "--model", type=Path, default=BUNDLED, help="a diffusers folder, 128 pixels"
    )
    parser.add_argument("--tuned", nargs="*", default=[], metavar="SETTING=FOLDER")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    known = SETTINGS if given.seeds else tuple(_pairs.SETTINGS)
    given.settings = given.settings or list(known)
    if unknown := sorted({*given.settings} - {*known}):
        parser.error(f"--settings {unknown[0]}: expected some of {' '.join(known)}")
    if not given.seeds:
        if given.tuned or given.model != BUNDLED:
            parser.error("--tuned and --model need --seeds")
        folder = given.out or store.root() / "benchmarks" / "quality_order"
        sys.exit(_pairs.run(given.settings, given.prompts or 1024, folder, _say))
    given.prompts = given.prompts or 128
    tuned = {name: Path(place) for name, _, place in (t.partition("=") for t in given.tuned)}
    if unknown := sorted(tuned.keys() - set(_scenes.SETTINGS)):
        parser.error(f"--tuned {unknown[0]}=...: expected one of {' '.join(_scenes.SETTINGS)}")
    names = list(dict.fromkeys([*given.settings, *tuned]))
    try:
        found = spreads(
            _scenes.measure(names, given.prompts, given.seeds, given.model, tuned,
                            _say)
        )  # fmt: skip
    except UserError as error:
        parser.error(str(error))
    print(f"{len(given.seeds)} seeds, {given.prompts} held-out captions each; mean ± 95 %")
    print("| setting | " + " | ".join(SHOWN) + " |")
    print("|---" * (len(SHOWN) + 1) + "|")
    shown = [n for n in SETTINGS if n in found] + [n for n in found if n not in SETTINGS]
    for name in shown:
        row = [str(found[name][key]) if key in found[name] else "-" for key in SHOWN]
        print(f"| {name} | " + " | ".join(row) + " |")
    rows = verdicts(found)
    for row in rows:
        half = "?" if row["half"] is None else f"{row['half']:.2g}"
        step = f"{row['step']:+.3g} ± {half}"
        print(f"{row['score']}: {row['pair']}: {step}: {row['said']} (needed: {row['needed']})")
    won = recovered(found)
    for name, shares in won.items():
        print(
            f"{name} won back: "
            + ", ".join(
                f"{k} {'inside the noise' if v is None else f'{v:+.3g}'}" for k, v in shares.items()
            )
        )
    result = {
        "prompts": given.prompts,
        "seeds": given.seeds,
        "settings": {
            name: {key: {"mean": s.mean, "values": s.values} for key, s in scores.items()}
            for name, scores in found.items()
        },
        "verdicts": rows,
        "recovered": won,
    }
    print(json.dumps(result))
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    main()

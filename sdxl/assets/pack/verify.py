"""Draw the pictures of the record again, with this pack alone, and compare.   python verify.py"""

import json
import math
from pathlib import Path

HERE = Path(__file__).resolve().parent


def compare() -> dict[str, object]:
    """PSNR of all pixels to the record's pictures, and the largest deviation of one of them."""
    import numpy as np
    from draw import Pack
    from PIL import Image

    told = json.loads((HERE / "pack.json").read_text())["check"]
    noise = np.load(HERE / "check" / "noise.npy", allow_pickle=False)
    pack, worst = Pack(HERE), 0
    errors: list[float] = []
    for place, picture in enumerate(told):
        first = noise[min(place, len(noise) - 1)][None]
        drawn = pack.draw(picture["prompt"], first, picture["seed"])
        theirs = np.asarray(Image.open(HERE / picture["file"]).convert("RGB"))
        gap = np.abs(drawn.astype(int) - theirs)
        worst = max(worst, int(gap.max()))
        errors.append(float((gap**2).mean()))
    error = sum(errors) / len(errors)
    psnr = 10 * math.log10(255**2 / error) if error else None
    return {"pictures": len(told), "psnr_db": psnr, "largest": worst, "with": pack.versions}


if __name__ == "__main__":
    try:
        found = compare()
    except ModuleNotFoundError as error:
        found = {"missing": error.name}
    print(json.dumps(found))

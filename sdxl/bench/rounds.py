"""What changes from one MLPerf Inference round to the next."""

from __future__ import annotations

from dataclasses import dataclass

from sdxl.schema import Round


@dataclass(frozen=True)
class Seeds:
    """LoadGen's seeds of a round (loadgen/mlperf.conf of that round)."""

    qsl: int
    sample_index: int
    schedule: int


SEEDS = {
    Round("v4.1"): Seeds(3066443479025735752, 10688027786191513374, 14962580496156340209),
    Round("v5.0"): Seeds(6023615788873153749, 15036839855038426416, 9933818062894767841),
    Round("v5.1"): Seeds(1780908523862526354, 14771362308971278857, 18209322760996052031),
    Round("v6.0"): Seeds(2465351861681999779, 14276810075590677512, 3936089224930324775),
    Round("v6.1"): Seeds(2085463073848966840, 2747215439041700203, 16159082839903944936),
}

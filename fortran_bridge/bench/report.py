"""Merge runs of engine_bench, judge them, and print them as Markdown."""

from __future__ import annotations

import math
from statistics import median

PEERS = ("native", "onnxruntime", "onednn", "libtorch", "ftorch")
NAMES = {"onnxruntime": "ONNX Runtime", "onednn": "oneDNN", "libtorch": "LibTorch", "ftorch": "FTorch"}
SAWTOOTH_BATCHES = 300  # the check goes that far; costs beyond are measured so that the envelope has no loose end
CHUNK = 1152  # 16 columns x 72 levels


# -- merging ----------------------------------------------------------------------------------------------------


def merge(runs: list[list[dict]]) -> dict:
    """Lines of engine_bench from several runs: the median over the runs of each time.

    Returns
    -------
    dict
        isa, peak_gflops, peers, missing, agreement, rows, variants, arg, sawtooth: the JSON file's sections.
    """
    lines = [line for run in runs for line in run]

    def of_kind(kind: str) -> list[dict]:
        return [line[kind] for line in lines if kind in line]

    # The largest of the measured peaks: whatever disturbs the machine only lowers it.
    peak = max((p["gflops"] for p in of_kind("peak")), default=0.0)
    variants = [
        {**dict(zip(("model", "batch", "backend", "variant", "weights"), key, strict=True)), "ns_per_sample": ns}
        for key, ns in _medians(
            of_kind("row"), ("model", "batch", "backend", "variant", "weights"), "ns_per_sample"
        ).items()
    ]
    arg = [
        {"batch": batch, "what": what, "ns_per_point": ns}
        for (batch, what), ns in _medians(of_kind("arg"), ("batch", "what"), "ns_per_point").items()
    ]
    return {
        "isa": next(p["isa"] for p in of_kind("peak")),
        "peak_gflops": peak,
        "peers": {p["peer"]: p["version"] for p in of_kind("peer")},
        "missing": {p["peer"]: p["why"] for p in of_kind("missing")},
        "agreement": [line["agreement"] for line in runs[0] if "agreement" in line],
        "rows": _fastest(variants, peak),
        "variants": variants,
        "arg": arg,
        "sawtooth": [_sawtooth(model, of_kind("calls")) for model in _unique(of_kind("calls"), "model")],
    }


def _medians(items: list[dict], keys: tuple[str, ...], value: str) -> dict[tuple, float]:
    groups: dict[tuple, list[float]] = {}
    for item in items:
        groups.setdefault(tuple(item[k] for k in keys), []).append(item[value])
    return {key: median(values) for key, values in groups.items()}


def _unique(items: list[dict], key: str) -> list:
    return list(dict.fromkeys(item[key] for item in items))


def _fastest(variants: list[dict], peak: float) -> list[dict]:
    """One row a peer: its fastest variant at that batch."""
    best: dict[tuple, dict] = {}
    for v in variants:
        key = v["model"], v["batch"], v["backend"]
        if key not in best or v["ns_per_sample"] < best[key]["ns_per_sample"]:
            best[key] = v
    rows = []
    for v in best.values():
        gflops = 2.0 * v["weights"] / v["ns_per_sample"]
        percent = {"percent_of_peak": 100.0 * gflops / peak} if peak else {}
        rows.append({k: v[k] for k in ("model", "batch", "backend", "variant", "ns_per_sample")})
        rows[-1] |= {"gflops": gflops} | percent
    return rows


# -- saw-tooth --------------------------------------------------------------------------------------------------


def _sawtooth(model: str, calls: list[dict]) -> dict:
    costs = [median(c) for c in zip(*(c["ns_per_call"] for c in calls if c["model"] == model), strict=True)]
    last = min(SAWTOOTH_BATCHES, len(costs))
    result = {"model": model, "batches": last, "ns_per_call": costs}
    for name, envelope in (("smooth", smooth_envelope(costs)), ("monotone", monotone_envelope(costs))):
        ratios = [c / e for c, e in zip(costs[:last], envelope, strict=False)]
        worst = max(range(last), key=ratios.__getitem__)
        result[name] = {"ratio": ratios[worst], "batch": worst + 1}
    return result


def smooth_envelope(costs: list[float]) -> list[float]:
    """Largest curve below the costs of calls of 1, 2, ... samples that is convex in log(cost) over log(samples).

    a + b n is such a curve for any overhead a and cost b of a sample, and so is a cost per sample that falls by ever
    less towards its limit; a bump is not. No parameter is fitted: the curve rests on the cheapest batch sizes.
    """
    points = [(math.log(n), math.log(c)) for n, c in enumerate(costs, start=1)]
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (x1, y1), (x2, y2) = hull[-2:]
            if (y2 - y1) * (x - x1) < (y - y1) * (x2 - x1):  # the last corner lies below the line past it: it stays
                break
            hull.pop()
        hull.append((x, y))
    envelope, k = [], 0
    for x, _ in points:
        while k + 2 < len(hull) and hull[k + 1][0] < x:
            k += 1
        if len(hull) == 1:
            return list(costs)
        (x1, y1), (x2, y2) = hull[k : k + 2]
        envelope.append(math.exp(y1 + (y2 - y1) * (x - x1) / (x2 - x1)))
    return envelope


def monotone_envelope(costs: list[float]) -> list[float]:
    """Least cost of any call with as many samples or more: a call could always be padded to that one."""
    envelope, least = [], math.inf
    for cost in reversed(costs):
        least = min(least, cost)
        envelope.append(least)
    return envelope[::-1]


# -- targets ----------------------------------------------------------------------------------------------------

# What the project set itself (issue 3), for a machine with AVX-512 units of full width. (model, batch, backend or
# measure, least ratio): native is to be that many times faster.
FASTER = [
    *(("L", batch, "onnxruntime", ratio) for batch, ratio in ((1, 20.0), (16, 4.0), (1024, 1.8))),
    *(("M", batch, "onnxruntime", ratio) for batch, ratio in ((1, 2.7), (16, 1.8), (1024, 1.6))),
    *(("B", batch, peer, 1.0) for peer in ("onnxruntime", "onednn") for batch in (1, 4, 16, 64, 256, 1024, 16384)),
]
PERCENT_OF_PEAK = [("B", 64, 95.0), ("M", 256, 87.0)]  # from that batch size on
OF_ARG = [(1, 0.60), (16, 0.33), (CHUNK, 0.28)]  # model L, largest share of ARG's time per point
LOG_NS = 15.0  # nine logarithms, per sample in chunks
SAWTOOTH = 1.15


def targets(result: dict) -> list[dict]:
    """Each target with what was measured and, for times, what an engine at this machine's peak would reach.

    What was not timed is left out.
    """
    table = _table(result)
    found = []

    def add(what: str, required: float, measured: float, met: bool, at_peak: float | None = None) -> None:
        found.append({"what": what, "required": required, "measured": measured, "met": met, "at_peak": at_peak})

    def share_of_peak(native: dict) -> float:
        return native.get("percent_of_peak", 100.0) / 100.0

    for model, batch, peer, least in FASTER:
        rows = table.get((model, batch), {})
        if peer in rows:
            ratio = rows[peer]["ns_per_sample"] / rows["native"]["ns_per_sample"]
            what = f"{model} at batch {batch}: times faster than {NAMES[peer]}, at least"
            add(what, least, ratio, ratio >= least, ratio / share_of_peak(rows["native"]))
    for model, smallest, least in PERCENT_OF_PEAK:
        for (m, batch), rows in table.items():
            if m == model and batch >= smallest and "percent_of_peak" in rows["native"]:
                percent = rows["native"]["percent_of_peak"]
                add(f"{model} at batch {batch}: percent of peak, at least", least, percent, percent >= least)
    arg = {(a["batch"], a["what"]): a["ns_per_point"] for a in result["arg"]}
    for batch, most in OF_ARG:
        for what, words in (("all", "all it computes"), ("number", "number only")):
            if (batch, what) in arg and ("L", batch) in table:
                native = table["L", batch]["native"]
                share = native["ns_per_sample"] / arg[batch, what]
                text = f"L at batch {batch}: share of ARG's time ({words}), at most"
                add(text, most, share, share <= most, share * share_of_peak(native))
    if ("L", CHUNK) in table and ("L+log", CHUNK) in table:
        extra = table["L+log", CHUNK]["native"]["ns_per_sample"] - table["L", CHUNK]["native"]["ns_per_sample"]
        add(f"nine logarithms at batch {CHUNK}: ns per sample, at most", LOG_NS, extra, extra <= LOG_NS)
    for s in result["sawtooth"]:
        ratio = s["smooth"]["ratio"]
        add(f"{s['model']}: saw-tooth over a smooth envelope, at most", SAWTOOTH, ratio, ratio <= SAWTOOTH)
    return found


# -- tables -----------------------------------------------------------------------------------------------------


def markdown(result: dict) -> str:
    parts = [_headline(result), _speed(result), _losses(result)]
    parts += [_arg(result)] if result["arg"] else [f"ARG was not timed: {result['missing'].get('arg', 'not built')}"]
    parts += [_footprint(result), _sawtooth_lines(result), _targets(result)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _headline(result: dict) -> str:
    m = result["machine"]
    peers = ", ".join(f"{NAMES.get(p, p)} {v}" for p, v in result["peers"].items())
    missing = "".join(f"\nMissing: {NAMES.get(p, p)} ({why})." for p, why in result["missing"].items())
    runs = "one run" if result["num_runs"] == 1 else f"median of {result['num_runs']} runs"
    return (
        f"{m['cpu']}, one core, {result['isa']}, measured peak {result['peak_gflops']:.0f} GFLOP/s (float32); "
        f"{m['compiler']}; {runs}, each the least of many short blocks.\n{peers}.{missing}\n"
        "ns per sample from float64 arrays to float64 arrays; in brackets how many times native is faster."
    )


def _table(result: dict) -> dict[tuple, dict[str, dict]]:
    table: dict[tuple, dict[str, dict]] = {}
    for row in result["rows"]:
        table.setdefault((row["model"], row["batch"]), {})[row["backend"]] = row
    return table


def _speed(result: dict) -> str:
    others = [p for p in PEERS if p != "native"]
    header = ["model", "batch", "native", "of peak", *(NAMES[p] for p in others)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for (model, batch), rows in sorted(_table(result).items(), key=lambda item: _order(result, item[0])):
        native = rows["native"]
        cells = [model, str(batch), _ns(native["ns_per_sample"])]
        cells.append(f"{native['percent_of_peak']:.0f} %" if "percent_of_peak" in native else "unknown")
        for peer in others:
            if peer not in rows:
                cells.append("missing")
                continue
            ratio = rows[peer]["ns_per_sample"] / native["ns_per_sample"]
            text = f"{_ns(rows[peer]['ns_per_sample'])} ({ratio:.2f})"
            cells.append(text if ratio >= 1.0 else f"**{text}, we lose**")
        lines.append(cells)
    return _rows(lines)


def _order(result: dict, key: tuple) -> tuple:
    return _unique(result["rows"], "model").index(key[0]), key[1]


def _losses(result: dict) -> str:
    losses = []
    for (model, batch), rows in _table(result).items():
        for peer, row in rows.items():
            ratio = row["ns_per_sample"] / rows["native"]["ns_per_sample"]
            if ratio < 1.0:
                losses.append(f"- {model} at batch {batch}: {NAMES[peer]} takes {100 * ratio:.1f} % of native's time")
    return "Where we lose:\n" + "\n".join(losses) if losses else "We lose to no peer timed here."


def _arg(result: dict) -> str:
    arg = {(a["batch"], a["what"]): a["ns_per_point"] for a in result["arg"]}
    table = _table(result)
    header = ["batch", "ARG, number only", "ARG, all it computes", "native L", "of number only", "of all", "L+log",
              "host's mapping"]  # fmt: skip
    lines = [header, ["---:"] * len(header)]
    for batch in sorted({a["batch"] for a in result["arg"]}):
        native = {m: table[m, batch]["native"]["ns_per_sample"] for m in ("L", "L+log") if (m, batch) in table}
        number, everything, mapping = (arg[batch, what] for what in ("number", "all", "mapping"))
        cells = [str(batch), _ns(number), _ns(everything)]
        if "L" in native:
            cells += [_ns(native["L"]), f"{native['L'] / number:.2f}", f"{native['L'] / everything:.2f}"]
        else:
            cells += ["not timed"] * 3
        if len(native) == 2:
            cells.append(f"{_ns(native['L+log'])} ({native['L+log'] - native['L']:+.1f})")
        else:
            cells.append("not timed")
        lines.append([*cells, _ns(mapping)])
    return (
        "ns per point; ARG in Fortran on the same states, four modes. Not in native's time: the host's mapping from\n"
        "its arrays to the emulator's inputs (last column).\n\n" + _rows(lines)
    )


def _footprint(result: dict) -> str:
    header = ["backend", "model", "opening the library", "loading the model", "first call", "memory added", "on disk"]
    lines = [header, ["---", "---"] + ["---:"] * 5]
    for f in result["footprint"]:
        times = [f"{f[k]:.2f} ms" for k in ("open_ms", "load_ms", "first_call_ms")]
        memory, disk = f"{f['resident_kb'] / 1024:.1f} MB", f"{f['disk_bytes'] / 1e6:.2f} MB"
        lines.append([NAMES.get(f["backend"], f["backend"]), f["model"], *times, memory, disk])
    return "Each in a fresh process; on disk: the libraries that it opens.\n\n" + _rows(lines)


def _sawtooth_lines(result: dict) -> str:
    return "\n".join(
        f"Saw-tooth, {s['model']}, every batch from 1 to {s['batches']}: worst cost of a call over a smooth envelope "
        f"{s['smooth']['ratio']:.3f} (batch {s['smooth']['batch']}), over the cheapest larger call "
        f"{s['monotone']['ratio']:.3f} (batch {s['monotone']['batch']})."
        for s in result["sawtooth"]
    )


def _targets(result: dict) -> str:
    missed = [t for t in result["targets"] if not t["met"]]
    if result["quick"] or not result["targets"]:
        return ""
    lines = [["target", "required", "measured", "at 100 % of this machine's peak"], ["---", "---:", "---:", "---:"]]
    for t in missed:
        at_peak = f"{t['at_peak']:.3g}" if t["at_peak"] is not None else ""
        lines.append([t["what"], f"{t['required']:g}", f"{t['measured']:.3g}", at_peak])
    heading = f"{len(result['targets']) - len(missed)} of {len(result['targets'])} targets of the project are met here"
    return f"{heading}; missed:\n\n{_rows(lines)}" if missed else f"{heading}."


def _ns(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _rows(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

"""Build engine_bench, run it three times, write engine.json and print the tables: `make bench`.

    python fortran_bridge/bench/run.py            # about five minutes, on an otherwise idle core
    python fortran_bridge/bench/run.py --quick    # seconds: does it work? Its numbers mean nothing.

FTorch is timed where CMake finds it: set FTorch_DIR, or add its prefix to CMAKE_PREFIX_PATH.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median

import report

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
QUICK = ["--models", "L,L+log", "--batches", "1,16", "--seconds", "0.02", "--calls", "48"]


class BenchError(RuntimeError):
    """A step failed; the message is for the user. `status` is the process's exit status."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    folder = args.folder.resolve()
    out = args.out or folder / ("engine-quick.json" if args.quick else "engine.json")
    os.environ.setdefault("ENGINE_BENCH_ONNXRUNTIME", onnxruntime_library() or "")
    try:
        program = args.program or build(folder / "cmake")
        data = args.data or models(folder / "models")
        command = [str(program), "--data", str(data)] + (["--core", str(args.core)] if args.core is not None else [])
        num_runs = 1 if args.quick else args.runs
        runs = []
        for k in range(num_runs):
            print(f"run {k + 1} of {num_runs} ...", file=sys.stderr, flush=True)
            runs.append(engine_bench(command + (QUICK if args.quick else [])))
        result = report.merge(runs)
        explain_missing(result, program.parent / "missing.txt")
        result = {
            "schema": 1,
            "machine": machine(program.parent / "compilers.txt"),
            "num_runs": num_runs,
            "quick": args.quick,
            **result,
            "footprint": footprint(command, list(result["peers"]), ("L",) if args.quick else ("L", "B"), args.quick),
            "targets": report.targets(result),
        }
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.status
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, out)
    print(report.markdown(result))
    print(f"wrote {os.path.relpath(out)}")
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--quick", action="store_true", help="a few seconds, small models: a check, not a measurement")
    p.add_argument("--runs", type=int, default=3, help="the median of as many runs is reported (default: 3)")
    p.add_argument("--core", type=int, help="core to run on (default: the first one allowed)")
    p.add_argument("--folder", type=Path, default=REPOSITORY / "build/bench", help="default: build/bench")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: FOLDER/engine.json")
    p.add_argument("--program", type=Path, metavar="FILE", help="an engine_bench that is built already")
    p.add_argument("--data", type=Path, metavar="FOLDER", help="models that make_models.py has written already")
    return p


def build(folder: Path) -> Path:
    """engine_bench and the plugins of the peers that CMake finds."""
    prefixes = [p for p in (torch_prefix(), os.environ.get("CMAKE_PREFIX_PATH", "").replace(":", ";")) if p]
    configure = ["cmake", "-S", str(REPOSITORY), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release",
                 "-DLIBEMULATOR_BENCH=ON", "-DLIBEMULATOR_TESTS=OFF", "-DLIBEMULATOR_TOOLS=OFF",
                 f"-DCMAKE_PREFIX_PATH={';'.join(prefixes)}"]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(folder), "--parallel", "--target", "engine_bench"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return folder / "fortran_bridge/bench/engine_bench"


def models(folder: Path) -> Path:
    """The models, made again when the script that makes them has changed."""
    script, written = HERE / "make_models.py", folder / "written"
    if not written.exists() or written.stat().st_mtime < script.stat().st_mtime:
        paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
        done = subprocess.run([sys.executable, str(script), str(folder)], text=True, env=environment)
        if done.returncode != 0:
            raise BenchError("make_models.py failed, see above")
        written.touch()
    return folder


def torch_prefix() -> str | None:
    spec = importlib.util.find_spec("torch")
    return str(Path(spec.origin).parent / "share/cmake") if spec else None


def onnxruntime_library() -> str | None:
    spec = importlib.util.find_spec("onnxruntime")
    found = sorted((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*")) if spec else []
    return str(found[0]) if found else None


def engine_bench(command: list[str]) -> list[dict]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"no table: {done.stderr.strip() or f'engine_bench ended with {done.returncode}'}", 3)
    return [json.loads(line) for line in done.stdout.splitlines()]


def explain_missing(result: dict, reasons: Path) -> None:
    """Why a peer is missing, in CMake's words where it knows them."""
    for line in reasons.read_text().splitlines() if reasons.exists() else []:
        peer, _, why = line.partition(": ")
        if peer == "arg" or peer in result["missing"]:
            result["missing"][peer] = why
    if "onnxruntime" in result["missing"]:
        result["missing"]["onnxruntime"] = "libonnxruntime.so was not found in the Python package onnxruntime"


def footprint(command: list[str], peers: list[str], names: tuple[str, ...], quick: bool) -> list[dict]:
    """Load time, memory and size of each peer, each measured in processes of their own."""
    rows = []
    for name in names:
        for peer in peers:
            load = [*command, "--footprint", peer, "--models", name]
            samples = [engine_bench(load)[0] for _ in range(1 if quick else 7)]
            row = {"backend": peer, "model": name}
            for key in ("open_ms", "load_ms", "first_call_ms"):
                row[key] = min(s[key] for s in samples)
            row["resident_kb"] = median(s["resident_kb"] for s in samples)
            row["disk_bytes"] = sum(f["bytes"] for f in samples[0]["files"])
            row["files"] = {Path(f["path"]).name: f["bytes"] for f in samples[0]["files"]}
            rows.append(row)
    return rows


def machine(compilers: Path) -> dict:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(
        (key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in reversed(text.splitlines()))
    )
    cpu = fields.get("model name", platform.processor() or platform.machine())
    if "cpu family" in fields:
        cpu += f" (family {fields['cpu family']}, model {fields['model']})"
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return {
        "cpu": cpu,
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "compiler": ", ".join(compilers.read_text().split("\n")[:2]) if compilers.exists() else "unknown",
        "commit": commit.stdout.strip() or "unknown",
    }


if __name__ == "__main__":
    sys.exit(main())

"""A search as a SLURM job: handed over, and followed to its end."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hpo.errors import SearchError
from hpo.lines import shown
from hpo.slurm import FOLDER, SlurmConfig, render

_BAD_ENDS = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
_ENDED = ("COMPLETED", *_BAD_ENDS)
_LAST_LINES = 20
_TICK_S = 1.0
_LONGEST_POLL_S = 10.0  # every poll is a request to the controller that the whole cluster shares

# -- submission ----------------------------------------------------------------------------------------------------


def launch(config: SlurmConfig, command: Sequence[str], *, out: Path, dry_run: bool = False) -> int:
    """Submit a search and follow it to its end.

    Parameters
    ----------
    config : SlurmConfig
    command : sequence of str
        The search, as every task runs it.
    out : Path
        Study folder.
    dry_run : bool
        Only print the script.

    Returns
    -------
    int
        0 if the job ended well; else the exit status of hpo.search.

    Raises
    ------
    SearchError
        There is no SLURM, it refuses the job, or the study folder cannot be written.
    """
    script = render(config, command, out=out, chdir=Path.cwd())
    if dry_run:
        sys.stdout.write(script)
        return 0
    log = Path(out) / "log"
    begin = log.stat().st_size if log.exists() else 0
    job = submit(script, out)
    print(f"job {job} submitted; its script: {Path(out) / FOLDER / f'{job}.sh'}", flush=True)
    try:
        return follow(job, out, begin=begin)
    except KeyboardInterrupt:
        print(
            f"\nno longer following; job {job} runs on. See it: python -m hpo.status {shlex.quote(str(out))}; "
            f"stop it: scancel {job}",
            file=sys.stderr,
        )
        return 130


def submit(script: str, out: Path) -> str:
    """Hand a script to sbatch; the number of the job. A copy of the script stays in the study folder."""
    if not shutil.which("sbatch"):
        raise SearchError(
            "--launch slurm: there is no sbatch on PATH. Run this on a login node of the cluster (perhaps after "
            "`module load slurm`), or without --launch inside an allocation; --dry-run shows the script anywhere"
        )
    folder = Path(out) / FOLDER
    waiting = folder / "submitted.sh"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        waiting.write_text(script)
    except OSError as error:
        raise SearchError(
            f"study folder {out} cannot be written ({error.strerror}); choose another with --out, on a file system "
            "that the nodes see too"
        ) from None
    done = subprocess.run(["sbatch", "--parsable", str(waiting)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = "; ".join(line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines())
        raise SearchError(
            f"sbatch refused the job: {message or f'status {done.returncode}'}\n"
            f"Its options come from the [slurm] table of the config; the script is {waiting}"
        )
    job = done.stdout.strip().split(";")[0]
    waiting.replace(folder / f"{job}.sh")
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)
    return job


# -- following -----------------------------------------------------------------------------------------------------


class Element(NamedTuple):
    """A job, or one element of a job array, as squeue tells it."""

    name: str
    state: str
    reason: str
    restarts: int
    exit_status: int
    nodes: str

    def __str__(self) -> str:
        text = self.state
        if self.restarts:
            text += f" (run {self.restarts + 1})"
        if self.nodes and self.state not in _ENDED:
            return f"{text} on {self.nodes}"
        if self.exit_status and self.state in _ENDED:
            return f"{text} with status {self.exit_status}"
        return text if self.reason in ("", "None") else f"{text}: {self.reason}"


_FORMAT = ("JobArrayID", "State", "Reason", "RestartCnt", "exit_code", "NodeList")


def elements(job: str) -> list[Element] | None:
    """What SLURM says of a job, per element of an array; [] if it has forgotten it, None if it does not answer."""
    columns = ",".join(f"{name}:|" for name in _FORMAT)
    command = ["squeue", "--noheader", "--states=all", "--array", "--jobs", job, f"--Format={columns}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [] if "Invalid job id" in done.stderr else None
    found = []
    for line in done.stdout.splitlines():
        name, state, reason, restarts, code, nodes, *_ = line.split("|")
        status = int(code) >> 8 if int(code) >> 8 else 128 + (int(code) & 127) if int(code) else 0
        found.append(Element(name.strip(), state.strip(), reason.strip(), int(restarts), status, nodes.strip()))
    return found


def follow(job: str, out: Path, *, begin: int = 0) -> int:
    """Print what becomes of a job, and the study's log, until the job has ended.

    Parameters
    ----------
    job : str
    out : Path
        Study folder.
    begin : int
        Bytes of its log that are old.

    Returns
    -------
    int
        0 if all of it ended well, else the highest exit status (1 where there is none).
    """
    log = _Tail(Path(out) / "log", begin)
    told, next_look, start = "", 0.0, time.monotonic()
    seen: list[Element] = []
    while True:
        now = time.monotonic()
        if now >= next_look:
            found = elements(job)
            next_look = now + min(_LONGEST_POLL_S, _TICK_S + (now - start) / 10)
            text = _state_text(job, found)
            for line in log.new_lines():
                print(shown(line))
            if text != told:
                print(shown(text), flush=True)
                told = text
            seen = found or seen
            if found == [] or (found and all(e.state in _ENDED for e in found)):
                break
        for line in log.new_lines():
            print(shown(line), flush=True)
        time.sleep(_TICK_S)
    failed = [e for e in seen if e.state != "COMPLETED"]
    if found and not failed:
        return 0
    if any((Path(out) / FOLDER).glob(f"{job}.*.ended.0")):  # the job could not say so: its first node had failed
        print(f"job {job}: the study is finished")
        return 0
    for element in failed[:3]:
        print(_last_words(element, out), file=sys.stderr)
    return max((e.exit_status for e in failed), default=0) or 1


def _state_text(job: str, found: list[Element] | None) -> str:
    if found is None:
        return f"job {job}: squeue does not answer; still trying"
    if not found:
        return f"job {job}: SLURM has forgotten it"
    if len(found) == 1:
        return f"job {job}: {found[0]}"
    counts = Counter(e.state for e in found)
    return f"job {job}: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))


def _last_words(element: Element, out: Path) -> str:
    """The end of what a job printed, and where the rest is."""
    told = subprocess.run(["scontrol", "show", "job", element.name], capture_output=True, text=True, check=False).stdout
    match = re.search(r"^ *StdErr=(.*?) *$", told, re.MULTILINE)
    path = Path(match[1].replace("%%", "%")) if match else Path(out) / FOLDER / f"{element.name}.log"
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"job {element.name} ended as {element}; its output {path} cannot be read ({error.strerror})"
    end = "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])
    return f"job {element.name} ended as {element}; the end of {path}:\n{end}"


class _Tail:
    """Whole new lines of a growing text file."""

    def __init__(self, path: Path, begin: int):
        self._path, self._position = path, begin

    def new_lines(self) -> list[str]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._position)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.decode(errors="replace").splitlines()

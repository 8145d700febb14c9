"""The batch script of a search, what its table may say, and the programs of SLURM that are called."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpo import search
from hpo.errors import SearchError
from hpo.slurm import SlurmConfig, render, time_limit_seconds
from hpo.slurm_job import elements, follow, launch, submit

SCRIPT = """\
#!/bin/bash
# Written by python -m hpo.search --launch slurm; by hand: mkdir -p '/scratch/my study/slurm', then sbatch this file.
#SBATCH --job-name="hpo-my study"
#SBATCH --chdir=/home/me
#SBATCH --output="/scratch/my study/slurm/%j.log"
#SBATCH --open-mode=append
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=a100:4
#SBATCH --mem=200G
#SBATCH --account=m1234
#SBATCH --partition=gpu
#SBATCH --qos=regular
#SBATCH --constraint=gpu&hbm80g
#SBATCH --time=12:00:00
#SBATCH --signal=USR2@180
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --mail-type=END
#SBATCH --exclusive

module load python
source "$HOME/my env/bin/activate"

# A task that ends leaves $ended.STATUS; one whose srun is gone with the first node ends the job itself.
study='/scratch/my study'
ended="$study/slurm/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.ended"
: >"$ended.began"
task='trap : USR2 TERM
"$@"
status=$?
: >"$0.$status"
if [ "$SLURM_NODEID" != 0 ] && [ "$SLURM_LOCALID" = 0 ]; then
    if ! timeout 10 bash -c ": </dev/tcp/$SLURM_SRUN_COMM_HOST/$SLURM_SRUN_COMM_PORT" 2>/dev/null; then
        case $status in
            0) scancel "$SLURM_JOB_ID" ;;
            75) sleep 30; scontrol requeue "$SLURM_JOB_ID" ;;
        esac
    fi
fi
exit "$status"
'

# USR2 (the time is nearly over) and TERM (scancel) reach the tasks from SLURM; this script waits until they have left.
trap : USR2 TERM
srun --no-kill --kill-on-bad-exit=0 --wait=0 --label --cpus-per-task=32 bash -c "$task" "$ended" \\
    python -m hpo.search --out '/scratch/my study' --widths '8,$x "y"' \\
    2> >(grep --line-buffered -v "eio_message_socket_accept.*Zero Bytes" >&2) &  # what srun says of the tasks' look
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
status=$?

if [ -e "$ended.0" ]; then
    status=0  # the study is finished, whatever became of single tasks
elif [ -e "$ended.75" ]; then
    status=75  # it is not, and there was no more time
elif squeue --noheader --jobs="$SLURM_JOB_ID" --Format=PreemptTime | grep -q "[0-9]"; then
    status=75  # nor is it here: a job of higher priority takes our nodes
fi
idle="$study/slurm/$SLURM_JOB_ID.idle"  # a line for each run in a row that left nothing behind
left() {
    find "$study"/step? "$study"/cache -newer "$ended.began" \\( -path "*/step?/*" -type f -o -name prepared.json \\)
}
if [ "$status" != 75 ] || left 2>/dev/null | grep -q .; then
    rm -f "$idle"
else
    echo "$ended" >>"$idle"
fi
rm -f "$ended".*
if [ "$status" = 75 ] && [ -e "$idle" ] && [ "$(wc -l <"$idle")" -ge 3 ]; then
    echo "hpo: 3 runs of this job in a row finished no trial and wrote no checkpoint: it is not" \\
        "requeued again. Give [slurm] more time or fewer signal_seconds, and see above what kept it" >&2
    rm -f "$idle"
    exit 1
fi
if [ "$status" = 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
"""


def options(script):
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def rendered(out="study", chdir="/home/me", **table):
    return render(SlurmConfig.from_table(table), ["true"], out=Path(out), chdir=Path(chdir))


def test_the_whole_script():
    config = SlurmConfig(
        nodes=4,
        cpus_per_task=32,
        gpus_per_node="a100:4",
        account="m1234",
        partition="gpu",
        qos="regular",
        time="12:00:00",
        constraint="gpu&hbm80g",
        mem="200G",
        signal_seconds=180,
        setup=["module load python", 'source "$HOME/my env/bin/activate"'],
        extra=["--mail-type=END", "#SBATCH --exclusive"],
    )
    command = ["python", "-m", "hpo.search", "--out", "/scratch/my study", "--widths", '8,$x "y"']
    assert render(config, command, out=Path("/scratch/my study"), chdir=Path("/home/me")) == SCRIPT


def test_an_empty_table_asks_for_one_node_and_leaves_the_rest_to_the_cluster():
    assert options(rendered()) == [
        "--job-name=hpo-study",
        "--chdir=/home/me",
        "--output=/home/me/study/slurm/%j.log",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--signal=USR2@120",
        "--requeue",
        "--no-kill",
    ]


def test_a_percent_sign_in_the_study_folder_is_no_pattern():
    assert "--output=/home/me/5%%j/slurm/%j.log" in options(rendered("5%j"))


def test_elements_of_an_array_write_logs_of_their_own():
    assert "--array=0-9%4" in options(rendered(array="0-9%4"))
    assert "--output=/home/me/study/slurm/%A_%a.log" in options(rendered(array="0-9%4"))


def test_without_requeue_no_line_requeues():
    script = rendered(requeue=False)
    assert "--no-requeue" in options(script)
    assert "scontrol" not in script


@pytest.mark.parametrize("table", [{}, {"requeue": False}, {"setup": ["cd /x"], "cpus_per_task": 2}])
def test_bash_accepts_the_script(table, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(rendered(**table))
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_a_table_comes_back_from_its_plain_form():
    table = {"nodes": "2-8", "gpus_per_node": 4, "time": 90, "requeue": False, "setup": ["a", "b"]}
    config = SlurmConfig.from_table(table)
    assert config.to_table() == table
    assert SlurmConfig.from_table({}).to_table() == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(5, 300), ("5", 300), ("5:30", 330), ("1:02:03", 3723), ("1-2", 93600), ("1-2:3", 93780), ("1-2:3:4", 93784)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, seconds):
    assert time_limit_seconds(text) == seconds


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"node": 2}, r"\[slurm\] has no 'node'; it may have nodes, tasks_per_node, .*extra. Other options of sbatch"),
        ({"nodes": 0}, r"\[slurm\] nodes is 0 \(int\); expected a number or a range such as '2-8'"),
        ({"nodes": "two"}, "nodes is 'two'"),
        ({"tasks_per_node": True}, "tasks_per_node is True"),
        ({"gpus_per_node": "four"}, "gpus_per_node is 'four'"),
        ({"cpus_per_task": 1.5}, "cpus_per_task is 1.5"),
        ({"requeue": "yes"}, "requeue is 'yes'"),
        ({"account": "a\nb"}, "account is 'a\\\\nb' .*text of one line"),
        ({"setup": [1]}, "setup is .* expected a list of lines"),
        ({"extra": ["mail-type=END"]}, "extra is 'mail-type=END' .*such as '--mail-type=END'"),
        ({"time": "soon"}, "time is 'soon'"),
        ({"time": 2}, "time is 2, that is 120 s, and the members leave signal_seconds = 120 before it ends"),
    ],
)
def test_a_wrong_table_is_refused_with_the_remedy(table, message):
    with pytest.raises(SearchError, match=message):
        SlurmConfig.from_table(table)


# -- with programs that stand for SLURM's ----------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Function that puts a shell script on the PATH under a name; nothing of a real SLURM is on it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "echo", "seq", "sh"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("hpo.slurm_job._TICK_S", 0.01)

    def put(name, text):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return put


def test_without_sbatch_the_error_says_where_to_go(programs, tmp_path):
    with pytest.raises(SearchError, match=r"no sbatch on PATH\. Run this on a login node .*--dry-run"):
        submit("", tmp_path)


def test_what_sbatch_says_is_quoted(programs, tmp_path):
    programs("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")
    with pytest.raises(SearchError, match=r"(?s)refused the job: Batch job .*: Invalid account\n.*\[slurm\]"):
        submit("#!/bin/bash\n", tmp_path)


def test_an_out_folder_that_cannot_be_made_is_named(programs, tmp_path):
    programs("sbatch", "echo 1")
    (tmp_path / "file").write_text("")
    with pytest.raises(SearchError, match=r"file/study cannot be written \(Not a directory\); choose another"):
        submit("", tmp_path / "file" / "study")


def test_the_script_of_a_job_stays_in_the_study_folder(programs, tmp_path):
    programs("sbatch", "echo '17;cluster'")
    assert submit("#!/bin/bash\n", tmp_path) == "17"
    assert (tmp_path / "slurm" / "17.sh").read_text() == "#!/bin/bash\n"


def test_a_dry_run_prints_the_script_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch(SlurmConfig(), ["true"], out=Path("study"), dry_run=True) == 0
    assert capsys.readouterr().out == render(SlurmConfig(), ["true"], out=Path("study"), chdir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_job_runs_the_same_command_without_the_launch(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text('data = {path = "s.nc"}\nslurm = {nodes = 3}\n')
    flags = ["--config", "c.toml", "--trials", "9", "--out", "my study"]
    for launch_flags in (["--launch", "slurm"], ["--launch=slurm"]):
        assert search.main([*flags[:2], *launch_flags, *flags[2:], "--dry-run"]) == 0
        script = capsys.readouterr().out
        assert "#SBATCH --nodes=3\n" in script
        assert f"\n    {sys.executable} -m hpo.search --config c.toml --trials 9 --out 'my study' \\\n" in script
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]


def squeue(programs, tmp_path, *answers):
    """A squeue that gives one answer after the other, and the last for ever."""
    for k, answer in enumerate(answers):
        (tmp_path / f"answer{k}").write_text(answer)
    (tmp_path / "calls").write_text("0")
    programs(
        "squeue",
        f"cd {tmp_path}; read n <calls; echo $((n+1)) >calls\n"
        f"[ $n -lt {len(answers)} ] || n={len(answers) - 1}; cat answer$n",
    )


def test_a_job_is_followed_to_its_end(programs, tmp_path, capsys):
    squeue(
        programs,
        tmp_path,
        "7|PENDING|Priority|0|0||\n",
        "7|RUNNING|None|0|0|node[1-2]|\n",
        "7|RUNNING|None|1|0|node3|\n",
        "7|COMPLETED|None|1|0|node3|\n",
    )
    (tmp_path / "log").write_text("old\nnew\nhalf a li")
    assert follow("7", tmp_path, begin=4) == 0
    assert capsys.readouterr().out.splitlines() == [
        "new",
        "job 7: PENDING: Priority",
        "job 7: RUNNING on node[1-2]",
        "job 7: RUNNING (run 2) on node3",
        "job 7: COMPLETED (run 2)",
    ]


def test_the_end_of_a_failed_job_is_quoted_with_its_path(programs, tmp_path, capsys):
    squeue(programs, tmp_path, "7|FAILED|NonZeroExitCode|0|512|node1|\n")
    log = tmp_path / "7%.log"
    log.write_text("".join(f"line {k}\n" for k in range(100)))
    programs("scontrol", f"echo 'JobId=7'; echo '   StdErr={tmp_path}/7%%.log '")
    assert follow("7", tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.out == "job 7: FAILED with status 2\n"
    assert captured.err.startswith(f"job 7 ended as FAILED with status 2; the end of {log}:\n  line 80\n")
    assert captured.err.endswith("  line 99\n")


def test_an_array_is_told_in_numbers(programs, tmp_path, capsys):
    squeue(
        programs,
        tmp_path,
        "7_0|RUNNING|None|0|0|node1|\n7_1|PENDING|Resources|0|0||\n7_2|PENDING|Resources|0|0||\n",
        "7_0|COMPLETED|None|0|0|node1|\n7_1|CANCELLED|None|0|15||\n7_2|COMPLETED|None|0|0||\n",
    )
    programs("scontrol", "exit 1")
    assert follow("7", tmp_path) == 143
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["job 7: 2 PENDING, 1 RUNNING", "job 7: 1 CANCELLED, 2 COMPLETED"]
    words = f"job 7_1 ended as CANCELLED with status 143; its output {tmp_path}/slurm/7_1.log cannot be read"
    assert words in captured.err


def test_a_controller_that_does_not_answer_is_asked_again(programs, tmp_path, capsys):
    (tmp_path / "asked").write_text("")
    programs(
        "squeue",
        f"cd {tmp_path}; read n <asked; echo again >asked\n"
        "[ \"$n\" ] || { echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }\n"
        "echo '7|COMPLETED|None|0|0|node1|'",
    )
    assert follow("7", tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job 7: squeue does not answer; still trying",
        "job 7: COMPLETED",
    ]


def test_a_job_that_slurm_has_forgotten_is_not_called_finished(programs, tmp_path):
    programs("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert elements("7") == []
    assert follow("7", tmp_path) == 1


def test_a_job_without_its_first_node_counts_as_finished_if_a_task_said_so(programs, tmp_path):
    squeue(programs, tmp_path, "7|CANCELLED|None|0|0|node2|\n")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "7.0.ended.0").touch()
    assert follow("7", tmp_path) == 0


def run_job(tmp_path, programs, restart, leaves=None):
    """One run of a job whose members leave for want of time; what it printed, and whether it was requeued."""
    for name in ("find", "grep", "rm", "sleep", "touch", "wc"):
        with contextlib.suppress(FileExistsError):
            (tmp_path / "bin" / name).symlink_to(shutil.which(name, path=os.defpath))
    study, requeued = tmp_path / "study", tmp_path / "requeued"
    (study / "slurm").mkdir(parents=True, exist_ok=True)
    (study / "step1").mkdir(exist_ok=True)
    # file systems tell times apart that are 10 ms apart
    programs("srun", f"sleep 0.05; touch '{study}/slurm/7.{restart}.ended.75' {leaves or ''}; sleep 0.05; exit 75")
    programs("scontrol", f"touch '{requeued}'")
    environment = os.environ | {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restart)}
    requeued.unlink(missing_ok=True)
    script = render(SlurmConfig(), ["true"], out=study, chdir=tmp_path)
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    return done, requeued.exists()


def test_a_job_whose_runs_are_too_short_for_anything_is_not_requeued_for_ever(programs, tmp_path):
    record, prepared = tmp_path / "study/step1/worker-a.jsonl", tmp_path / "study/cache/a/prepared.json"
    prepared.parent.mkdir(parents=True)
    # two runs in vain, one that prepares the samples, two in vain, one that finishes a trial, two in vain
    for restart, leaves in enumerate((None, None, prepared, None, None, record, None, None)):
        done, requeued = run_job(tmp_path, programs, restart, leaves)
        assert requeued and done.returncode == 75, (restart, done.stderr)
    done, requeued = run_job(tmp_path, programs, 8)
    assert not requeued and done.returncode == 1
    assert "3 runs of this job in a row finished no trial" in done.stderr and "more time" in done.stderr
    assert run_job(tmp_path, programs, 9)[1], "requeued by hand it begins to count anew"


def test_ctrl_c_stops_following_and_leaves_the_job_alone(programs, tmp_path):
    programs("sbatch", "echo 7")
    programs("scancel", f"touch {tmp_path}/cancelled")
    programs("squeue", "echo '7|RUNNING|None|0|0|node1|'; kill -INT $PPID")
    code = (
        "import pathlib, sys; from hpo.slurm import SlurmConfig; from hpo.slurm_job import launch; "
        "sys.exit(launch(SlurmConfig(), ['true'], out=pathlib.Path('my study')))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        # as a terminal starts it: a shell's background job, which CI may be, passes an ignored SIGINT on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 130
    assert "job 7 runs on. See it: python -m hpo.status 'my study'; stop it: scancel 7" in done.stderr
    assert not (tmp_path / "cancelled").exists()

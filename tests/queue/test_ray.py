"""Workers in Ray: what is started and said, and, on a real cluster of two nodes, kills, detaching and missing modules."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray_nodes
from omegaconf import OmegaConf
from searches import ALPHA, SEEDS, run_search, trials_in
from sweeps_to_do import listed_sweep, logs, wait_for, weights_in

from kdexp.commands import ray_cancel, ray_plan
from kdexp.commands.ray_plan import plan_ray
from kdexp.configuration.shipped import conf_dir
from kdexp.errors import InvalidArguments
from kdexp.queue import ray, ray_cluster
from kdexp.queue.ray import RayCrew
from kdexp.queue.ray_actors import RayPlan, actors_of, output_of, prefix_of
from kdexp.queue.roster import Registration, live_workers

NODE = OmegaConf.to_container(OmegaConf.load(f"{conf_dir()}/hydra/launcher/ray.yaml"))
ONE_CORE = {"CPU": 1.0}


class FakeRay:
    """What `kdexp` uses of Ray: `actors` by name are those that wait or run, `nodes_` what the nodes have."""

    def __init__(self):
        self.actors, self.created, self.killed, self.begun, self.folders = {}, [], [], [], set()
        self.nodes_, self.error = [ONE_CORE], None
        self.util = SimpleNamespace(list_named_actors=lambda: list(self.actors))

    def is_initialized(self):
        return bool(self.begun)

    def init(self, **settings):
        self.begun.append(settings)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.error:
            raise self.error

    def shutdown(self):
        self.begun.clear()

    def nodes(self):
        return [{"Alive": True, "Resources": resources, "NodeID": "1"} for resources in self.nodes_]

    def remote(self, _):
        def options(name, **settings):
            def start(*arguments):
                self.created.append(settings)
                self.folders.add(arguments[1])
                self.actors[name] = SimpleNamespace(__ray_ready__=SimpleNamespace(remote=lambda: "ready"))
                return self.actors[name]

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def get_actor(self, name):
        return self.actors[name]

    def kill(self, actor, no_restart):
        (name,) = (name for name, known in self.actors.items() if known is actor)
        self.killed.append(name)
        assert no_restart and self.actors.pop(name)

    def get(self, _, timeout):
        raise RuntimeError("The actor died because of an error in its creation task\n\nModuleNotFoundError: no kdexp\n")


@pytest.fixture
def fake(monkeypatch):
    made = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.setattr(ray_cluster, "missing_for_ray", lambda: "")
    monkeypatch.setattr(ray_cluster, "_silence", lambda: None)
    monkeypatch.setattr(ray_cluster.socket, "create_connection", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(ray, "POLL", 0)
    for name in ("RAY_AUTH_MODE", *ray_cluster.TOKENS):
        monkeypatch.setenv(name, "")  # so that it is what it was afterwards
        monkeypatch.delenv(name)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"):
        monkeypatch.setenv(name, "0")
    return made


def plan(**settings):
    usual = {"workers": 2, "address": "h:1", "cpus": 1, "gpus": 0, "retries": 3, "env": {}, "here": {}}
    return RayPlan(**{**usual, **settings})


def crew_of(folder, **settings):
    (folder / "workers").mkdir(exist_ok=True)
    return RayCrew(folder, plan(**settings), print)


def name_of(folder, number):
    return f"{prefix_of(folder.resolve())}{number}"


def test_missing_workers_are_started_once(fake, tmp_path):
    crew = crew_of(tmp_path, env={"A": "1"}, gpus=0.5, cpus=2)
    fake.nodes_ = [{"CPU": 2, "GPU": 1}]
    assert crew.tick(3, []) == ["started 2 workers"] and crew.tick(3, []) == [] and not crew.over
    limits = {"num_cpus": 2, "num_gpus": 0.5, "max_restarts": 3, "runtime_env": {"env_vars": {"A": "1"}}}
    assert fake.created == 2 * [{"lifetime": "detached", **limits}]
    with Registration(tmp_path, name_of(tmp_path, 2)) as worker:
        worker.note(job=0)
        assert crew_of(tmp_path, workers=3, gpus=0.5, cpus=2).tick(5, []) == [
            "found 2 workers of this sweep in Ray",
            "started 1 worker",
        ]
    assert set(fake.actors) == {name_of(tmp_path, number) for number in (1, 2, 3)}


def test_no_more_workers_are_started_than_jobs_are_left(fake, tmp_path):
    assert crew_of(tmp_path).tick(1, []) == ["started 1 worker"]


def test_workers_that_no_node_has_room_for_are_named(fake, tmp_path):
    (said,) = crew_of(tmp_path, gpus=1).tick(3, [])
    assert said == "started 2 workers, but no node of this cluster has 1 GPU and 1 CPU: they wait until one joins"


def test_workers_that_nobody_starts_are_told_once(fake, tmp_path, monkeypatch):
    crew = crew_of(tmp_path)
    crew.tick(3, [])
    monkeypatch.setattr(ray, "SLOW", 0)
    assert crew.tick(3, []) == ["no worker has started yet; each needs 1 CPU, and ray status shows what is free"]
    assert crew.tick(3, []) == []


def test_a_death_in_a_job_is_told_once_and_an_end_without_jobs_is_not(fake, tmp_path):
    crew = crew_of(tmp_path)
    crew.tick(3, [])
    for number, state in ((1, {"job": 1}), (2, {"jobs": 2})):
        with Registration(tmp_path, name_of(tmp_path, number)) as worker:
            worker.note(**state)
            assert crew.tick(3, []) == [], "it lives"
        said = crew.tick(3, [])
        assert [sentence.partition(" (")[0] for sentence in said] == (["worker 1"] if number == 1 else [])
        assert all(sentence.endswith(" died; others go on with its job") for sentence in said)
    fake.actors.clear()
    assert crew.tick(3, []) == [] and crew.over


def test_a_death_is_told_to_a_command_that_came_later_if_it_saw_the_worker(fake, tmp_path):
    with Registration(tmp_path, name_of(tmp_path, 1)) as worker:
        worker.note(job=1)
    with Registration(tmp_path, name_of(tmp_path, 1)) as worker:
        worker.note(job=1)
        crew = crew_of(tmp_path)
        crew.tick(3, [])
        fake.actors[name_of(tmp_path, 1)] = object()
        assert crew.tick(3, []) == [], "the first one died before"
    with Registration(tmp_path, name_of(tmp_path, 1)):
        (said,) = crew.tick(3, [])
    assert said.endswith(" died; others go on with its job")


def test_a_worker_that_ray_gives_up_is_said_so(fake, tmp_path):
    crew = crew_of(tmp_path)
    crew.tick(3, [])
    with Registration(tmp_path, name_of(tmp_path, 1)) as worker:
        worker.note(job=1)
    fake.actors.pop(name_of(tmp_path, 1))
    (said,) = crew.tick(3, [])
    assert said.endswith(" died; others go on with its job, and Ray starts it no more")


def test_a_worker_that_never_worked_is_named_with_the_reason(fake, tmp_path):
    crew = crew_of(tmp_path)
    crew.tick(3, [])
    fake.actors.clear()
    output_of(tmp_path, name_of(tmp_path, 2)).write_text("this machine has no /data\n")
    said = crew.tick(3, [])
    assert said[0] == "worker 1 ended before it took a job; ModuleNotFoundError: no kdexp"
    assert said[1].startswith("worker 2 ended before it took a job; ") and said[1].endswith("no /data") and crew.over


def test_only_workers_of_this_sweep_that_still_wait_are_ended(fake, tmp_path):
    crew = crew_of(tmp_path)
    crew.tick(3, [])
    fake.actors["another"] = object()
    with Registration(tmp_path, name_of(tmp_path, 1)):
        crew.leave()
    assert fake.killed == [name_of(tmp_path, 2)] and set(fake.actors) == {"another", name_of(tmp_path, 1)}


def test_workers_of_a_cluster_go_on_and_those_of_this_machine_are_ended(fake, tmp_path):
    code = "import sys, time\nfrom pathlib import Path\nfrom kdexp.queue.roster import Registration\n"
    code += "with Registration(Path(sys.argv[1]), sys.argv[2]):\n    print('ready', flush=True)\n    time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path), name_of(tmp_path, 1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "ready\n"
        crew = crew_of(tmp_path)
        crew.tick(3, [])
        crew.stop()
        assert f"python -m kdexp.commands.ray_cancel h:1 {tmp_path} ends them" in crew.detaches and worker.poll() is None
        here = crew_of(tmp_path, address=None)
        here.tick(3, [])
        here.stop()
        assert here.detaches == "" and worker.wait(10) == -signal.SIGTERM


def test_ray_on_this_machine_is_quiet_and_keeps_our_signals_and_no_token(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    ray_cluster.connect(None, num_cpus=2)
    ray_cluster.connect(None, num_cpus=2)
    assert signal.getsignal(signal.SIGTERM) is before
    (begun,) = fake.begun
    assert begun["address"] == "local" and begun["num_cpus"] == 2
    assert begun["include_dashboard"] is False and begun["log_to_driver"] is False
    assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("has", [False, True])
def test_a_cluster_is_shown_the_token_that_the_user_has(fake, tmp_path, monkeypatch, has):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if has:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("x")
    ray_cluster.connect("h:1")
    assert os.environ.get("RAY_AUTH_MODE") == ("token" if has else None) and "RAY_AUTH_TOKEN" not in os.environ
    assert "num_cpus" not in fake.begun[0] and fake.begun[0]["address"] == "h:1"


class AuthenticationError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Failed to connect to h:1.\nMore"), "=h:1: Failed to connect to h:1; use auto on a machine of"),
        (AuthenticationError("RPC error"), "=h:1: this cluster wants its token; the machine of its head has it in"),
    ],
)
def test_an_address_without_a_cluster_is_refused(fake, error, words):
    fake.error = error
    with pytest.raises(InvalidArguments, match=re.escape(f"hydra.launcher.address{words}")):
        plan_ray(OmegaConf.create({**NODE, "address": "h:1"}), [{"device": "cpu", "devices": 1}], 1)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nothing_listens_is_refused_at_once(fake, monkeypatch, address):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray", fake)
    for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(InvalidArguments, match="hydra.launcher.address=.*Connection refused; use auto on"):
        ray_cluster.connect(address.format(ray_nodes.free_port()))
    assert fake.begun == []


@pytest.mark.parametrize(
    ("gpus", "device", "devices", "given", "each"),
    [
        (2, "auto", 1, None, 1),
        (2, "auto", 2, None, 2),
        (2, "auto", "auto", None, 1),
        (2, "cpu", 2, None, 0),
        (0, "auto", 1, None, 0),
        (2, "cpu", 1, 0.5, 0.5),
    ],
)
def test_workers_take_gpus_where_there_are_some_and_jobs_may_use_them(fake, gpus, device, devices, given, each):
    fake.nodes_ = [ONE_CORE, {"CPU": 4.0, "GPU": gpus}]
    node = OmegaConf.create({**NODE, "address": "auto", "gpus_per_worker": given, "env": {"OMP_NUM_THREADS": 2}})
    made = plan_ray(node, [{"device": device, "devices": devices}], 3)
    assert (made.gpus, made.workers, made.env) == (each, 3, {"OMP_NUM_THREADS": "2"})


def test_workers_share_the_memory_of_their_node_and_gpu():
    assert plan(workers=9, gpus=0.5, cpus=2).on({"CPU": 16, "GPU": 1}) == 2
    assert plan(workers=9, cpus=2).on({"CPU": 5}) == 2 and plan(workers=1).on({"CPU": 5}) == 1
    assert plan(gpus=0.5).per_gpu == 2 and plan(gpus=2).per_gpu == plan().per_gpu == 1
    assert plan(gpus=0.1).per_gpu == 10 and str(plan(gpus=2)) == "2 workers in Ray at h:1, 2 GPUs and 1 CPU each"


def test_bad_settings_are_refused_before_ray_is_asked(refused, fake):
    words = ("workers=0", "retries=-1", "gpus_per_worker=-1", "address=local")
    printed = " ".join(refused("-m", "hydra/launcher=ray", "seed=0,1", *(f"hydra.launcher.{word}" for word in words)).split())
    for message in (
        "workers=0: must be at least 1",
        "retries=-1: must be at least 0",
        "gpus_per_worker=-1: must be at least 0",
    ):
        assert f"hydra.launcher.{message}" in printed
    assert "hydra.launcher.address='local': must be auto, HOST:PORT or ray://HOST:PORT (or null)" in printed
    assert fake.begun == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus_per_worker": 1.5, "address": "auto"}, "gpus_per_worker=1.5: must be a fraction of one GPU, or a whole number"),
        ({"gpus_per_worker": 1}, "gpus_per_worker=1: this machine has 0 GPUs; hydra.launcher.address=auto or HOST:PORT names"),
        ({"cpus_per_worker": 9}, "cpus_per_worker=9: this machine has 2 CPUs; hydra.launcher.address=auto or HOST:PORT names"),
        ({"wait": False}, "wait=false: without an address, Ray and its workers end with this command"),
        ({"env": {"A": [1]}}, "env.A=[1]: must be a text"),
    ],
)
def test_what_ray_or_this_machine_can_not_do_is_refused(fake, monkeypatch, settings, message):
    monkeypatch.setattr(ray_plan, "cores", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InvalidArguments, match=re.escape(f"hydra.launcher.{message}")):
        plan_ray(OmegaConf.create({**NODE, **settings}), [{"device": "cpu", "devices": 1}], 3)
    assert fake.begun == []


def test_a_python_without_ray_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(InvalidArguments, match=re.escape('hydra/launcher=ray: needs Ray: pip install "kdexp[ray]"')):
        plan_ray(OmegaConf.create(NODE), [{"device": "cpu", "devices": 1}], 3)


def test_links_to_the_folder_are_those_of_the_nodes(fake, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "everywhere").symlink_to("here")
    crew_of(tmp_path / "everywhere").tick(3, [])
    assert fake.folders == {str(tmp_path / "everywhere")}
    assert actors_of(tmp_path.resolve() / "here"), "its name is the same by any path"


def test_workers_of_a_sweep_are_cancelled(fake, call_main, tmp_path):
    crew_of(tmp_path).tick(3, [])
    code, printed = call_main(ray_cancel.main, "ray_cancel", "h:1", tmp_path)
    assert code == 0 and "ended 2 workers" in printed and actors_of(tmp_path.resolve()) == set()


# On a real cluster of two nodes, and with Ray on this machine.

WORDS = ("device=cpu", "epochs=2", "limit_batches=3")
RAY = ("-m", "hydra/launcher=ray", "hydra.launcher.workers=2", *WORDS)


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="Ray is not installed")
    with ray_nodes.cluster() as made:
        yield made


class User:
    """Runs programs in a folder, by default as a user of the cluster."""

    def __init__(self, folder, address="", **environment):
        self.folder, self.started = folder, []
        self.words = (*RAY, f"hydra.launcher.address={address}") if address else RAY
        self.env = os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}

    def start(self, *words):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        command = [sys.executable, "-m", "kdexp", *words]
        self.started.append(subprocess.Popen(command, cwd=self.folder, env=self.env, preexec_fn=heeds, **pipes))
        return self.started[-1]

    def run(self, *words):
        process = self.start(*words)
        return process.communicate(timeout=300)[0], process.returncode

    def told(self, words):
        """What the program started last prints until a line with these words has come."""
        read = ""
        while words not in read:
            line = self.started[-1].stdout.readline()
            assert line, read
            read += line
        return read

    @property
    def sweep(self):
        (found,) = self.folder.glob("outputs/sweeps/*/jobs.json")
        return found.parent

    def trainer(self):
        """The number of a worker's process in the middle of a training, once there is one."""
        wait_for(lambda: list(self.folder.glob("outputs/sweeps/*/jobs.json")) and self._trainers(), 240)
        return int(re.search(r"\d+", self._trainers()[0].process)[0])

    def _trainers(self):
        return [state for state in live_workers(self.sweep) if state.epoch]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def user(tmp_path, cluster):
    address, environment = cluster
    with User(tmp_path, address, **environment) as made:
        yield made


@pytest.mark.ray
def test_a_sweep_in_ray_outlives_its_command_and_a_killed_worker(user, tmp_path):
    words = ("teacher_epochs=1500", "seed=0,1,2")
    printed, code = user.run(*user.words, *words, "hydra.launcher.wait=false")
    assert code == 0 and "started 2 workers" in printed and "kdexp.commands.ray_cancel" in printed, printed
    client = user.start(*user.words, *words)
    assert "started" not in user.told("found 2 workers")
    killed = user.trainer()
    wait_for(lambda: list((tmp_path / "outputs" / "store" / "learner").glob("*.progress")), 240)
    os.kill(killed, signal.SIGKILL)
    assert f"(process {killed} on " in user.told("died; others go on with its job").splitlines()[-1]
    client.send_signal(signal.SIGINT)
    told = client.communicate(timeout=60)[0]
    assert "the workers go on in Ray; the same command comes back" in told and client.returncode == 130, told
    printed, code = user.run(*user.words, *words)
    assert code == 0 and "95 % interval" in printed and "(raylet)" not in printed, printed
    assert "teacher: resuming after epoch " in logs(user.sweep)
    listed = listed_sweep(tmp_path / "alone", *words, short=WORDS)
    alone = [sys.executable, "-m", "kdexp.commands.work", str(listed.folder)]
    assert subprocess.run(alone, env=user.env | {"OMP_NUM_THREADS": "1"}).returncode == 0
    assert weights_in(tmp_path / "outputs" / "store") == weights_in(tmp_path / "alone" / "store")
    assert (user.sweep / "sweep.csv").read_text() == (listed.folder / "sweep.csv").read_text()


@pytest.mark.ray
@pytest.mark.exhaustive
def test_a_module_that_nodes_lack_is_named_at_once(user, tmp_path):
    own = tmp_path / "conf" / "distillation"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults: [kd]\n_target_: mine_only_here.Mine\n")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mine_only_here.py").write_text(
        "from kdexp.distillation.kd import KD\n\n\nclass Mine(KD):\n    pass\n"
    )
    user.env["PYTHONPATH"] += f"{os.pathsep}{tmp_path / 'modules'}"
    words = ("--config-dir", str(tmp_path / "conf"), *user.words, "distillation=mine", "seed=0,1")
    printed, code = user.run(*words)
    assert code == 3 and "can't work on this sweep: job 1/2  seed=0: distillation._target_" in printed, printed
    assert "no worker is left, but 2 jobs" in printed and not (user.sweep / "000").exists()
    printed, code = user.run(*words, f"+hydra.launcher.env.PYTHONPATH={user.env['PYTHONPATH']}")
    assert code == 0 and "95 % interval" in printed, printed


@pytest.mark.ray
@pytest.mark.exhaustive
def test_a_search_in_ray_is_that_of_one_process(user, tmp_path):
    words = ("search=random", "search.trials=2", "search.parallel=2", ALPHA)
    printed, code = user.run(*user.words[1:], *SEEDS, *words)
    assert code == 0 and "Search (random): kd 2 trials" in printed, printed
    whole, _ = run_search(tmp_path / "alone", *words, short=WORDS)
    assert trials_in(user.sweep) == trials_in(whole)


@pytest.fixture
def alone(tmp_path):
    """A user without a cluster."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with User(tmp_path) as made:
        yield made


@pytest.mark.ray
@pytest.mark.exhaustive
def test_ray_on_this_machine_ends_with_its_command_which_goes_on(alone):
    lr = ("optimizer=sgd", "optimizer@teacher_optimizer=adam", "optimizer.lr=0.05,1e30", "teacher_epochs=600")
    client = alone.start(*RAY, *lr)
    alone.trainer()
    client.send_signal(signal.SIGINT)
    assert client.communicate(timeout=120)[0].endswith("run the same command to resume\n") and client.returncode == 130
    assert live_workers(alone.sweep) == []
    assert json.loads((alone.sweep / "000" / "status.json").read_text())["state"] == "interrupted"
    printed, code = alone.run(*RAY, *lr)
    assert code == 3 and "optimizer.lr=1e+30: failed: " in printed and "1 of 2 jobs" in printed, printed
    assert "teacher: resuming after epoch " in logs(alone.sweep)

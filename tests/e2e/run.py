#!/usr/bin/env python3
"""make e2e: scenarios against a real kubelet and the real driver.

    run.py [--short] [SCENARIO...]

Without KUBECONFIG it starts nodes of its own (node.py), several side by side: a scenario that waits for minutes shares a node with its
kind alone. With KUBECONFIG it takes the cluster that is there, and skips what needs the node.

Environment: KUBECONFIG (its nodes have the image already); KUBERNETES and DRIVER choose other versions; KEYFERRY_BINARY is not built, but taken.
AWS_PROVIDER is the program of AWS's own provider, which scenarios/migrate_aws.py needs.
Exit code: 0 all passed, 1 one failed, 2 cannot run here.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "scenarios")]

import node as nodes
import setup
import tools
from cluster import Cluster, Failed


def main():
    arguments = parse()
    if arguments.inside:
        return inside(arguments)
    if arguments.packages:
        print(" ".join(tools.missing_packages()))
        return 0
    scenarios = chosen(arguments)
    of_our_own = not os.environ.get("KUBECONFIG")
    problem = tools.missing_for_a_node() if of_our_own else None
    if problem:
        print(problem)
        return 2
    if arguments.ready:
        return 0
    return on_nodes(arguments, scenarios) if of_our_own else on_a_cluster(scenarios)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="only these; a file's name in scenarios/, without .py")
    parser.add_argument("--short", action="store_true", help="the short list alone")
    parser.add_argument("--shell", action="store_true", help="opens a shell on a node with Keyferry installed")
    parser.add_argument("--list", action="store_true", help="prints the scenarios")
    parser.add_argument("--ready", action="store_true", help="says whether a run is possible here, and ends")
    parser.add_argument("--packages", action="store_true", help="prints the Debian packages that a node needs and this machine lacks")
    parser.add_argument("--inside", metavar="LANE", help=argparse.SUPPRESS)
    parser.add_argument("--cgroup", help=argparse.SUPPRESS)
    return parser.parse_args()


# === Scenarios ===


class Scenario:
    """A file of scenarios/. Its module says: a docstring; `SHORT` (of the short list), `LANE` (the node it shares; default `main`),
    `NEEDS_NODE` (cannot run on a cluster that exists), `NEEDS_FORMER` (starts from version 0.1.0), `NEEDS_AWS_PROVIDER` (skipped without that program), `ORDER` (of a lane; default 50); and
    `run(cluster)`."""

    def __init__(self, path):
        self.name = path.stem
        module = importlib.import_module(self.name)
        self.title = module.__doc__.strip().splitlines()[0]
        self.short = getattr(module, "SHORT", False)
        self.lane = getattr(module, "LANE", "main")
        self.needs_node = getattr(module, "NEEDS_NODE", True)
        self.needs_former = getattr(module, "NEEDS_FORMER", False)
        self.needs_aws_provider = getattr(module, "NEEDS_AWS_PROVIDER", False)
        self.order = getattr(module, "ORDER", 50)
        self.run = module.run


def all_scenarios():
    found = [Scenario(path) for path in sorted((HERE / "scenarios").glob("*.py"))]
    return sorted(found, key=lambda scenario: (scenario.order, scenario.name))


def chosen(arguments):
    scenarios = all_scenarios()
    if arguments.list:
        for scenario in scenarios:
            print(f"{'*' if scenario.short else ' '} {scenario.name:24} {scenario.lane:12} {scenario.title}")
        raise SystemExit(0)
    unknown = set(arguments.scenarios) - {scenario.name for scenario in scenarios}
    if unknown:
        raise SystemExit(f"make e2e: no such scenario: {', '.join(sorted(unknown))} (tests/e2e/run.py --list prints them)")
    if arguments.scenarios:
        return [scenario for scenario in scenarios if scenario.name in arguments.scenarios]
    if arguments.short:
        return [scenario for scenario in scenarios if scenario.short]
    return [scenario for scenario in scenarios if not left_out(scenario)]


def left_out(scenario):
    """Whether a whole run goes without this scenario. Then it says so."""
    without = scenario.needs_aws_provider and not os.environ.get("AWS_PROVIDER")
    if without:
        print(f"skip   {scenario.name:24} (needs AWS_PROVIDER)")
    return without


def play(cluster, scenarios):
    """Runs scenarios one after another, prints a line each, and returns the names of those that failed."""
    failed = []
    for scenario in scenarios:
        started = time.monotonic()
        cluster.remarks.clear()
        try:
            scenario.run(cluster)
            verdict, detail = "ok", ""
        except Exception as error:
            failed.append(scenario.name)
            verdict = "FAILED"
            detail = f"{error}\n" if isinstance(error, (Failed, nodes.NodeFailed)) else traceback.format_exc()
            if isinstance(error, subprocess.CalledProcessError):
                detail += f"{error.stdout or ''}{error.stderr or ''}"
        remarks = f"  ({'; '.join(cluster.remarks)})" if cluster.remarks else ""
        print(f"{verdict:6} {scenario.name:24} {time.monotonic() - started:6.1f} s{remarks}\n{detail}", end="", flush=True)
    return failed


# === Nodes of our own ===


def on_nodes(arguments, scenarios):
    started = time.monotonic()
    version, driver_version = os.environ.get("KUBERNETES", tools.KUBERNETES), os.environ.get("DRIVER", tools.DRIVER)
    folder = Path(tempfile.mkdtemp(prefix="keyferry-e2e-"))
    keyferry = tools.daemon()
    former = tools.former() if any(scenario.needs_former for scenario in scenarios) else None
    aws_provider = tools.aws_provider() if any(scenario.needs_aws_provider for scenario in scenarios) else None
    plan = {
        "keyferry": str(keyferry),
        "binaries": str(tools.kubernetes(version)),
        "driver": str(tools.driver(driver_version)),
        "driver_source": str(tools.driver_source(driver_version)),
        "driver_version": driver_version,
        "images": [str(image) for image in tools.images(keyferry, folder / "images", former, aws_provider)],
        "former": str(former) if former else None,
    }
    print(f"Kubernetes {version}, driver {driver_version}; built after {time.monotonic() - started:.0f} s", flush=True)
    lanes = {}
    for scenario in scenarios:
        lanes.setdefault(scenario.lane, []).append(scenario.name)
    if arguments.shell:
        lanes = {"shell": []}
    codes = {}
    running = []
    # All that is inside ends with this process: SIGKILL ends the namespaces, whatever ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for lane, names in lanes.items():
            inner = folder / lane
            inner.mkdir()
            (inner / "plan.json").write_text(json.dumps(plan))
            command = [sys.executable, HERE / "run.py", "--inside", lane, *names]
            thread = threading.Thread(target=lambda lane=lane, inner=inner, command=command: codes.__setitem__(lane, nodes.enter(command, inner)))
            thread.start()
            running.append(thread)
        for thread in running:
            thread.join()
    except (KeyboardInterrupt, SystemExit):
        nodes.leave_all()
        for thread in running:
            thread.join()
        shutil.rmtree(folder)
        raise
    if arguments.shell:
        shutil.rmtree(folder)
        return 0
    passed = all(codes.get(lane) == 0 for lane in lanes)
    seconds = time.monotonic() - started
    if passed:
        shutil.rmtree(folder)
        print(f"make e2e: {len(scenarios)} scenarios passed in {seconds:.0f} s")
        return 0
    for lane in lanes:
        for leftover in ["vault", "age.key", "pki", "admin.kubeconfig", "driver.kubeconfig", "plan.json", "deploy"]:
            remove(folder / lane / leftover)
    remove(folder / "images")
    print(f"make e2e: FAILED after {seconds:.0f} s; logs of kubelet, driver and daemon, and all events: {folder}")
    return 1


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def inside(arguments):
    """A lane: the first process of the namespaces starts a node, installs Keyferry as the page says, and plays the lane's scenarios."""
    folder = Path(os.environ["KEYFERRY_E2E_FOLDER"])
    plan = json.loads((folder / "plan.json").read_text())
    nodes.lay_out(arguments.cgroup)
    node = nodes.Node(folder, plan["binaries"], plan["driver"], plan["driver_source"], plan["driver_version"], plan["images"],
                      arguments.cgroup)
    cluster = Cluster(folder, Path(plan["binaries"]) / "kubectl", node.kubeconfig, plan["keyferry"], node, plan["former"])
    try:
        started = time.monotonic()
        node.start()
        up = time.monotonic() - started
        setup.install(cluster)
        print(f"ok     a node and Keyferry       {time.monotonic() - started:6.1f} s  (node ready after {up:.1f} s; then docs/install.md, sections 1 to 7)", flush=True)
    except Exception as error:
        print(f"FAILED a node and Keyferry: {error}", flush=True)
        if not isinstance(error, (Failed, nodes.NodeFailed)):
            traceback.print_exc()
        collect(cluster)
        return 1
    if arguments.inside == "shell":
        environment = {**os.environ, "KUBECONFIG": str(node.kubeconfig), "PATH": f"{plan['binaries']}:{Path(plan['keyferry']).parent}:{os.environ['PATH']}"}
        print(f"a node with Keyferry; logs in {node.logs}; exit ends it", flush=True)
        return subprocess.run([os.environ.get("SHELL", "bash")], env=environment, cwd=folder).returncode
    failed = play(cluster, [scenario for scenario in all_scenarios() if scenario.name in arguments.scenarios])
    if failed:
        collect(cluster)
    return 1 if failed else 0


def collect(cluster):
    """What a person looks at after a failure, in addition to the processes' logs."""
    logs = cluster.folder / "logs"
    logs.mkdir(exist_ok=True)
    for name, command in {
        "events.txt": ["get", "events", "-A", "--sort-by=.lastTimestamp"],
        "pods.txt": ["describe", "pods", "-A"],
        "daemon.log": ["-n", "keyferry", "logs", "daemonset/keyferry", "--tail=-1"],
        "aws-provider.log": ["-n", "kube-system", "logs", "--selector=app=csi-secrets-store-provider-aws", "--tail=-1"],
        "daemon-before.log": ["-n", "keyferry", "logs", "daemonset/keyferry", "--tail=-1", "--previous"],
    }.items():
        try:
            (logs / name).write_text(cluster.kubectl(*command, check=False))
        except (OSError, subprocess.SubprocessError) as error:
            (logs / name).write_text(str(error))


# === A cluster that exists ===


def on_a_cluster(scenarios):
    folder = Path(tempfile.mkdtemp(prefix="keyferry-e2e-"))
    try:
        kubectl = shutil.which("kubectl")
        if not kubectl:
            print("make e2e: KUBECONFIG is set, and there is no kubectl (install it)")
            return 2
        cluster = Cluster(folder, kubectl, os.environ["KUBECONFIG"], tools.daemon())
        setup.install_on_a_cluster(cluster)
        for scenario in scenarios:
            if scenario.needs_node:
                print(f"skip   {scenario.name:24} (needs the node)")
        failed = play(cluster, [scenario for scenario in scenarios if not scenario.needs_node])
        if failed:
            collect(cluster)
            print(f"make e2e: FAILED: {', '.join(failed)}; the daemon's log and all events: {folder / 'logs'}")
            return 1
        print("make e2e: passed")
        return 0
    finally:
        if not (folder / "logs").exists():
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())

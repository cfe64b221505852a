#!/usr/bin/env python3
"""Buildbot, as a measure: one master, four workers, loopback, JOBS trivial builds.

Sets it all up in FOLDER (a virtual environment with a pinned version from the package index is made once and kept),
runs the builds, ends everything that it started, and prints one JSON document:
{"version": "…", "jobs": 200, "seconds": 12.3}. What went wrong goes to standard error, with exit code 1.

usage: buildbot.py FOLDER JOBS
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

VERSION = "4.3.0"
WORKERS = 4
PATIENCE_S = 600

# The master counts workers, begins when all are there, and writes how long it took: no process looks at it from outside.
CONFIG = '''
import json, os, time
from buildbot.plugins import schedulers, steps, util, worker
from buildbot.util.service import BuildbotService
from twisted.internet import defer, reactor

JOBS, WORKERS, RESULT = {jobs}, {workers}, {result!r}


class Burst(BuildbotService):
    name = "burst"
    done = 0

    @defer.inlineCallbacks
    def startService(self):
        yield super().startService()
        yield self.master.mq.startConsuming(self.finished, ("builds", None, "finished"))
        reactor.callLater(0.2, self.look)

    def look(self):
        attached = [one for one in self.master.workers.workers.values() if one.conn is not None]
        if len(attached) < WORKERS:
            reactor.callLater(0.2, self.look)
        else:
            # They have just connected; a moment, so that what is measured is builds.
            reactor.callLater(2, self.begin)

    @defer.inlineCallbacks
    def begin(self):
        self.start = time.monotonic()
        for job in range(JOBS):
            yield self.master.data.updates.addChange(
                author="bench", comments="job", revision=str(job), project="bench", src=None, files=["out"])

    def finished(self, key, build):
        self.done += 1
        if self.done == JOBS:
            seconds = time.monotonic() - self.start
            with open(RESULT + ".part", "w") as file:
                json.dump({{"seconds": seconds, "results": build["results"]}}, file)
            os.rename(RESULT + ".part", RESULT)


factory = util.BuildFactory([steps.ShellCommand(command=["/bin/sh", "-c", util.Interpolate("echo %(src::revision)s > out")])])
names = ["worker-%d" % number for number in range(WORKERS)]
c = BuildmasterConfig = {{
    "workers": [worker.Worker(name, "secret", max_builds=1) for name in names],
    "protocols": {{"pb": {{"port": "tcp:{port}:interface=127.0.0.1"}}}},
    "builders": [util.BuilderConfig(name="trivial", workernames=names, factory=factory)],
    "schedulers": [schedulers.AnyBranchScheduler(name="all", builderNames=["trivial"], treeStableTimer=None)],
    "services": [Burst()],
    "collapseRequests": False,
    "buildbotNetUsageData": None,
    "db": {{"db_url": "sqlite:///state.sqlite"}},
}}
'''


def run(*command, **more):
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if ended.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {ended.returncode}\n{ended.stdout[-3000:]}")
    return ended.stdout


def install(folder):
    """The programs' folder of a virtual environment with Buildbot."""
    environment = folder / f"environment-{VERSION}"
    ready = environment / "ready"
    if not ready.exists():
        shutil.rmtree(environment, ignore_errors=True)
        run(sys.executable, "-m", "venv", environment)
        run(environment / "bin/pip", "install", "--quiet", f"buildbot=={VERSION}", f"buildbot-worker=={VERSION}")
        ready.touch()
    return environment / "bin"


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, jobs = Path(sys.argv[1]).absolute(), int(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    programs = install(folder)
    village = folder / "village"
    shutil.rmtree(village, ignore_errors=True)
    village.mkdir()
    result, port = village / "result.json", free_port()
    master = village / "master"
    run(programs / "buildbot", "create-master", master)
    (master / "master.cfg").write_text(CONFIG.format(jobs=jobs, workers=WORKERS, result=str(result), port=port))
    run(programs / "buildbot", "upgrade-master", master)
    processes = []

    def start(where):
        log = open(village / f"{where.name}.log", "w")
        twistd = [programs / "twistd", "--nodaemon", "--no_save", "--pidfile=", "--python=buildbot.tac"]
        processes.append(subprocess.Popen(twistd, cwd=where, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL))

    try:
        start(master)
        for number in range(WORKERS):
            where = village / f"worker-{number}"
            run(programs / "buildbot-worker", "create-worker", where, f"127.0.0.1:{port}", where.name, "secret")
            start(where)
        until = time.monotonic() + PATIENCE_S
        while not result.exists():
            if processes[0].poll() is not None or time.monotonic() > until:
                log = (master / "twistd.log") if (master / "twistd.log").exists() else (village / "master.log")
                sys.exit(f"the builds did not come to an end\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    found = json.loads(result.read_text())
    if found["results"] != 0:
        sys.exit(f"a build failed: {found}")
    print(json.dumps({"version": VERSION, "jobs": jobs, "seconds": found["seconds"]}))


if __name__ == "__main__":
    main()

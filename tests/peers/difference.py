#!/usr/bin/env python3
"""A file system image and a newer one, and what casync and zsync fetch of the difference.

usage: difference.py image FOLDER
           makes FOLDER/old.img and FOLDER/new.img of real files of this machine, and counts what changed
       difference.py casync|zsync FOLDER NAMESPACE INTERFACE ADDRESS RUNS
           publishes new.img with nginx on ADDRESS, fetches it RUNS times in the network namespace with old.img at hand,
           and reads from INTERFACE, this side of the link to the namespace, what was sent there and came back

Prints one JSON document. What went wrong goes to standard error, with exit code 1. Everything that was started is ended.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

IMAGE_BYTES = 256 << 20
BLOCK = 4096
# The rest is what a file system needs, and free.
CONTENT_BYTES = 180 << 20
# A little less than 5 %: inodes and folders change with the files.
CHANGED_SHARE = 0.042
FILE_BYTES_MAX = 2 << 20
SOURCES = ["/usr/lib", "/usr/share", "/usr/bin", "/usr/include"]
SEED = 4


def run(*command, **more):
    ended = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    text = ended.stdout.decode(errors="replace")
    if ended.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {ended.returncode}\n{text[-3000:]}")
    return text


def real_files():
    """Regular files of this machine, in an order that is the same each time and mixes them."""
    found = []
    for source in SOURCES:
        for folder, folders, names in os.walk(source):
            folders.sort()
            for name in names:
                path = Path(folder) / name
                if path.is_symlink() or not path.is_file() or any(letter in str(path) for letter in '" \\'):
                    continue
                size = path.stat().st_size
                if 0 < size <= FILE_BYTES_MAX:
                    found.append((str(path), size))
    found.sort()
    random.Random(SEED).shuffle(found)
    return found


def image(folder):
    """Files are removed from a copy of the image, and others of about their length written: a newer version of each."""
    dice = random.Random(SEED)
    tree, versions = folder / "tree", folder / "versions"
    for path in (tree, versions):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    taken, total, rest = [], 0, real_files()
    while rest and total < CONTENT_BYTES:
        path, size = rest.pop()
        to = tree / path.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        taken.append((path, size))
        total += -(-size // BLOCK) * BLOCK
    if total < CONTENT_BYTES:
        sys.exit(f"this machine has only {total} bytes of files below {' '.join(SOURCES)}")
    old, new = folder / "old.img", folder / "new.img"
    for path in (old, new):
        path.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-b", BLOCK, "-m", "0", "-U", "6a7b0c1e-0000-4000-8000-000000000004", "-d", tree, old, f"{IMAGE_BYTES >> 10}k")
    shutil.copyfile(old, new)
    commands, replaced, wanted = [], 0, CHANGED_SHARE * IMAGE_BYTES
    # Bytes of real files that are not in the image.
    pool, at = b"", 0
    dice.shuffle(taken)
    for number, (path, size) in enumerate(taken):
        if replaced >= wanted:
            break
        length = max(1, int(size * dice.uniform(0.9, 1.1)))
        while len(pool) - at < length:
            if not rest:
                sys.exit("this machine has too few other files")
            pool, at = pool[at:] + Path(rest.pop()[0]).read_bytes(), 0
        version = versions / str(number)
        version.write_bytes(pool[at:at + length])
        at += length
        commands += [f"rm {path}", f"write {version} {path}"]
        replaced += -(-length // BLOCK) * BLOCK
    script = folder / "commands"
    script.write_text("\n".join(commands) + "\n")
    run("debugfs", "-w", "-f", script, new)
    run("e2fsck", "-fn", new)
    before, after = old.read_bytes(), new.read_bytes()
    blocks = lambda data: [data[start:start + BLOCK] for start in range(0, len(data), BLOCK)]
    first, second = blocks(before), blocks(after)
    differ = [a != b for a, b in zip(first, second)]
    known = set(first)
    runs = sum(here and not there for here, there in zip(differ, [False] + differ))
    for path in (tree, versions):
        shutil.rmtree(path)
    return {
        "length": len(after),
        "files": len(taken),
        "replaced": len(commands) // 2,
        "changed_bytes": BLOCK * sum(differ),
        "new_bytes": BLOCK * sum(block not in known for block in second),
        "runs": runs,
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve(folder, address):
    """nginx with the files of FOLDER/served."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; user root; worker_processes 2;\n"
        f"events {{}}\nhttp {{ access_log off; sendfile on; client_body_temp_path {folder}/tmp; "
        f"server {{ listen {address}:{port}; root {folder}/served; }} }}\n"
    )
    process = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((address, port), 1).close()
            return process, f"http://{address}:{port}"
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"nginx does not start: {(folder / 'nginx.log').read_text()[-1000:]}")
            time.sleep(0.05)


def counted(interface):
    read = lambda name: int(Path(f"/sys/class/net/{interface}/statistics/{name}_bytes").read_text())
    return read("tx"), read("rx")


def peer(name, folder, namespace, interface, address, runs):
    if not shutil.which(name):
        sys.exit(f"{name} is not installed")
    work = folder / name
    shutil.rmtree(work, ignore_errors=True)
    served = work / "served"
    served.mkdir(parents=True)
    new, old = folder / "new.img", folder / "old.img"
    if name == "casync":
        version = f"casync {run('casync', '--version').split()[-1]}"
        run("casync", "make", f"--store={served}/default.castr", served / "new.caibx", new)
    else:
        version = subprocess.run(["zsync", "-V"], stdout=subprocess.PIPE, text=True).stdout.split("(")[0].strip()
        (served / "new.img").symlink_to(new)
    server, url = serve(work, address)
    samples = []
    try:
        if name == "zsync":
            run("zsyncmake", "-u", f"{url}/new.img", "-o", served / "new.img.zsync", new)
        for number in range(runs):
            out = work / f"out-{number}"
            out.mkdir()
            inside = ["ip", "netns", "exec", namespace]
            if name == "casync":
                command = ["casync", "extract", f"--store={url}/default.castr", f"--seed={old}", f"{url}/new.caibx", out / "new.img"]
            else:
                command = ["zsync", "-q", "-i", old, f"{url}/new.img.zsync"]
            before, start = counted(interface), time.monotonic()
            run(*inside, *command, cwd=out)
            seconds, after = time.monotonic() - start, counted(interface)
            run("cmp", out / "new.img", new)
            shutil.rmtree(out)
            samples.append({"bytes": after[0] - before[0], "sent": after[1] - before[1], "seconds": seconds})
    finally:
        server.terminate()
        server.wait(10)
    shutil.rmtree(work)
    return {"version": version, "samples": samples}


def main():
    match sys.argv[1:]:
        case ["image", folder]:
            Path(folder).mkdir(parents=True, exist_ok=True)
            print(json.dumps(image(Path(folder).absolute())))
        case [("casync" | "zsync") as name, folder, namespace, interface, address, runs]:
            print(json.dumps(peer(name, Path(folder).absolute(), namespace, interface, address, int(runs))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()

"""Baseline R: what a person's own short script would do. Boots an image with a seed and prints when SSH works.

python baseline.py IMAGE SEED KEY USER MAC QEMU [OPTION…]: prints one JSON line, {"wall": …, "cpu": …}, and ends QEMU.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def banner(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as peer:
            peer.settimeout(1)
            return peer.recv(4) == b"SSH-"
    except OSError:
        return False


def main(image: str, seed: str, key: str, user: str, mac: str, *qemu: str) -> None:
    started = time.monotonic()
    with socket.socket() as probe, tempfile.TemporaryDirectory(dir=Path(image).parent) as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        disk = f"{folder}/disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disk, "20G"], check=True)
        drives = [f"file={disk},format=qcow2", f"file={seed},format=raw,readonly=on"]
        network = f"user,model=virtio-net-pci,mac={mac},hostfwd=tcp:127.0.0.1:{port}-:22"
        options = ["-nodefaults", "-display", "none", "-serial", f"file:{folder}/serial.log", "-nic", network]
        vm = subprocess.Popen(
            [*qemu, *options, *(word for drive in drives for word in ("-drive", f"if=virtio,{drive}"))]
        )
        trust = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        ssh = ["ssh", "-F", "none", *trust, "-o", "BatchMode=yes", "-i", key, "-p", str(port), f"{user}@127.0.0.1"]
        try:
            while not banner(port) or subprocess.run([*ssh, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
                if vm.poll() is not None or time.monotonic() - started > 900:
                    sys.exit(
                        f"the baseline's machine did not come up\n{Path(folder, 'serial.log').read_text()[-2000:]}"
                    )
                time.sleep(0.05)
            wall = time.monotonic() - started
            fields = Path(f"/proc/{vm.pid}/stat").read_text().rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
                usage = resource.getrusage(who)
                cpu += usage.ru_utime + usage.ru_stime
            print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)
        finally:
            vm.kill()
            vm.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])

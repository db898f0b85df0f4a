"""What `devbox provision` does to a machine that it has found: read the Devboxfile, connect, carry the steps out.

python -m tests.bench.provision_once PROJECT PORT USER KEY KNOWN_HOSTS PREFIX. `PREFIX` is the folder that stands in for
the root of the guest, for devbox's own files there.
"""

import sys
from pathlib import Path

from devbox.config import build
from devbox.guest import openssh
from devbox.guest.openssh import Endpoint
from devbox.provision.context import Context
from devbox.provision.journal import Places


def main(project: str, port: str, user: str, key: str, known_hosts: str, prefix: str) -> None:
    made = build.load(Path(project))
    endpoint = Endpoint(int(port), user, Path(key), Path(known_hosts))
    door = openssh.knock(endpoint)
    from devbox.guest import connection
    from devbox.provision.apply import Options, provision

    context = Context(made.root, made.name, made.machine, run_user=user, places=Places(prefix))
    with connection.connect(endpoint, 60, via=door) as guest:
        provision(guest, made.machine.steps, context, Options())


if __name__ == "__main__":
    main(*sys.argv[1:])

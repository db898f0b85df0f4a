"""docs/provisioning.md as a Devboxfile: the steps of its examples, and the project that they speak of."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs/provisioning.md"

FILES = {
    "files/app.conf": "level = debug\n",
    "site/index.html": "<h1>Hello</h1>\n",
    "site/assets/style.css": "h1 { color: navy }\n",
    "site/debug.log": "left out\n",
    "install.sh": "#!/bin/sh\ntouch /home/dev/.deps\n",
    "scripts/setup.sh": '#!/bin/sh\necho "set up $1" >/srv/setup\n',
    "fetch.sh": "#!/bin/sh\nexit 0\n",
    "ansible/site.yml": """\
- hosts: web
  become: true
  tasks:
    - ansible.builtin.copy:
        content: "{{ greeting }} from Ansible\\n"
        dest: /srv/ansible
        mode: "0644"
""",
}


def kinds_section() -> str:
    return PAGE.read_text().partition("\n## Kinds\n")[2].partition("\n## ")[0]


def steps() -> str:
    """The steps of all examples of kinds, in the order of the page."""
    return "".join(re.findall(r"```yaml\nprovision:\n(.*?)```", kinds_section(), re.DOTALL))


def project(root: Path) -> None:
    """Writes the files that the examples name, and the task that the page itself shows."""
    tasks = re.findall(r"```python\n# tasks.py\n(.*?)```", kinds_section(), re.DOTALL)
    for name, text in {**FILES, "tasks.py": tasks[0]}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(0o755 if text.startswith("#!") else 0o644)

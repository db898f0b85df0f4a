"""/etc/fstab in a step's script: how it writes a path, and the text that puts one line in the place of others."""

# Comes after a shell function `replaced`, true for the lines that `$fstab` takes the place of.
REPLACE = """
[ -e /etc/fstab ] || : >/etc/fstab
{
  while IFS= read -r line; do
    replaced "$line" || printf '%s\\n' "$line"
  done </etc/fstab
  printf '%s\\n' "$fstab"
} >/etc/fstab.devbox
chmod 0644 /etc/fstab.devbox
mv -f /etc/fstab.devbox /etc/fstab
! have systemctl || systemctl daemon-reload || :
"""


def escaped(path: str) -> str:
    """The path as /proc/mounts and fstab write it."""
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\\#" else letter for letter in path)

"""`settings` (internal): the machine's own keys in the Devboxfile (hostname, timezone, locale, env, hosts, dns,
ca_certs, proxy) as one step before the user's. A key that is taken out of the file is taken out of the guest.
"""

import hashlib
from dataclasses import dataclass
from shlex import quote
from typing import Any

from devbox.provision.facts import Facts
from devbox.provision.step import Action, Kind, Reads, Source, State

ENV_FILE = "/etc/profile.d/devbox.sh"
APT_PROXY = "/etc/apt/apt.conf.d/95devbox-proxy"


@dataclass(frozen=True, slots=True)
class Settings:
    hostname: str = ""
    timezone: str = ""
    locale: str = ""
    env: tuple[tuple[str, str], ...] = ()  # proxy variables among them
    hosts: tuple[tuple[str, str], ...] = ()  # name, address
    dns: tuple[str, ...] = ()
    ca_certs: tuple[bytes, ...] = ()
    proxies: tuple[tuple[str, str], ...] = ()  # scheme, URL: for apt

    @property
    def env_file(self) -> bytes:
        lines = "".join(f"export {name}={quote(value)}\n" for name, value in self.env)
        return f"# Written by devbox from `env` of the Devboxfile.\n{lines}".encode() if lines else b""

    @property
    def apt_file(self) -> bytes:
        return "".join(f'Acquire::{scheme}::Proxy "{url}";\n' for scheme, url in self.proxies).encode()

    @property
    def hosts_block(self) -> tuple[str, ...]:
        return tuple(f"{address} {name}" for name, address in self.hosts)


def parse(raw: Any, source: Source) -> Settings:  # noqa: ARG001
    assert isinstance(raw, Settings)  # noqa: S101 - made by provision/settings.py, never by a Devboxfile
    return raw


def reads(settings: Settings) -> Reads:  # noqa: ARG001
    return Reads(files=(ENV_FILE, APT_PROXY))


# Reading by the shell itself costs no fork. What counts only once a program has been told of it has a mark from before
# its files change until then, so that the next probe sees where it was cut off.
_FUNCTIONS = """
owed() { [ -e "$state/settings-$1" ]; }
read_hostname() {
  kernel='' file=''
  read -r kernel </proc/sys/kernel/hostname || :
  [ ! -r /etc/hostname ] || read -r file </etc/hostname || :
  case $kernel in "$file") hostname=$kernel ;; *) hostname="$kernel (file: $file)" ;; esac
}
read_locale() {
  locale=''
  for file in /etc/default/locale /etc/locale.conf; do
    [ -r $file ] || continue
    while IFS= read -r line; do
      case $line in LANG=*) locale=${line#LANG=} locale=${locale#\\"} locale=${locale%\\"} ;; esac
    done <$file
  done
}
read_hosts() {
  block='' inside=''
  while IFS= read -r line; do
    case $line in
      '# devbox begin') inside=1 ;;
      '# devbox end') inside='' ;;
      *) [ -z "$inside" ] || block="$block$line;" ;;
    esac
  done </etc/hosts
}
resolved=/etc/systemd/resolved.conf.d/devbox.conf
read_dns() {
  dns=''
  if [ -r $resolved ]; then
    while IFS= read -r line; do case $line in DNS=*) dns=${line#DNS=} ;; esac; done <$resolved
  elif [ ! -d /run/systemd/resolve ] && [ -r /etc/resolv.conf ] && [ -n "$1" ]; then
    while read -r word value rest; do
      case $word in nameserver) dns="$dns${dns:+ }$value" ;; esac
    done </etc/resolv.conf
  fi
  ! owed dns || dns="$dns (not in effect yet)"
}
find_anchors() {
  if [ -d /etc/pki/ca-trust ]; then anchors=/etc/pki/ca-trust/source/anchors
  elif [ -d /etc/pki/trust ]; then anchors=/etc/pki/trust/anchors
  elif [ -d /etc/ca-certificates/trust-source ]; then anchors=/etc/ca-certificates/trust-source/anchors
  else anchors=/usr/local/share/ca-certificates; fi
}
read_certificates() {
  certificates=''
  find_anchors
  set +f
  set -- $anchors/devbox-*.crt
  set -f
  [ ! -e "$1" ] || { certificates=$(cat "$@" | sha256sum) && certificates=${certificates%% *}; }
  ! owed ca_certs || certificates="$certificates (not in effect yet)"
}
"""


def probe(settings: Settings) -> str:
    lines = [_FUNCTIONS]
    if settings.hostname:
        lines.append('read_hostname; field hostname "$hostname"')
    if settings.timezone:
        lines.append("zone=$(readlink /etc/localtime) && field timezone ${zone#*zoneinfo/}")
    if settings.locale:
        lines.append('read_locale; [ -z "$locale" ] || field locale "$locale"')
    lines.append(f'path_state {ENV_FILE} && file_hash {ENV_FILE} && field env "$hash"')
    lines.append('read_hosts; [ -z "$block" ] || field hosts "$block"')
    lines.append(f'read_dns {"1" if settings.dns else chr(39) * 2}; [ -z "$dns" ] || field dns "$dns"')
    lines.append('read_certificates; [ -z "$certificates" ] || field ca_certs "$certificates"')
    lines.append(f'path_state {APT_PROXY} && file_hash {APT_PROXY} && field apt_proxy "$hash"')
    return "\n".join((*lines, ":"))


def desired(settings: Settings, facts: Facts) -> State:
    apt = settings.apt_file if facts.manager == "apt" else b""
    fields = (
        ("hostname", settings.hostname),
        ("timezone", settings.timezone),
        ("locale", settings.locale),
        ("env", _digest(settings.env_file)),
        ("hosts", "".join(f"{line};" for line in settings.hosts_block)),
        ("dns", " ".join(settings.dns)),
        ("ca_certs", _digest(b"".join(settings.ca_certs))),
        ("apt_proxy", _digest(apt)),
    )
    return tuple((name, value) for name, value in fields if value)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if content else ""


_APPLY = """
# put NAME PATH MODE: the file of the step, or no file when the step has none by that name.
put() {
  if [ -e "$files/$1" ]; then
    mkdir -p "${2%/*}"
    cp "$files/$1" "$2.devbox"
    chmod "$3" "$2.devbox"
    mv -f "$2.devbox" "$2"
  elif [ -e "$2" ]; then rm -f "$2"; fi
}
install_package() {
  case $manager in
    apt) DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 install "$1" || {
      apt-get -q -o DPkg::Lock::Timeout=300 update
      DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 install "$1"; } ;;
    dnf) dnf -y install "$1" ;;
    zypper) zypper --non-interactive install "$1" ;;
    apk) apk add "$1" ;;
    *) fail "The package $1 is missing." ;;
  esac
}

owe() { mkdir -p "$state"; : >"$state/settings-$1"; }
settle() { rm -f "$state/settings-$1"; }

put env "$env_file" 0644
put apt_proxy "$apt_proxy" 0644

read_hostname
if [ -n "$hostname_wanted" ] && [ "$hostname" != "$hostname_wanted" ]; then
  # First, since the probe does not see it. sudo waits for a resolver when its own host has no address.
  known=''
  while read -r address names; do
    case " $names " in *" $hostname_wanted "*) known=1 ;; esac
  done </etc/hosts
  [ -n "$known" ] || printf '127.0.1.1 %s\\n' "$hostname_wanted" >>/etc/hosts
  printf '%s\\n' "$hostname_wanted" >/etc/hostname
  printf '%s\\n' "$hostname_wanted" >/proc/sys/kernel/hostname
fi

read_hosts
if [ "$block" != "$hosts_wanted" ]; then
  {
    inside=''
    while IFS= read -r line; do
      case $line in
        '# devbox begin') inside=1 ;;
        '# devbox end') inside='' ;;
        *) [ -n "$inside" ] || printf '%s\\n' "$line" ;;
      esac
    done </etc/hosts
    [ ! -e "$files/hosts" ] || { echo '# devbox begin'; cat "$files/hosts"; echo '# devbox end'; }
  } >/etc/hosts.devbox
  chmod 0644 /etc/hosts.devbox
  mv -f /etc/hosts.devbox /etc/hosts
fi

if [ -n "$timezone_wanted" ]; then
  [ -e "/usr/share/zoneinfo/$timezone_wanted" ] || install_package tzdata
  [ -e "/usr/share/zoneinfo/$timezone_wanted" ] || fail "There is no time zone $timezone_wanted."
  [ ! -e /etc/timezone ] || printf '%s\\n' "$timezone_wanted" >/etc/timezone
  ln -sfn "/usr/share/zoneinfo/$timezone_wanted" /etc/localtime  # last, since the probe looks at it
fi

read_locale
if [ -n "$locale_wanted" ] && [ "$locale" != "$locale_wanted" ]; then
  case $locale_wanted in
    C | POSIX | C.*) ;;
    *)
      case $manager in
        apt)
          have locale-gen || install_package locales
          charset=${locale_wanted#*.}
          [ "$charset" != "$locale_wanted" ] || charset=UTF-8
          printf '%s %s\\n' "$locale_wanted" "$charset" >>/etc/locale.gen
          locale-gen "$locale_wanted"
          ;;
        dnf) install_package "glibc-langpack-${locale_wanted%%_*}" ;;
        zypper) install_package glibc-locale ;;
        pacman) printf '%s UTF-8\\n' "$locale_wanted" >>/etc/locale.gen; locale-gen ;;
      esac
      ;;
  esac
  file=/etc/locale.conf
  [ "$manager" != apt ] || file=/etc/default/locale
  printf 'LANG=%s\\n' "$locale_wanted" >$file
fi

read_dns "$dns_wanted"
if [ "$dns" != "$dns_wanted" ]; then
  if [ -d /run/systemd/resolve ]; then
    owe dns
    put dns $resolved 0644
    systemctl restart systemd-resolved
  elif [ -n "$dns_wanted" ]; then
    for server in $dns_wanted; do printf 'nameserver %s\\n' "$server"; done >/etc/resolv.conf.devbox
    chmod 0644 /etc/resolv.conf.devbox
    mv -f /etc/resolv.conf.devbox /etc/resolv.conf
  fi
  settle dns
fi

read_certificates
if [ "$certificates" != "$certificates_wanted" ]; then
  owe ca_certs
  mkdir -p $anchors
  (set +f; rm -f $anchors/devbox-*.crt)
  number=0
  while [ -e "$files/ca$number" ]; do
    cp "$files/ca$number" "$(printf '%s/devbox-%02d.crt' $anchors $number)"
    number=$((number + 1))
  done
  (set +f; [ $number = 0 ] || chmod 0644 $anchors/devbox-*.crt)
  if have update-ca-trust; then update-ca-trust
  else
    have update-ca-certificates || install_package ca-certificates
    update-ca-certificates
  fi
  settle ca_certs
fi
"""


def apply(settings: Settings, facts: Facts) -> Action:
    wanted = dict(desired(settings, facts))
    words = {
        "hostname_wanted": settings.hostname,
        "timezone_wanted": settings.timezone,
        "locale_wanted": settings.locale,
        "hosts_wanted": wanted.get("hosts", ""),
        "dns_wanted": wanted.get("dns", ""),
        "certificates_wanted": wanted.get("ca_certs", ""),
        "env_file": ENV_FILE,
        "apt_proxy": APT_PROXY,
    }
    assignments = "".join(f"{name}={quote(value)}\n" for name, value in words.items())
    files = {
        "env": settings.env_file,
        "apt_proxy": settings.apt_file if facts.manager == "apt" else b"",
        "hosts": "".join(f"{line}\n" for line in settings.hosts_block).encode(),
        "dns": f"[Resolve]\nDNS={' '.join(settings.dns)}\nDomains=~.\n".encode() if settings.dns else b"",
        **{f"ca{number}": certificate for number, certificate in enumerate(settings.ca_certs)},
    }
    script = f"{assignments}{_FUNCTIONS}{_APPLY}"
    return Action(script.encode(), {name: data for name, data in files.items() if data})


KIND = Kind(parse=parse, probe=probe, desired=desired, apply=apply, reads=reads)

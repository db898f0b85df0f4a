# Reading the guest's state with few other programs: each costs 30 to 50 ms under emulation, a fork alone 7, what the
# shell does by itself next to nothing. POSIX sh, fit for `set -e`; in the probe run, in the apply run and before the
# steps' own scripts. `load_*` read once for many, `probe_*` print `field=value` lines for one step.
# Nothing here changes anything.
set -f
nl='
'
etc=/etc
openrc=/run/openrc
stats='' hashes='' packages='' candidates='' units='' passwd='' groups='' cwd='' session='' uid='' switch='' secrets='' secret_names=''
environment() { :; }

field() { printf '%s=%s\n' "$1" "$2"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
stale() { exit 75; }  # of an action that needs a large file which was not sent: another run brings it
have() { command -v "$1" >/dev/null 2>&1; }

# The clock that no one sets: milliseconds since boot, without a fork.
now() { read -r uptime rest </proc/uptime && ms=${uptime%.*}${uptime#*.}0 && ms=${ms#0}; }

# Line of "$2" that begins with "$1"; its rest in $found. A loop, since ${x#*…} is quadratic in dash.
find_line() {
  saved_ifs=$IFS IFS=$nl
  for line in $2; do
    case $line in "$1"*) found=${line#"$1"}; IFS=$saved_ifs; return 0 ;; esac
  done
  IFS=$saved_ifs
  return 1
}

load_paths() { stats=$stats$nl$(stat -c '%n|%f|%a|%U|%G|%u:%g' -- "$@" 2>/dev/null) || :; }

load_files() {
  load_paths "$@"
  for path do
    shift
    if path_state "$path" && [ "$type" = file ]; then set -- "$@" "$path"; fi
  done
  [ $# = 0 ] || hashes=$hashes$nl$(sha256sum -- "$@" 2>/dev/null) || :
}

# Sets type, mode, owner, group and ids (numbers) of a path; fails when nothing is there.
path_state() {
  find_line "$1|" "$stats" || return 1
  mode=${found#*|} type=${found%%|*}
  owner=${mode#*|} mode=0${mode%%|*}
  group=${owner#*|} owner=${owner%%|*}
  ids=${group#*|} group=${group%%|*}
  case $type in 8???) type=file ;; 4???) type=directory ;; a???) type=link ;; *) type=special ;; esac
}

file_hash() {
  saved_ifs=$IFS IFS=$nl
  for line in $hashes; do
    case $line in *"  $1") IFS=$saved_ifs; hash=${line%%  *}; return 0 ;; esac
  done
  IFS=$saved_ifs
  hash=$(sha256sum <"$1") && hash=${hash%% *}  # names with a backslash are printed otherwise
}

# probe_path PATH TYPE FIELD…: type, then sha256 of a file, then the stated ones of mode, owner, group.
probe_path() {
  path_state "$1" || return 0
  field type "$type"
  [ "$type" = "$2" ] || return 0
  if [ "$type" = file ]; then file_hash "$1" && field sha256 "$hash" || return 1; fi
  shift 2
  for name do
    case $name in mode) field mode "$mode" ;; owner) field owner "$owner" ;; group) field group "$group" ;; esac
  done
}

# Old text for a unified diff: only of files that are small.
old_content() { path_state "$1" && [ "$type" = file ] && is_small "$1" && base64 <"$1"; }
is_small() { [ -z "$(find "$1" -size +256k)" ]; }

# Sets $real to what a path stands for once links are followed, and type, mode, owner, group and ids to those of it;
# an empty type when nothing is there yet. Fails for a link that leads nowhere.
follow() {
  real=$1
  path_state "$1" || { type=''; return 0; }
  [ "$type" = link ] || return 0
  real=$(readlink -f -- "$1") || return 1
  load_paths "$real"
  path_state "$real" || type=''
}

# probe_folder PATH FIELD…: as probe_path. A link that leads to a folder counts as that folder.
probe_folder() {
  real=$1
  if path_state "$1" && [ "$type" = link ] && [ -d "$1" ]; then follow "$1" || return 1; fi
  shift
  probe_path "$real" directory "$@"
}

# Sets $text to what a small file holds.
read_file() {
  text=''
  while IFS= read -r line || [ -n "$line" ]; do text=$text$line$nl; done <"$1"
}

load_accounts() {
  read_file $etc/passwd
  passwd=$text
  read_file $etc/group
  groups=$text
}

# Sets account_uid, account_gid, account_home and account_shell; fails when there is no such account.
account() {
  [ -n "$passwd" ] || load_accounts
  find_line "$1:" "$passwd" || { found=$(getent passwd "$1" 2>/dev/null) && found=${found#*:}; } || return 1
  found=${found#*:}
  account_uid=${found%%:*} found=${found#*:}
  account_gid=${found%%:*} found=${found#*:}
  found=${found#*:}
  account_home=${found%%:*} account_shell=${found#*:}
}

find_package_manager() {
  for manager in apt-get dnf zypper apk pacman; do
    if have "$manager"; then manager=${manager%-get}; return; fi
  done
  manager=''
}

find_init() {
  if [ -d /run/systemd/system ]; then init=systemd
  elif [ -d $openrc ]; then init=openrc
  else init=''; fi
}

# One `systemctl show` for all units: a block for each, in which Names= holds its aliases too.
load_units() {
  [ "$init" = systemd ] || return 0
  properties=Names,LoadState,ActiveState,UnitFileState,Type,RemainAfterExit,Result,ExecMainStartTimestampMonotonic,NeedDaemonReload
  units=$nl$(systemctl show --no-pager -p "$properties" -- "$@" 2>/dev/null)$nl || units=''
}

unit_property() {
  case $unit in *"$nl$1="*) value=${unit#*"$nl$1="} value=${value%%"$nl"*} ;; *) value='' ;; esac
}

# Sets $unit to the properties of one unit, wherever it stands among the blocks of $units.
find_unit() {
  rest=$units
  while [ -n "$rest" ]; do
    unit=${rest%%"$nl$nl"*}
    case $rest in *"$nl$nl"*) rest=$nl${rest#*"$nl$nl"} ;; *) rest='' ;; esac
    unit=$nl${unit#"$nl"}$nl
    unit_property Names
    case " $value " in *" $1 "*) return 0 ;; esac
  done
  return 1
}

unit_is_active() {
  unit_property ActiveState
  case $value in
    active | reloading) return 0 ;;
    inactive) ;;
    *) return 1 ;;
  esac
  # A one-shot that stays inactive is as started as it can be once it has succeeded in this boot.
  unit_property Type && [ "$value" = oneshot ] || return 1
  unit_property RemainAfterExit && [ "$value" = no ] || return 1
  unit_property Result && [ "$value" = success ] || return 1
  unit_property ExecMainStartTimestampMonotonic && [ "${value:-0}" != 0 ]
}

# probe_service NAME ACTIVE ENABLED: each is yes, no, or empty for "not asked".
probe_service() {
  case $init in
    systemd)
      find_unit "$1" || return 1
      if [ -n "$2" ]; then if unit_is_active; then field active yes; else field active no; fi; fi
      [ -n "$3" ] || return 0
      unit_property UnitFileState
      case $value in
        enabled | alias) field enabled yes ;;
        static | generated | indirect | transient) field enabled "$3" ;;  # cannot be enabled, nor need it be
        masked | masked-runtime) field enabled masked ;;
        *) field enabled no ;;
      esac
      ;;
    openrc)
      # Its link says that it was started; whether it still runs only its own script knows.
      [ -z "$2" ] || if [ -e "$openrc/started/$1" ] && rc-service "$1" status >/dev/null 2>&1; then field active yes
      else field active no; fi
      [ -n "$3" ] || return 0
      for level in default boot sysinit; do
        if [ -e "$etc/runlevels/$level/$1" ]; then field enabled yes; return 0; fi
      done
      field enabled no
      ;;
    *) return 1 ;;
  esac
}

# util-linux's setpriv takes no detour over PAM; BusyBox's cannot set the groups.
find_switch() { case $(setpriv --help 2>&1) in *--init-groups*) switch=setpriv ;; *) switch=su ;; esac; }

# become USER COMMAND…: replaces this process by the command, as that account, in $cwd, with the step's environment.
become() {
  account "$1" || fail "The account $1 does not exist."
  case $cwd in
    '') cd -- "$account_home" 2>/dev/null || cd / ;;
    /*) cd -- "$cwd" 2>/dev/null || fail "The folder $cwd does not exist." ;;
    *) cd -- "$account_home/$cwd" 2>/dev/null || fail "The folder $account_home/$cwd does not exist." ;;
  esac
  export HOME="$account_home" USER="$1" LOGNAME="$1" SHELL="${account_shell:-/bin/sh}"
  shift
  [ -n "$uid" ] || uid=$(id -u)
  [ -n "$switch" ] || [ "$account_uid" = "$uid" ] || find_switch
  if [ "$account_uid" = "$uid" ]; then :
  elif [ "$switch" = setpriv ]; then
    set -- setpriv --reuid="$account_uid" --regid="$account_gid" --init-groups -- "$@"
  else
    # shellcheck disable=SC2016 # for the shell that su starts
    set -- su -s /bin/sh -c 'exec "$0" "$@"' -- "$USER" "$@"
  fi
  [ -z "$session" ] || set -- setsid "$@"
  environment  # last, since it may set any name
  [ -z "$secrets" ] || reveal
  exec "$@"
}

# The secrets of the step, out of their files into the environment: never in an argument, which all may read.
reveal() {
  export DEVBOX_SECRETS="$secrets"
  for devbox_name in $secret_names; do
    devbox_value=$(cat "$DEVBOX_SECRETS/$devbox_name" && echo .) || fail "The secret $devbox_name is not there any more."
    export "$devbox_name=${devbox_value%.}"
  done
  unset devbox_value devbox_name
}

# Sets what the receipt of a step holds: recorded (its digest), change, needed (` key:change …`), booted. One that a power
# loss has torn lacks its last line, and counts as none.
receipt() {
  recorded='' change='' needed=' ' booted='' whole=''
  [ -e "$journal/$1" ] || return 0
  while IFS='=' read -r part value; do
    case $part in
      digest) recorded=$value ;;
      change) change=$value ;;
      need) needed="$needed$value " ;;
      boot) booted=$value ;;
      finished) whole=1 ;;
    esac
  done <"$journal/$1"
  [ -n "$whole" ] || { recorded='' change='' needed=' ' booted=''; }
}

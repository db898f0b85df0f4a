# What the guest's package database holds, for the kinds `packages` and `repository`; a part of the prelude. It looks
# only into the database and the index on the guest's own disk: no network, no lock.

# The first line is the machine's own architecture; the file is there only once a foreign one was added.
read_native() { native=''; [ ! -r /var/lib/dpkg/arch ] || read -r native </var/lib/dpkg/arch || :; }

# Lines `name version` of what is installed of these, and `name:arch version` or `name.arch version`. For dpkg only
# `installed` counts, not `config-files` or `half-*`.
load_packages() {
  packages=''
  case $manager in
    apt)
      found=$(dpkg-query -W -f '${db:Status-Status} ${Package} ${Architecture} ${Version}\n' -- "$@" 2>/dev/null) || :
      read_native
      saved_ifs=$IFS IFS=$nl
      for line in $found; do
        case $line in 'installed '*) line=${line#installed } ;; *) continue ;; esac
        name=${line%% *} line=${line#* }
        case ${line%% *} in "${native:-${line%% *}}" | all) packages=$packages$name' '${line#* }$nl ;; esac
        packages=$packages$name:${line%% *}' '${line#* }$nl
      done
      IFS=$saved_ifs
      ;;
    dnf | zypper)
      evr='%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}'
      packages=$(rpm -q --qf "%{NAME} $evr\n%{NAME}.%{ARCH} $evr\n" -- "$@" 2>/dev/null) || :
      ;;
    # Of packages that are made with --virtual the version has no release.
    apk) packages=$(apk info -v 2>/dev/null | sed -n 's/^\(.*\)-\([0-9][^-]*\)$/\1 \2/p; s/^\(.*\)-\([0-9][^-]*-r[0-9]*\)$/\1 \2/p') ;;
    pacman) packages=$(pacman -Q -- "$@" 2>/dev/null) || : ;;
  esac
}

# What the index offers (apt), or what of these could be upgraded (the others); `?` when the index cannot tell.
load_candidates() {
  case $manager in
    apt) candidates=$(LC_ALL=C apt-cache policy -- "$@" 2>/dev/null) || candidates='?' ;;
    # 100 says that there are some. Only the cache: a probe must not wait for the network.
    dnf) candidates=$(dnf -q -C check-update "$@" 2>/dev/null) || [ $? = 100 ] || candidates='?' ;;
    zypper) candidates=$(zypper -q --non-interactive --no-refresh list-updates 2>/dev/null) || candidates='?' ;;
    apk) candidates=$(apk version -l '<' -- "$@" 2>/dev/null) || candidates='?' ;;
    pacman) candidates=$(pacman -Qu -- "$@" 2>/dev/null) || : ;;  # 1 says that there are none
  esac
}

# Sets version to that of the first one with this name; a kernel may be there several times.
package_version() { find_line "$1 " "$packages" && version=$found; }

# version_fits VERSION PATTERN. Of rpm and apk a version without its release means any release of it, and of rpm one
# without an epoch any epoch, as their own tools take them.
version_fits() {
  fitting=$1
  case $manager:$2 in dnf:*:* | zypper:*:*) ;; dnf:* | zypper:*) fitting=${fitting#*:} ;; esac
  # shellcheck disable=SC2254 # the version asked for is a pattern
  case $fitting in $2) return 0 ;; esac
  case $manager in apt) return 1 ;; esac
  # shellcheck disable=SC2254
  case $2 in *-*) return 1 ;; *) case $fitting in $2-*) return 0 ;; esac ;; esac
  return 1
}

# Whether some installed one with this name has a version that fits; sets version to it, or to the last other.
package_fits() {
  saved_ifs=$IFS IFS=$nl
  for line in $packages; do
    case $line in "$1 "*) version=${line#"$1 "} ;; *) continue ;; esac
    if version_fits "$version" "$2"; then IFS=$saved_ifs; return 0; fi
  done
  IFS=$saved_ifs
  return 1
}

# Whether some installed package stands in for this name (`awk`, `mail-transport-agent`, `pkgconfig(zlib)`).
package_is_provided() {
  case $manager in
    apt)
      provides=$(dpkg-query -W -f '${db:Status-Status}|, ${Provides},\n' 2>/dev/null) || :
      saved_ifs=$IFS IFS=$nl
      for line in $provides; do
        case $line in 'installed|'*", $1,"* | 'installed|'*", $1 ("*) IFS=$saved_ifs; return 0 ;; esac
      done
      IFS=$saved_ifs
      return 1
      ;;
    dnf | zypper) rpm -q --whatprovides -- "$1" >/dev/null 2>&1 ;;
    apk) apk info -e -- "$1" >/dev/null 2>&1 ;;
    pacman) pacman -T -- "$1" >/dev/null 2>&1 ;;
    *) return 1 ;;
  esac
}

package_is_present() { package_version "$1" || package_is_provided "$1"; }

# Whether the installed version, in $version, is the newest that the index knows.
package_is_latest() {
  [ "$candidates" != '?' ] || return 1
  case $manager in
    apt)
      heading=$1
      # Of the machine's own architecture the heading is the plain name.
      case $nl$candidates in *"$nl$1:$nl"*) ;; *) heading=${1%%:*} ;; esac
      case $nl$candidates in *"$nl$heading:$nl"*) ;; *) return 1 ;; esac
      candidate=$nl$candidates candidate=${candidate##*"$nl$heading:$nl"}
      candidate=${candidate#*Candidate: }
      [ "${candidate%%"$nl"*}" = "$version" ]
      ;;
    # `name-version   < newer`, without a space when the name is long
    apk) case $nl$candidates in *"$nl$1-$version"[\ \<]*) return 1 ;; esac ;;
    *) ! is_listed "$1" ;;
  esac
}

# Whether a package is among those that could be upgraded. Headings and what dnf 5 says on the way name none.
is_listed() {
  saved_ifs=$IFS IFS=$nl
  for line in $candidates; do
    case $manager in
      # `name.arch  version  repository`, the name alone when it is long; what obsoletes others is another list.
      dnf) case $line in Obsoleting\ *) break ;; esac; line=${line%% *} ;;
      # `v | repository | name | installed | offered | arch`
      zypper)
        case $line in v*\|*\|*) ;; *) continue ;; esac
        line=${line#*|} line=${line#*| } line=${line%%|*}
        line=${line%%" "*}
        ;;
      pacman) line=${line%% *} ;;
    esac
    case $line in
      "$1") IFS=$saved_ifs; return 0 ;;
      "$1".*) if [ "$manager" = dnf ] && [ "${line%.*}" = "$1" ]; then IFS=$saved_ifs; return 0; fi ;;
    esac
  done
  IFS=$saved_ifs
  return 1
}

# probe_package NAME present|absent|latest|=GLOB
probe_package() {
  case $2 in
    present) if package_is_present "$1"; then field "$1" installed; fi; return 0 ;;
    absent) if package_version "$1"; then field "$1" installed; fi; return 0 ;;
  esac
  package_version "$1" || return 0
  case $2 in
    latest) if package_is_latest "$1"; then field "$1" latest; else field "$1" "$version"; fi ;;
    *) if package_fits "$1" "${2#=}"; then field "$1" "${2#=}"; else field "$1" "$version"; fi ;;
  esac
}

# The index was refreshed by devbox within a day, and no list or key of a source of packages is newer.
index_is_fresh() {
  [ -n "$(find "$state/index" -mmin -1440 2>/dev/null)" ] || return 1
  case $manager in
    apt) set -- apt/sources.list apt/sources.list.d apt/keyrings ;;
    dnf) set -- yum.repos.d pki/rpm-gpg ;;
    zypper) set -- zypp/repos.d ;;
    apk) set -- apk/repositories apk/repositories.d apk/keys ;;
    pacman) set -- pacman.conf pacman.d/mirrorlist ;;
    *) return 0 ;;
  esac
  for source do shift; set -- "$@" "$etc/$source"; done
  [ -z "$(find "$@" -newer "$state/index" 2>/dev/null)" ]
}

# Sets list, and the places where the key of the repository $1 may be; $2 is the name of an apk key.
find_repository() {
  key='' keys=''
  case $manager in
    apt) list=$etc/apt/sources.list.d/$1.sources keys="$etc/apt/keyrings/$1.asc $etc/apt/keyrings/$1.gpg" ;;
    dnf) list=$etc/yum.repos.d/$1.repo keys=$etc/pki/rpm-gpg/RPM-GPG-KEY-devbox-$1 ;;
    zypper) list=$etc/zypp/repos.d/$1.repo keys=$etc/pki/rpm-gpg/RPM-GPG-KEY-devbox-$1 ;;
    apk) list=$etc/apk/repositories keys=${2:+$etc/apk/keys/$2} ;;
    pacman) list=$etc/pacman.conf keys=$etc/pacman.d/devbox-$1.key ;;
    *) return 1 ;;
  esac
}

# Prints what the list says of the repository $1, as fields; sets key when it names one of $keys.
read_repository() {
  inside=1 separator='='
  case $manager in apt) separator=: ;; apk | pacman) inside='' ;; esac
  while IFS= read -r line || [ -n "$line" ]; do
    case $manager:$line in
      apk:"# devbox: $1") inside=1; continue ;;
      apk:*) if [ -n "$inside" ]; then field url "$line"; return; fi; continue ;;
      pacman:"[$1]") inside=1; continue ;;
      pacman:'['*) inside=''; continue ;;
      *:'' | *:'#'*) continue ;;
      *:'['*) field section "$line"; continue ;;
    esac
    [ -n "$inside" ] || continue
    option=${line%%"$separator"*} value=${line#*"$separator"}
    option=${option%" "} value=${value#" "}
    if [ "$option" = Signed-By ]; then
      case " $keys " in *" $value "*) key=$value value=key ;; esac
    fi
    field "$option" "$value"
  done <"$list"
}

# probe_repository NAME KEY
probe_repository() {
  find_repository "$1" "$2" || return 1
  [ ! -e "$list" ] || read_repository "$1"
  for path in ${key:-$keys}; do
    path_state "$path" || continue
    if [ "$type" = file ] && file_hash "$path"; then field key "$hash"; else field key "$type"; fi
    return 0
  done
}

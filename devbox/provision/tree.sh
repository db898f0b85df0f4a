# A tree of files in the guest against its manifest in $tree, with few programs however many files there are. Lines of a
# manifest: `d ./NAME`, `f SHA256 x|- ./NAME`, `l ./NAME -> TARGET`, parents first; names in which a backslash or the
# end of a line had to be written as `printf %b` reads it are odd, come last, and are looked at one by one.
# Set by the step: dest, tree, tree_is (what its state is called when all is right), and what is stated of tree_owner,
# tree_group, tree_mode and tree_xmode (of programs); tree_only when nothing else may be there, and then tree_find.
tree_words() {
  for line in $tree; do
    case $line in *\\*) ;; "$1 "*) line=./${line#*./}; [ "$1" = f ] || line=${line%%' -> '*}; printf '%s\0' "$line" ;; esac
  done
}

tree_name() { name=$1; case $1 in *\\*) name=$(printf '%b.' "$1"); name=${name%.} ;; esac; }

# What is expected: folders, flags of files, their sums, links.
tree_wanted() {
  for line in $tree; do
    case $line in
      'd '*) printf '%s\n' "$line" ;;
      'f '*) printf '%s\n' "${line#f * }" ;;
    esac
  done
  for line in $tree; do
    case $line in 'f '*) sum=${line#f }; printf '%s  %s\n' "${sum%% *}" "./${line#*./}" ;; esac
  done
  for line in $tree; do
    case $line in 'l '*) printf '%s\n' "$line" ;; esac
  done
}

# Lines of `stat` as flags: x or - when all is as stated, else the letter of what is not.
tree_flags() {
  for line in $1; do
    flag=m hex=${line%%|*} rest=${line#*|}
    perm=0${rest%%|*} rest=${rest#*|}
    case $hex in 8?[4567cdef]?) flag=x wanted=$tree_xmode ;; 8*) flag=- wanted=$tree_mode ;; *) flag=t wanted='' ;; esac
    [ -z "$wanted" ] || [ "$perm" = "$wanted" ] || flag=m
    [ -z "$tree_owner" ] || [ "${rest%%|*}" = "$tree_owner" ] || flag=o
    rest=${rest#*|}
    [ -z "$tree_group" ] || [ "${rest%%|*}" = "$tree_group" ] || flag=g
    printf '%s %s\n' "$flag" "${2:-${rest#*|}}"
  done
}

# What is found, in the order of what is expected.
tree_found() {
  odd=''
  for line in $tree; do
    case $line in
      'd '*) tree_name "${line#d }"; [ ! -d "$name" ] || printf '%s\n' "$line" ;;
    esac
    case $line in *\\*) odd=1 ;; esac
  done
  flags=$(tree_flags "$(tree_words f | xargs -0 -r stat -c '%f|%a|%U|%G|%n' -- 2>/dev/null)")
  [ -z "$flags" ] || printf '%s\n' "$flags"
  [ -z "$odd" ] || for line in $tree; do
    case $line in
      'f '*\\*)
        tree_name "./${line#*./}"
        tree_flags "$(stat -c '%f|%a|%U|%G|' -- "$name" 2>/dev/null)" "./${line#*./}"
        ;;
    esac
  done
  case $nl$flags in
    *"${nl}t "*) tree_words f | tree_sums_of_regular ;;
    *) tree_words f | xargs -0 -r sha256sum -- 2>/dev/null ;;
  esac
  [ -z "$odd" ] || for line in $tree; do
    case $line in
      'f '*\\*)
        tree_name "./${line#*./}"
        if [ -f "$name" ] && [ ! -L "$name" ]; then
          sum=$(sha256sum <"$name") && printf '%s  %s\n' "${sum%% *}" "./${line#*./}"
        fi
        ;;
    esac
  done
  case $nl$tree in *"${nl}l "*)
    tree_words l | xargs -0 -r ls -ld -- 2>/dev/null | while IFS= read -r line; do
      case $line in l*' ./'*) printf 'l ./%s\n' "${line#* ./}" ;; esac
    done
  esac
  [ -z "$odd" ] || for line in $tree; do
    case $line in
      'l '*\\*)
        tree_name "${line#*' -> '}"
        target=$name
        link=${line#l }
        tree_name "${link%%' -> '*}"
        [ "$(readlink -- "$name" 2>/dev/null && echo .)" != "$target$nl." ] || printf '%s\n' "$line"
        ;;
    esac
  done
}

# Nothing else is opened: reading a FIFO would wait for ever.
# shellcheck disable=SC2016 # for the shell of its own
tree_sums_of_regular() {
  xargs -0 -r sh -c 'for f do shift; [ ! -f "$f" ] || [ -L "$f" ] || set -- "$@" "$f"; done; [ $# = 0 ] || exec sha256sum -- "$@"' sh 2>/dev/null
}

# Names of all that is there, sorted; of an odd one only that it is there.
tree_names_found() {
  tree_find \( \( -path "*[\\\\$nl$cr]*" -o -path '* -> *' \) -exec echo '?' \; -o -print \) 2>/dev/null | LC_ALL=C sort
}

tree_names_wanted() {
  for line in $tree; do
    case $line in
      *\\*) echo '?' ;;
      'l '*) line=./${line#*./}; printf '%s\n' "${line%%' -> '*}" ;;
      *) printf './%s\n' "${line#*./}" ;;
    esac
  done | LC_ALL=C sort
}

# Sets wanted and found.
tree_look() {
  IFS=$nl wanted=$(tree_wanted) found=$(tree_found) more='' all='' cr=$(printf '\r')
  if [ -n "$tree_only" ]; then all=$(tree_names_wanted) more=$(tree_names_found); fi
}

# Prints what the state of the tree is called. In a shell of its own, since it changes folder.
tree_state() (
  cd -- "$dest" 2>/dev/null || exit 0
  tree_look
  if [ "$wanted" = "$found" ] && [ "$all" = "$more" ]; then field files "$tree_is"; exit 0; fi
  have awk || { field files 'different'; exit 0; }
  field files "$({
    printf '%s\n' "$found" // "$wanted" // "$all" // "$more"
  } | awk '
    /^$/ { next }
    /^\/\// { part++; next }
    { at = index($0, "./"); name = at ? substr($0, at + 2) : "(an odd name)"; sub(/ -> .*/, "", name) }
    part == 0 { have[$0]; seen[name]; next }
    part == 1 { if (!($0 in have)) say(name, (name in seen) ? "is different" : "is missing"); next }
    part == 2 { all[$0]++; next }
    { if (all[$0]-- < 1) say(name, "is too much") }
    function say(name, how) {
      if (name in said) return
      said[name]
      if (++count <= 20) list = list (count > 1 ? ", " : "") name " " how
    }
    END { print count " differ: " list (count > 20 ? ", and " count - 20 " more" : "") }
  ')"
)

# Lets $aside be the folder, beside what is there, that the new tree is made in.
tree_begin() {
  if [ -d "$dest" ]; then aside=$dest/.devbox-aside
  elif [ -e "$dest" ]; then fail "$dest is there and is not a folder."
  else
    [ ! -L "$dest" ] || fail "$dest is a link to a folder that is not there."
    aside=$dest.devbox-aside
    [ -d "${dest%/*}/" ] || mkdir -p "${dest%/*}"
  fi
  rm -rf "$aside"
  trap 'rm -rf "$aside"' EXIT
  mkdir -m 0700 "$aside"
}

# Makes the folders and links of the manifest in $aside.
tree_make() (
  cd "$aside"
  IFS=$nl
  tree_words d | xargs -0 -r mkdir -p --
  for line in $tree; do
    case $line in
      'd '*\\*) tree_name "${line#d }"; mkdir -p "$name" ;;
      'l '*)
        link=${line#l }
        tree_name "${link#*' -> '}"
        target=$name
        tree_name "${link%%' -> '*}"
        ln -s -- "$target" "$name"
        ;;
    esac
  done
)

# Removes what is in $dest and not in $aside: by $tree_only all of it, else what the manifest $1 of an earlier tree names.
tree_remove() (
  cd "$dest" 2>/dev/null && [ "$aside" = "$dest/.devbox-aside" ] || exit 0
  if [ -n "$tree_only" ]; then
    # shellcheck disable=SC2016 # for the shell of its own
    tree_find -exec sh -c 'aside=$1; shift; for f do
      case $f in ./.devbox-aside | ./.devbox-aside/*) continue ;; esac
      [ -e "$f" ] || [ -L "$f" ] || continue
      [ -e "$aside/$f" ] || [ -L "$aside/$f" ] || rm -rf "$f"
    done' sh "$aside" {} +
    exit 0
  fi
  IFS=$nl folders=''
  for line in $1; do
    case $line in
      [fl]' '*)
        line=./${line#*./}
        tree_name "${line%%' -> '*}"
        [ -e "$aside/$name" ] || [ -L "$aside/$name" ] || printf '%s\0' "$name"
        ;;
    esac
  done | xargs -0 -r rm -f --
  for line in $1; do
    case $line in 'd '*) tree_name "${line#d }"; [ -d "$aside/$name" ] || folders=$line$nl$folders ;; esac
  done
  for line in $folders; do tree_name "${line#d }"; rmdir "$name" 2>/dev/null || :; done
)

# Puts what is in $aside in the place of what differs from it; whole folders where there is none yet.
tree_put() {
  if [ -n "$tree_mode" ]; then
    find "$aside" -type f -perm -0100 -exec chmod "$tree_xmode" {} + -o -type f -exec chmod "$tree_mode" {} +
    find "$aside" -type d -exec chmod 0755 {} +
  else
    chmod -R a+rX,u+w,go-w "$aside"  # with `=`, BusyBox takes leave to run from all
  fi
  account=$tree_owner${tree_group:+:$tree_group}
  [ -z "$account" ] || chown -R -h "$account" "$aside"
  if [ "$aside" != "$dest/.devbox-aside" ]; then
    mv "$aside" "$dest"
    return
  fi
  saved_ifs=$IFS
  tree_drop_same
  tree_move ./.
  for line in $tree; do
    case $line in 'd '*) tree_name "${line#d }"; tree_move "$name" ;; esac
  done
  IFS=$saved_ifs
}

# What is as it should be is not touched.
tree_drop_same() {
  cd "$dest"
  tree_look
  ! have awk || printf '%s\n' "$found" // "$wanted" | awk '
    /\\/ || /^[dl] / || /^$/ { next }
    /^\/\// { part++; next }
    !part { have[$0]; next }
    $0 in have { name = substr($0, index($0, "./")); if (++same[name] == 2) print name }
  ' | tr '\n' '\0' | (cd "$aside" && xargs -0 -r rm -f --)
  cd /
}

tree_move() {
  [ -d "$aside/$1" ] || return 0  # it went with a folder above it
  if [ ! -d "$dest/$1" ]; then
    rm -f "$dest/$1"
    mv "$aside/$1" "$dest/$1"
    return
  fi
  folder=$1
  set +f
  set -- "$aside/$folder"/* "$aside/$folder"/.[!.]* "$aside/$folder"/..?*
  set -f
  for path do
    shift
    if [ -L "$path" ] || { [ -e "$path" ] && [ ! -d "$path" ]; }; then
      place=$dest/$folder/${path##*/}
      if [ -d "$place" ] && [ ! -L "$place" ]; then
        [ -n "$tree_only" ] || fail "$place is a folder, and a file is to be there."
        rm -rf "$place"
      fi
      set -- "$@" "$path"
    fi
  done
  [ $# = 0 ] || mv -f -- "$@" "$dest/$folder/"
}

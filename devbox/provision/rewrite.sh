# The second part of the prelude: what `line` and `block` make of a file. In the guest, so that a file which an
# earlier step of the same run makes or changes is read as it is then.

# Lines `number:text` of the lines of "$2" that match; `!` for what is no pattern. By grep, since the awk of Debian has
# no `{2}` and no `\s`.
matches() { [ -z "$1" ] || grep -anE -e "$1" -- "$2" 2>/dev/null || [ $? = 1 ] || echo '!'; }

# The two rewrites read a file and print its new text with "$2" = text, else how it stands. What they look for goes to
# awk by the environment and by stdin: as `-v` it would lose its backslashes. Text is made text by `""`, since numbers
# would compare as such.

# rewrite_line FILE text|verdict present|absent LINE MATCH before|after|start PLACE
rewrite_line() {
  { matches "$5" "$1"; echo -; matches "$7" "$1"; } |
    LC_ALL=C give=$2 wanted=$3 line=$4 match=$5 side=$6 awk '
      BEGIN { n = 0; line = ENVIRON["line"] ""; text = ENVIRON["give"] == "text"; side = ENVIRON["side"] }
      part == 1 {
        if ($0 == "!") bad = 1
        else if ($0 == "-") second = 1
        else if (second) place = $0 + 0
        else matched[last = $0 + 0] = 1
        next
      }
      {
        all[++n] = $0
        returns[n] = sub(/\r$/, "") ? "\r" : ""
        equal[n] = ($0 "") == line
        if (equal[n] && !(n in matched)) there = 1  # and does not match itself: once there, it stays as it is
      }
      END {
        if (bad) exit 2
        if (ENVIRON["wanted"] == "absent") {
          for (i = 1; i <= n; i++)
            if (ENVIRON["match"] != "" ? (i in matched) : equal[i]) found = 1
            else if (text) print all[i]
          if (!text) print found ? "present" : "absent"
          exit
        }
        verdict = there || (last && equal[last]) ? "present" : last ? "differs" : "missing"
        if (!text) { print verdict; exit }
        if (side == "start") at = 0
        else at = place ? (side == "before" ? place - 1 : place) : n
        for (i = 0; i <= n; i++) {
          if (i && i == last && verdict == "differs") print line returns[i]
          else if (i) print all[i]
          if (i == at && verdict == "missing") print line returns[1]
        }
      }' part=1 - part=2 "$1"
}

# rewrite_block FILE text|verdict present|absent BEGIN END CONTENT
rewrite_block() {
  printf '%s\n' "$6" |
    LC_ALL=C give=$2 wanted=$3 begin=$4 end=$5 awk '
      BEGIN { n = 0; begin = ENVIRON["begin"] ""; end = ENVIRON["end"] ""; text = ENVIRON["give"] == "text" }
      part == 1 { content[++m] = $0 ""; next }
      {
        whole = $0
        cr = sub(/\r$/, "") ? "\r" : ""
        if (FNR == 1) returns = cr
        if (($0 "") == begin) {
          if (inside) bad = 1
          inside = 1
          if (++count == 1) at = n
        } else if (($0 "") == end) {
          if (!inside) bad = 1
          inside = 0
          if (count == 1 && k != m) differs = 1
        } else if (!inside) all[++n] = whole
        else if (count == 1 && ($0 "") != content[++k]) differs = 1
      }
      END {
        absent = ENVIRON["wanted"] == "absent"
        if (bad || inside) verdict = "broken"
        else if (!count) verdict = absent ? "absent" : "missing"
        else verdict = absent || (count == 1 && !differs) ? "present" : "differs"
        if (!text) { print verdict; exit }
        if (verdict == "broken") exit 2
        if (!count) at = n
        for (i = 0; i <= n; i++) {
          if (i) print all[i]
          if (absent || i != at) continue
          print begin returns
          for (k = 1; k <= m; k++) print content[k] returns
          print end returns
        }
      }' part=1 - part=2 "$1"
}

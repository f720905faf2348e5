#!/bin/sh
# `make demo`: the whole system on this machine. A control plane with TLS and a fresh database, one enrolled daemon, and six
# directives through `mothership run`, each shown as it streams and held against what must come of it. Then a table of
# where the time went. Leaves nothing running and no files, whatever happens; KEEP=1 leaves both running and says how to go on.
set -eu
cd "$(dirname "$0")/.."
mothership=$PWD/mothership nexusd=$PWD/nexusd
for program in "$mothership" "$nexusd"; do
    [ -x "$program" ] || { echo "no $program: run make build first" >&2; exit 1; }
done

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    escape=$(printf '\033')
    bold="${escape}[1m" dim="${escape}[2m" green="${escape}[32m" red="${escape}[31m" plain="${escape}[0m"
else
    bold='' dim='' green='' red='' plain=''
fi

# --- the stage: one directory, two processes, both taken down in the end ----------------------------------------------

home=$(mktemp -d "${TMPDIR:-/tmp}/nexus-demo.XXXXXX")
data=$home/mothership
export MOTHERSHIP_DATA_DIR="$data" # every `mothership` below finds address, CA and token there
control_pid='' daemon_pid=''

# Ends a process of ours and waits until it is gone, at most 10 s.
end() {
    [ -n "$1" ] && kill "$1" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$1" 2>/dev/null || true
}

clean_up() {
    status=$?
    trap - EXIT INT TERM HUP
    if [ "$status" -ne 0 ]; then
        for log in nexusd mothership; do
            [ ! -s "$home/$log.log" ] || { printf '\nThe last lines of %s:\n' "$log" && tail -n 15 "$home/$log.log"; } >&2
        done
    fi
    end "$daemon_pid"
    end "$control_pid"
    rm -rf "$home"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Waits until a file of ours is there; fails when the process that is to make it dies, or after 10 s.
wait_for() { # file, process, what is being waited for
    for _ in $(seq 400); do
        [ ! -s "$1" ] || return 0
        kill -0 "$2" 2>/dev/null || { echo "$3 ended before it was ready" >&2; exit 1; }
        sleep 0.025
    done
    echo "$3 was not ready within 10 s" >&2
    exit 1
}

printf '%sNexus demo%s  %s\n\n' "$bold" "$plain" "$("$nexusd" -version)"

"$mothership" serve --listen 127.0.0.1:0 >"$home/mothership.log" 2>&1 </dev/null &
control_pid=$!
wait_for "$data/address" "$control_pid" mothership
url=$(cat "$data/address")
printf '  mothership   %s   (TLS by its own CA, SQLite in %s)\n' "$url" "$data"

"$mothership" enroll-token create >"$home/token"
cat >"$home/nexusd.yaml" <<CONFIG
server_url: "$url"
name: demo
work_dir: "$home/facilities"
supported_sandbox_profiles: [untrusted, host]
max_concurrent_directives: 2
min_free_bytes: 104857600
tls:
  client_cert_file: "$home/credentials/client.pem"
  client_key_file: "$home/credentials/client-key.pem"
  ca_file: "$home/credentials/ca.pem"
CONFIG
"$nexusd" -config "$home/nexusd.yaml" --enroll-token-file "$home/token" -enroll-out-dir "$home/credentials" >"$home/enrolled.json"
rm "$home/token"
"$nexusd" -config "$home/nexusd.yaml" >"$home/nexusd.log" 2>&1 </dev/null &
daemon_pid=$!
printf '  nexusd       enrolled with its own key, polling   (profiles untrusted and host)\n'

facility=workshop
id=$("$mothership" facility create "$facility")
printf '  facility     %s   (%s)\n' "$facility" "$id"

# --- six directives ---------------------------------------------------------------------------------------------------

failures=0
number=0
codes=''

# Runs one directive and holds its exit code, and a line of its output, against what must come of it.
# directive EXPECTED_CODE EXPECTED_TEXT TITLE SHOWN_COMMAND [flags of mothership run…] -- COMMAND
directive() {
    wanted=$1 text=$2 title=$3 shown=$4
    shift 4
    number=$((number + 1))
    printf '\n%s%d. %s%s\n' "$bold" "$number" "$title" "$plain"
    printf '%s\n' "$shown" | sed "s/^/   $dim\$ /; s/\$/$plain/"
    { "$mothership" run "$@" 2>&1 </dev/null && echo 0 >"$home/status" || echo $? >"$home/status"; } |
        tee "$home/output.$number" | sed -u 's/^/   │ /'
    code=$(cat "$home/status")
    codes="$codes $code"
    verdict="${green}as expected${plain}"
    case $wanted in
    nonzero) [ "$code" -ne 0 ] || verdict="${red}expected a failure${plain}" ;;
    *) [ "$code" -eq "$wanted" ] || verdict="${red}expected $wanted${plain}" ;;
    esac
    grep -q -e "$text" "$home/output.$number" || verdict="${red}nothing in it matches '$text'${plain}"
    case $verdict in *'as expected'*) ;; *) failures=$((failures + 1)) ;; esac
    printf '   └ exit %s, %s\n' "$code" "$verdict"
}

source=$(tar -cz -C "$PWD/tools/demo" wordfreq -C "$PWD" LICENSE | base64)
directive 0 'ok .*the most frequent first' \
    'Untrusted: build a small C program, test it, and put it to work on real input' \
    "echo [tools/demo/wordfreq and LICENSE, packed] | base64 -d | tar -xz
cd wordfreq && make test && ./wordfreq 5 <../LICENSE" \
    --facility "$facility" -- "echo '$source' | base64 -d | tar -xz
        cd wordfreq && make --no-print-directory test && ./wordfreq 5 <../LICENSE"

directive 0 'wordfreq' \
    'Untrusted, the same facility: what the first one left is still there' \
    "ls -l wordfreq && echo to be or not to be | ./wordfreq 2" \
    --facility "$facility" -- 'cd wordfreq && ls -l wordfreq && echo to be or not to be | ./wordfreq 2'

directive nonzero 'NOT_IN_ALLOWLIST' \
    'Untrusted, allowed to reach deb.debian.org:80 only: another host' \
    'curl -sS --fail-with-body http://example.com/' \
    --facility "$facility" --allow deb.debian.org:80 -- 'curl -sS --fail-with-body http://example.com/'

directive 124 'counting' \
    'Untrusted, one second of time: a command that would take an hour' \
    'echo counting sheep; sleep 3600' \
    --facility "$facility" --timeout 1s -- 'echo counting sheep; sleep 3600'

confinement=$(cat tools/demo/confinement.sh)
directive 0 'NoNewPrivs *1' \
    'Untrusted: what confines it' \
    'tools/demo/confinement.sh' \
    --facility "$facility" -- "$confinement"

directive 0 'NoNewPrivs' \
    'Host, a facility of its own: the same look around, from outside any sandbox' \
    'tools/demo/confinement.sh' \
    --profile host -- "$confinement"

# --- what it took -----------------------------------------------------------------------------------------------------

printf '\n%sWhere the time went%s, by the control plane\n\n' "$bold" "$plain"
"$mothership" ls --json --limit "$number" | awk -v codes="$codes" -f tools/demo/summary.awk
printf '\n'

if [ "$failures" -ne 0 ]; then
    printf '%s%d of %d directives did not end as they must.%s\n' "$red" "$failures" "$number" "$plain"
    exit 1
fi
printf '%sAll %d directives ended as they must.%s\n' "$green" "$number" "$plain"

if [ -n "${KEEP:-}" ]; then
    trap - EXIT INT TERM HUP
    cat <<NEXT

Both are still running. To go on:

  export MOTHERSHIP_DATA_DIR=$data
  ./mothership run --facility workshop -- 'ls -l; id'
  ./mothership run --allow deb.debian.org:80 -- curl -sI http://deb.debian.org/
  ./mothership ls
  tail -f $home/nexusd.log

To stop them and remove everything:

  kill $daemon_pid $control_pid; rm -rf $home
NEXT
fi

# What a command can see of its own confinement: proc(5), namespaces(7), capabilities(7), seccomp(2).
field() { sed -n "s/^$1:[[:space:]]*//p" /proc/self/status; }
row() { printf '%-14s %s\n' "$1" "$2"; }

row user "$(id -un 2>/dev/null || echo '(no name)'), uid $(id -u)"
row hostname "$(cat /proc/sys/kernel/hostname)"
for namespace in user mnt pid net ipc uts cgroup; do
    namespaces="${namespaces:-}${namespaces:+ }$(readlink /proc/self/ns/$namespace)"
done
row namespaces "$namespaces"
row processes "$(ls -d /proc/[0-9]* | wc -l) visible"
row NoNewPrivs "$(field NoNewPrivs)"
row seccomp "$(field Seccomp) (2: a filter), $(field Seccomp_filters) filter(s)"
row capabilities "effective $(field CapEff), bounding $(field CapBnd)"
row interfaces "$(sed -n 's/^ *\([^ :]*\):.*/\1/p' /proc/net/dev | tr '\n' ' ')"
row routes "$(($(wc -l </proc/net/route) - 1))"
row / "$(ls / | tr '\n' ' ')"
row /etc "$(ls /etc | wc -l) entries"
row /home "$(ls /home 2>/dev/null | wc -l) entries"

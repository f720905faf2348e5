# `mothership ls --json` (one line: an array of directives, newest first) as a table, oldest first: where the time of
# each directive went, by the control plane's own timestamps. -v codes='0 0 56 …': the exit codes as they were seen.

# Milliseconds of the day of an RFC 3339 time; negative where there is none.
function moment(text) {
    if (length(text) < 19) return -1
    return ((substr(text, 12, 2) * 60 + substr(text, 15, 2)) * 60 + substr(text, 18) + 0) * 1000
}

# From one moment to a later one, also across midnight.
function between(earlier, later) {
    if (earlier < 0 || later < 0) return "-"
    return sprintf("%.1f", later >= earlier ? later - earlier : later - earlier + 86400000)
}

# Only what stands directly in a directive counts (depth 2): its specification and result have keys of the same names.
function read(json,    i, n, c, depth, inside, escaped, word, key) {
    n = length(json)
    for (i = 1; i <= n; i++) {
        c = substr(json, i, 1)
        if (inside) {
            if (escaped) { escaped = 0; if (depth == 2) word = word c }
            else if (c == "\\") escaped = 1
            else if (c != "\"") { if (depth == 2) word = word c }
            else {
                inside = 0
                if (depth == 2 && substr(json, i + 1, 1) == ":") key = word
                else if (depth == 2 && key != "") value[count, key] = word
            }
        }
        else if (c == "\"") { inside = 1; word = "" }
        else if (c == "{" || c == "[") { if (++depth == 2) { count++; key = "" } }
        else if (c == "}" || c == "]") depth--
    }
}

{ read($0) }

END {
    split(codes, code, " ")
    printf "     %-10s %-10s %5s %12s %12s %12s %12s\n", "profile", "ended", "exit", "queued ms", "starting ms", "running ms", "in all ms"
    for (d = count; d >= 1; d--) {
        queued = moment(value[d, "queued_at"]); leased = moment(value[d, "leased_at"])
        started = moment(value[d, "started_at"]); finished = moment(value[d, "finished_at"])
        printf "  %d. %-10s %-10s %5s %12s %12s %12s %12s\n", count - d + 1, value[d, "sandbox_profile"], value[d, "state"], \
            code[count - d + 1], between(queued, leased), between(leased, started), between(started, finished), between(queued, finished)
    }
    exit count == 0
}

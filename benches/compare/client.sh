# Runs a command as the client, at most for so long: client.sh OUT LIMIT SIGNAL DESTINATION COMMAND...
# OUT/times gets when it began, when it ended, its exit code, and what had arrived if it was stopped (else -).
out=$1 limit=$2 signal=$3 destination=$4
shift 4
arrived() { # Bytes of content that are there: what is announced and not yet written is a hole, and does not count.
    find "$destination" -type f -printf '%s %b\n' | awk '{ b = $2 * 512; sum += b < $1 ? b : $1 } END { printf "%d", sum }'
}
begin=$EPOCHREALTIME
"$@" >"$out/client.out" 2>"$out/client.err" &
client=$!
{
    sleep "$limit"
    # While it runs: some take away what is incomplete when they are ended.
    # A name appears only with all of it, so that one that ends just now is not read half as stopped.
    at=$EPOCHREALTIME
    echo "$at $(arrived)" >"$out/stopping"
    mv "$out/stopping" "$out/stopped"
    kill -s "$signal" $client
    sleep 5
    kill -s KILL $client
} 2>/dev/null &
wait $client
code=$?
end=$EPOCHREALTIME arrived=-
[[ ! -e $out/stopped ]] || read -r end arrived <"$out/stopped"
echo "$begin $end $code $arrived" >"$out/times"

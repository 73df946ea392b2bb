#!/bin/sh
# Start windlass, having first written the FoundationDB cluster file where a container is told its contents.
#
# The file is written only when it is absent: the client library rewrites it when the cluster moves to other
# coordinators, and an old copy from the environment must not undo that.
set -eu

if [ -n "${FDB_CLUSTER_FILE_CONTENTS:-}" ]; then
    : "${FDB_CLUSTER_FILE:?name the file that FDB_CLUSTER_FILE_CONTENTS is for}"
    if [ ! -s "$FDB_CLUSTER_FILE" ]; then
        mkdir -p "$(dirname "$FDB_CLUSTER_FILE")"
        printf '%s\n' "$FDB_CLUSTER_FILE_CONTENTS" > "$FDB_CLUSTER_FILE"
    fi
fi

exec windlass "$@"

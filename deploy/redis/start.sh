#!/bin/sh
# Starts a Redis that only the user `taskwire` may enter, with the rights that the service needs and no others. The password comes by standard
# input, so that it stands in no list of processes. Arguments are those of redis-server.
set -eu
: "${REDIS_PASSWORD:?}"
# Nothing in Redis has to outlive it.
exec redis-server - "$@" <<CONF
save ""
appendonly no
protected-mode no
user default off
user taskwire on >$REDIS_PASSWORD ~{taskwire}:* &taskwire:* "&taskwire:socket.io#/#*" "&taskwire:socket.io#/api/ws/tasks#*" +@all -@dangerous
CONF

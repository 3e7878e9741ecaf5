#!/bin/sh
# Prints the store's users (an `aclfile`) with the least that each needs; the passwords stand in files.
#
#   sh users.sh FOLDER > users.acl      FOLDER holds the files api_password, worker_password and keys_password
#
# Scripts run with the rights of whoever calls them: what they do stands here, too. Whoever adds a command to the code adds
# it here; every test with real processes runs under these users and fails where one is missing.
set -eu
folder=${1:?the folder of the password files}

# The file's only secret is a hash: what is stolen with it opens nothing, if the passwords are long.
hash_of() {
  password=$(tr -d '\r\n' < "$folder/$1_password")  # as nodes and workers read it
  [ ${#password} -ge 16 ] || { echo "$folder/$1_password: 16 characters at least" >&2; exit 1; }
  printf '#%s' "$(printf %s "$password" | sha256sum | cut -d' ' -f1)"
}

of_api=$(hash_of api)
of_worker=$(hash_of worker)
of_keys=$(hash_of keys)

session="+ping +select +client|setinfo +client|setname +multi +exec +time +wait"
# Turns, seats, places, tokens a day, and how full the store is.
limits="+zcount +zrangebyscore +zremrangebyscore +zpopmin +incrby +info"
scripts="+eval +evalsha +script|load"
# One job's record, log, lease, operations, tombstone (shared/storage/scripts), and its notices.
job="+hget +hgetall +hmget +hexists +hset +hsetnx +hdel +hincrby +get +set +del +exists +pttl +pexpire +pexpireat"
job="$job +xadd +xrange +xrevrange +publish +subscribe +unsubscribe"
# The index of open jobs, the queue and its wake list, the reaper's lock: reapers are in all processes.
control="+zadd +zrem +zrange +zcard +zscore +zremrangebyrank +lpush +ltrim"
# arq's own: it takes from the queue under WATCH, and asks at its start how the server is.
arq="+watch +unwatch +zincrby +psetex +setex +expire +brpop +rpush +dbsize"
compaction="+copy +unlink +xlen +pexpiretime"

jobs_keys="~tailrace:{*"
control_keys="~tailrace:open ~tailrace:ended ~tailrace:jobs:* ~tailrace:wake ~tailrace:reaper ~tailrace:watched"
control_keys="$control_keys ~tailrace:queue ~arq:job:* ~tailrace:turns ~tailrace:taken ~tailrace:waiting:*"
control_keys="$control_keys ~tailrace:running:* ~tailrace:places:* ~tailrace:tokens:* ~tailrace:starts"
channels="&tailrace:{* &tailrace:worker:*"

echo "user default off resetpass resetkeys resetchannels -@all"
# An API node: makes, shows and ends jobs; reads API keys, which it cannot make; never touches arq's own marks.
echo "user api on resetpass $of_api resetkeys resetchannels -@all" \
  "$jobs_keys $control_keys ~tailrace:idem:* %R~arq:in-progress:* ~tailrace:permits:* ~tailrace:readers:* ~tailrace:share:*" \
  "%R~tailrace:keys %R~tailrace:keys:version ~tailrace:keys:used ~tailrace:keys:signing" \
  "$channels $session $scripts $job $control $limits +zremrangebylex +zrevrangebylex +zrandmember +hvals"
# A worker: takes jobs, writes logs; knows neither API keys nor signing keys nor Idempotency-Keys.
echo "user worker on resetpass $of_worker resetkeys resetchannels -@all" \
  "$jobs_keys $control_keys ~tailrace:queue:health-check ~arq:in-progress:* ~arq:retry:* ~arq:result:* ~arq:abort" \
  "$channels $session $scripts $job $control $limits $arq $compaction"
# `tailrace keys`, run by an operator: API keys and signing keys, and nothing of any job.
echo "user keys on resetpass $of_keys resetkeys resetchannels -@all" \
  "~tailrace:keys ~tailrace:keys:*" \
  "+ping +select +client|setinfo +client|setname +multi +exec +hget +hgetall +hvals +hset +hsetnx +hdel +get +incr"
# Whoever asks whether the server lives.
echo "user health on nopass resetkeys resetchannels -@all +ping"

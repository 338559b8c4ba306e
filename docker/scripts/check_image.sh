#!/usr/bin/env bash
# Build docker/Dockerfile with a rootless builder and run the image, on a Debian machine without a container engine.
#
# buildah builds in a chroot. Its base image is not pulled: it is a fresh Debian tree with Python, made by debootstrap, under
# the name that the Dockerfile gives. So every RUN, COPY and USER line is carried out, and CMD and HEALTHCHECK are run.
# Needs root, the packages buildah and debootstrap, Debian's mirror and PyPI. Takes about two minutes; leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

for command in buildah debootstrap; do
    command -v "$command" >/dev/null || { echo "check_image: install $command first: apt-get install buildah debootstrap" >&2; exit 2; }
done

python=${PYTHON:-.venv/bin/python}
work=$(mktemp -d -t relay-image-XXXXXX)
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_POLICY=$work/policy.json
printf '[storage]\ndriver = "vfs"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' "$work" "$work" >"$CONTAINERS_STORAGE_CONF"
printf '{"default": [{"type": "insecureAcceptAnything"}]}\n' >"$CONTAINERS_POLICY"
children=()
finish() {
    for child in "${children[@]}"; do kill -KILL "$child" 2>/dev/null || true; done
    wait || true
    buildah rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

base=$(sed -n 's/^FROM \(\S*\).*/\1/p' docker/Dockerfile | head -1)
echo "== A base image for $base: a fresh Debian tree"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv bookworm "$work/tree" >"$work/debootstrap.log"
ln -s /usr/bin/python3 "$work/tree/usr/local/bin/python"
cp /etc/ssl/certs/ca-certificates.crt "$work/tree/etc/ssl/certs/ca-certificates.crt"
container=$(buildah from scratch)
buildah copy --quiet "$container" "$work/tree" / >/dev/null
buildah config --env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$container"
buildah commit --quiet --signature-policy "$CONTAINERS_POLICY" "$container" "docker.io/library/$base" >/dev/null
rm -rf "$work/tree"

echo "== Build docker/Dockerfile"
buildah bud --quiet --format docker --pull-never --network host --signature-policy "$CONTAINERS_POLICY" \
    --file docker/Dockerfile --tag trio-relay . >/dev/null

echo "== Run it, as its own user"
ports=($("$python" -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in sockets))'))
redis=$("$python" -c 'from relay.broker.embedded import server_binary; print(server_binary())')
"$redis" --bind 127.0.0.1 --port "${ports[0]}" --save "" --dir "$work" >"$work/redis.log" &
children+=($!)
container=$(buildah from --pull-never --signature-policy "$CONTAINERS_POLICY" trio-relay)
in_container() { # in_container COMMAND...: run it with the image's user, environment and root
    ${wrapper:-} buildah run --network host --env "RELAY_HOST=127.0.0.1" --env "RELAY_PORT=${ports[1]}" \
        --env "REDIS_URL=redis://127.0.0.1:${ports[0]}/0" "$container" -- "$@"
}
# In a process namespace of its own: whatever buildah starts in the chroot ends with it.
wrapper="exec unshare --pid --fork --kill-child" in_container relay serve >"$work/relay.log" 2>&1 &
children+=($!)
for _ in $(seq 100); do
    if in_container python /opt/relay/healthcheck.py >/dev/null 2>&1; then
        in_container relay publish task image progress=1 >/dev/null
        [ "$(in_container id -u)" = 10001 ] || { echo "check_image: the container does not run as user 10001" >&2; exit 1; }
        echo "1 passed, 0 failed"
        exit 0
    fi
    sleep 0.2
done
echo "check_image: the image's health check does not succeed; its log:" >&2
cat "$work/relay.log" >&2
exit 1

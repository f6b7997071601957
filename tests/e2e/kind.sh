#!/bin/sh
# The end-to-end scenarios on kind: a cluster that exists. Scenarios that need a node of their own (they kill the daemon or restart kubelet) are skipped.
#
#   sh tests/e2e/kind.sh
set -eu
cd "$(dirname "$0")/../.."

kind_version=v0.30.0
driver_version=1.6.0
image=registry.example/keyferry:0.1.0

work=$(mktemp -d)
trap 'exit 1' HUP INT TERM
trap 'rm -rf "$work"' EXIT

# The Go module proxy has checksums, which Go verifies.
GOBIN=$work go install "sigs.k8s.io/kind@$kind_version"
"$work/kind" create cluster --name keyferry --kubeconfig "$work/kubeconfig" --wait 120s
trap '"$work/kind" delete cluster --name keyferry; rm -rf "$work"' EXIT
export KUBECONFIG="$work/kubeconfig"

docker build -f deploy/Dockerfile -t "$image" .
"$work/kind" load docker-image --name keyferry "$image"

helm repo add secrets-store-csi-driver https://kubernetes-sigs.github.io/secrets-store-csi-driver/charts
helm upgrade --install csi-secrets-store secrets-store-csi-driver/secrets-store-csi-driver --version "$driver_version" \
    --namespace kube-system --values deploy/manifests/driver/values.yaml --wait --timeout 5m

# The scenarios run the program on this machine too.
container=$(docker create "$image")
docker cp "$container:/keyferry" "$work/keyferry"
docker rm "$container" >/dev/null
KEYFERRY_BINARY=$work/keyferry make e2e

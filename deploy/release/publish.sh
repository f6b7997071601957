#!/bin/sh
# Publishes dist/, which `make release` made. One step per call, in this order; .github/workflows/release.yaml runs them.
#
#   publish.sh image      pushes the image and signs it. IMAGE is where to, without a tag; GH_TOKEN is the registry's password, if it asks for one
#   publish.sh sign       signs SHA256SUMS, and so every file
#   publish.sh publish    makes the release on GitHub, with all files
#
# The signatures are Sigstore's, without a key: they say which workflow signed. By hand, cosign opens a browser and the signature says who you are.
set -eu
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
archive=dist/keyferry-$version-image.tar

fail() {
    echo "make release-$step: $1" >&2
    exit 2
}

needs() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "$tool is needed: put it on PATH"
    done
}

image() {
    needs skopeo cosign
    : "${IMAGE:?where the image goes, such as ghcr.io/OWNER/keyferry}"
    digest=$(cat "dist/keyferry-$version-image.digest")
    if [ -n "${GH_TOKEN:-}" ]; then
        # The file that cosign and the attestation read too.
        login=${DOCKER_CONFIG:-$HOME/.docker}
        mkdir -p "$login"
        printf %s "$GH_TOKEN" | skopeo login --authfile "$login/config.json" --username "${GITHUB_ACTOR:-keyferry}" --password-stdin "${IMAGE%%/*}"
    fi
    if skopeo inspect --raw "docker://$IMAGE:$version" >dist.pushed 2>/dev/null; then
        pushed=sha256:$(sha256sum <dist.pushed | cut -d ' ' -f 1)
        [ "$pushed" = "$digest" ] || fail "$IMAGE:$version is there already, and is another image, $pushed (a version that was published never changes: make a new one)"
    else
        skopeo copy --all --preserve-digests "oci-archive:$archive" "docker://$IMAGE:$version"
    fi
    cosign sign --yes "$IMAGE@$digest"
    if [ -n "${GITHUB_OUTPUT:-}" ]; then echo "digest=$digest" >>"$GITHUB_OUTPUT"; fi
}

sign() {
    needs cosign
    cosign sign-blob --yes --bundle dist/SHA256SUMS.sigstore.json dist/SHA256SUMS
}

publish() {
    needs gh
    [ -e dist/SHA256SUMS.sigstore.json ] || fail "dist/SHA256SUMS.sigstore.json: does not exist (run make release-sign first)"
    awk -v heading="## [$version]" 'index($0, "## [") == 1 { on = index($0, heading) == 1; next } on' CHANGELOG.md >dist.notes
    gh release create "v$version" --verify-tag --title "Keyferry $version" --notes-file dist.notes dist/*
}

trap 'rm -f dist.notes dist.pushed' EXIT
step=${1:-}
case $step in
    image | sign | publish) ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
[ -e dist/SHA256SUMS ] || fail "dist/SHA256SUMS: does not exist (run make release first)"
(cd dist && sha256sum --quiet --check SHA256SUMS) || fail "dist/ is not what make release made (run it again)"
"$step"

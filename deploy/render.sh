#!/usr/bin/env bash
# Writes deploy/manifests/inspector.yaml: the chart with its default values, for who has no helm. Needs
# helm, version 3 or 4, and nothing from the network. A test compares the digest in the header with the
# chart.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")"

digest=$(cat chart/Chart.yaml chart/values.yaml chart/templates/* | sha256sum | cut -d ' ' -f 1)
mkdir -p manifests
{
  cat <<HEADER
# Inspector for Kubernetes 1.30 or later, in the namespace kube-system. Put your image into the DaemonSet
# (\`image: "inspector:\`) and apply it: kubectl apply -f inspector.yaml
#
# Not edited by hand: deploy/render.sh makes it from deploy/chart with the default values by
#   helm template inspector deploy/chart --namespace kube-system
# chart: sha256 $digest
HEADER
  helm template inspector chart --namespace kube-system
} > manifests/inspector.yaml.tmp
mv manifests/inspector.yaml.tmp manifests/inspector.yaml

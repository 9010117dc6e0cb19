package main

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
)

// kubenetBridge is the bridge that kubenet makes for the first pod of a node. Kubelets
// since 1.24 have no flag that tells of kubenet: AKS has it made by the CNI plugins.
const kubenetBridge = "cbr0"

// errKubenet is about kubenet, on whose bridge a pod with CAP_NET_RAW can send from
// another pod's address and so get its tokens (CVE-2021-1677).
var errKubenet = errors.New("AAD Pod Identity is not supported for Kubenet: pods can spoof each other's address there (CVE-2021-1677); --allow-network-plugin-kubenet=true starts it all the same")

// checkNetworkPlugin refuses kubenet by the flags of older kubelets.
func checkNetworkPlugin(file string, allow bool) error {
	if allow {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return run.Usagef("looking for kubenet in --kubelet-config: %w (an empty file will do where the kubelet has none; --allow-network-plugin-kubenet skips the check)", err)
	}
	if strings.Contains(string(data), "--network-plugin=kubenet") {
		return errKubenet
	}
	return nil
}

// watchForKubenet ends with errKubenet when the node has kubenet's bridge, which comes
// with its first pod, or with ctx.
func watchForKubenet(ctx context.Context, interval time.Duration, find func(name string) (*net.Interface, error)) error {
	return wait.PollUntilContextCancel(ctx, interval, true, func(context.Context) (bool, error) {
		if _, err := find(kubenetBridge); err == nil {
			return false, errKubenet
		}
		return false, nil // there is none, or we shall see the next time
	})
}

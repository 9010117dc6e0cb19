package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

// insideCommand is the name under which this program runs a scenario of NMI in the
// node's network namespace.
const insideCommand = "nmi-inside"

// nmiMeasures are the measurements of NMI's scenarios, by the scenario's name.
func nmiMeasures() map[string]func(context.Context, *nmiWorld) ([]Result, error) {
	return map[string]func(context.Context, *nmiWorld) ([]Result, error){
		"nmi-throughput": nmiThroughput,
		"nmi-cold":       nmiCold,
		"nmi-wake":       nmiWake,
		"nmi-memory":     nmiMemory,
		"nmi-churn":      nmiChurn,
	}
}

// nmiScenario makes the network and runs a measurement in it, all of which, also
// API server and emulator, is then in the node's namespace.
func nmiScenario(name string) scenario {
	return scenario{name, func(ctx context.Context, e *environment) (_ []Result, err error) {
		remove, err := nodeNetwork(ctx, name)
		if remove != nil {
			defer func() { err = errors.Join(err, remove()) }()
		}
		if err != nil {
			return nil, err
		}
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding this program: %w", err)
		}
		out := filepath.Join(e.dir, name+".json")
		cmd := exec.CommandContext(ctx, "ip", "netns", "exec", nodeNamespace(name), self, insideCommand, name, e.assets, out, e.churn.String())
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("in the node's network: %w", err)
		}
		raw, err := os.ReadFile(out)
		if err != nil {
			return nil, fmt.Errorf("reading the figures: %w", err)
		}
		var results []Result
		if err := json.Unmarshal(raw, &results); err != nil {
			return nil, fmt.Errorf("reading the figures: %w", err)
		}
		return results, nil
	}}
}

// insideMain is the program in the node's namespace.
func insideMain(ctx context.Context, args []string) (err error) {
	if len(args) != 4 {
		return fmt.Errorf("usage: %s SCENARIO ASSETS OUT CHURN", insideCommand)
	}
	churn, err := time.ParseDuration(args[3])
	if err != nil {
		return fmt.Errorf("how long pods come and go: %w", err)
	}
	measure, ok := nmiMeasures()[args[0]]
	if !ok {
		return fmt.Errorf("there is no scenario %q", args[0])
	}
	dir, err := os.MkdirTemp("", "aad-pod-identity-bench-")
	if err != nil {
		return fmt.Errorf("making a working directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	w, err := newNMIWorld(ctx, args[0], &environment{dir: dir, assets: args[1], churn: churn})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	results, err := measure(ctx, w)
	if err != nil {
		return err
	}
	return writeJSON(args[2], results)
}

// nmiWorld is a real API server, the emulator with the IMDS of one VM, and NMI.
type nmiWorld struct {
	*micWorld
	scenario string
	nmi      *process
	metrics  string
	bare     *process
}

var nmiVM = azure.VMID(micSubscription, micNodeGroup, "vm")

func newNMIWorld(ctx context.Context, scenario string, e *environment) (_ *nmiWorld, err error) {
	cloud, err := newCloud(ctx, e, "--imds=listen="+metadataIP+":80,resource="+nmiVM)
	if err != nil {
		return nil, err
	}
	return &nmiWorld{micWorld: cloud, scenario: scenario}, nil
}

func (w *nmiWorld) close() error {
	var errs []error
	for _, p := range []*process{w.nmi, w.bare} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(append(errs, w.micWorld.close())...)
}

// putIdentities makes identities in Azure, all of them on the VM.
func (w *nmiWorld) putIdentities(ctx context.Context, n int) ([]azure.Identity, error) {
	ids := make([]azure.Identity, n)
	vm := azure.Compute{ID: nmiVM}
	for i := range ids {
		var err error
		if ids[i], err = w.control.PutIdentity(ctx, azure.Identity{ID: azure.IdentityID(micSubscription, micIDGroup, identityName(i))}); err != nil {
			return nil, err
		}
		vm.UserAssigned = append(vm.UserAssigned, azure.Assignment{ID: ids[i].ID})
	}
	_, err := w.control.PutCompute(ctx, vm)
	return ids, err
}

// startNMI starts NMI with default flags, but for what says where it is, and waits
// until it is ready.
func (w *nmiWorld) startNMI(ctx context.Context) error {
	binary, err := w.e.build(ctx, "./nmi")
	if err != nil {
		return err
	}
	kubelet := filepath.Join(w.e.dir, "kubelet")
	if err := os.WriteFile(kubelet, nil, 0o600); err != nil {
		return fmt.Errorf("writing the kubelet's configuration: %w", err)
	}
	probe, err := freeport.Find()
	if err != nil {
		return err
	}
	if w.metrics, err = freeport.Find(); err != nil {
		return err
	}
	w.nmi, err = w.e.start(ctx, binary, "--kubeconfig="+w.kubeconfig, "--node="+nodeName(0), "--nmi-listen-address="+nmiNodeIP,
		"--kubelet-config="+kubelet, "--http-probe-port="+probe, "--prometheus-port="+w.metrics)
	if err != nil {
		return err
	}
	if err := waitReady(ctx, probe); err != nil {
		raw, _ := os.ReadFile(w.nmi.log) // the error is what matters
		return fmt.Errorf("NMI: %w: %s", err, raw)
	}
	return nil
}

func (w *nmiWorld) stopNMI() error {
	p := w.nmi
	w.nmi = nil
	return p.stop()
}

// startBare starts the baseline, which answers with a body.
func (w *nmiWorld) startBare(ctx context.Context, body []byte) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	file := filepath.Join(w.e.dir, "answer")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	const port = "2580"
	if err := redirectBare(port); err != nil {
		return err
	}
	if w.bare, err = w.e.start(ctx, self, bareCommand, nmiNodeIP+":"+port, file); err != nil {
		return err
	}
	return poll(ctx, time.Minute, "the baseline", func() error {
		_, err := fetch(ctx, "http://"+nmiNodeIP+":"+port)
		return err
	})
}

// runPods makes pods on the node, as the kubelet reports them, from one number to
// another.
func (w *nmiWorld) runPods(ctx context.Context, from, to int) error {
	return inParallel(ctx, to-from, func(ctx context.Context, i int) error {
		i += from
		p, err := w.clientset.CoreV1().Pods(micNamespace).Create(ctx, podOn(nodeName(0), podName(i)), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		p.Status = runningAt(podIP(i))
		_, err = w.clientset.CoreV1().Pods(micNamespace).UpdateStatus(ctx, p, metav1.UpdateOptions{})
		return err
	})
}

// podOn is a pod with the label that identities are bound to, on a node.
func podOn(node, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: name, Labels: map[string]string{v1.BindingLabelKey: "sel"}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
}

// runningAt is what the kubelet reports of a pod that runs.
func runningAt(address string) corev1.PodStatus {
	return corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}},
		HostIP: nmiNodeIP, HostIPs: []corev1.HostIP{{IP: nmiNodeIP}},
	}
}

// assignedIdentity is what MIC writes about a pod.
func assignedIdentity(pod, node string, id azure.Identity, status string) *v1.AzureAssignedIdentity {
	name := id.ID[strings.LastIndex(id.ID, "/")+1:]
	return &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: pod + "-default-" + name, Labels: map[string]string{v1.NodeNameLabelKey: node}},
		Spec: v1.AzureAssignedIdentitySpec{
			Pod: pod, PodNamespace: micNamespace, NodeName: node,
			AzureIdentityRef: &v1.AzureIdentity{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentity},
				ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: name},
				Spec:       v1.AzureIdentitySpec{ClientID: id.ClientID, ResourceID: id.ID},
			},
			AzureBindingRef: &v1.AzureIdentityBinding{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentityBinding},
				ObjectMeta: metav1.ObjectMeta{Namespace: micNamespace, Name: name},
				Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: "sel"},
			},
		},
		Status: v1.AzureAssignedIdentityStatus{Status: status},
	}
}

// assignAll gives pods an identity, these taking turns.
func (w *nmiWorld) assignAll(ctx context.Context, from, to int, ids []azure.Identity) error {
	return inParallel(ctx, to-from, func(ctx context.Context, i int) error {
		i += from
		return w.client.Create(ctx, assignedIdentity(podName(i), nodeName(0), ids[i%len(ids)], v1.AssignedIDAssigned))
	})
}

const (
	tokenPath   = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
	metadataTo  = metadataIP + ":80"
	bareTo      = bareIP + ":80"
	ticksSecond = 100 // of /proc/<pid>/stat, on every Linux that Go runs on
)

// processor is the processor time that a process has used.
func (p *process) processor() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of %s: %w", p.cmd.Path, err)
	}
	// The name in parentheses can have spaces; utime and stime are the 12th and 13th fields after it (proc(5)).
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	const utime, stime = 11, 12
	if len(f) <= stime {
		return 0, fmt.Errorf("reading the processor time of %s: %q", p.cmd.Path, raw)
	}
	user, uerr := strconv.Atoi(f[utime])
	system, serr := strconv.Atoi(f[stime])
	return time.Duration(user+system) * time.Second / ticksSecond, errors.Join(uerr, serr)
}

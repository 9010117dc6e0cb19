package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	marker "github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/hookjob"
)

// cleanupOptions of the command. The names are the chart's.
type cleanupOptions struct {
	hookjob.Flags
	release string
	// configMap records MIC's type upgrade.
	configMap string
	// secrets hold the webhook's certificates.
	secrets []string
	// caSecret is where cert-manager puts the authority of the release's own issuer,
	// caIssuer: also one that the release no longer has. A Secret of that name that
	// another issuer signed, or nobody, is the user's.
	caSecret, caIssuer string
	// The Lease and, for rollbacks, the Endpoints by which MIC elects its leader.
	leaderElectionNamespace, leaderElectionName string
	pause                                       time.Duration
}

// CleanupCommand is the subcommand "cleanup", the chart's post-delete hook.
func CleanupCommand(ctx context.Context, args []string) error {
	o := cleanupOptions{Flags: hookjob.Flags{Timeout: 90 * time.Second}, pause: hookjob.Pause}
	fs := pflag.NewFlagSet("cleanup", pflag.ContinueOnError)
	o.AddFlags(fs)
	fs.StringVar(&o.release, "release", "", "name of the release")
	fs.StringVar(&o.configMap, "config-map-name", "aad-pod-identity-config", "ConfigMap that records MIC's upgrade of stored objects")
	fs.StringSliceVar(&o.secrets, "secrets", nil, "secrets of the webhook's certificates")
	fs.StringVar(&o.caSecret, "ca-secret", "", "secret of the webhook's own authority, deleted if --ca-issuer signed it")
	fs.StringVar(&o.caIssuer, "ca-issuer", "", "cert-manager's Issuer of that authority")
	fs.StringVar(&o.leaderElectionNamespace, "leader-election-namespace", "default", "namespace of MIC's leader election")
	fs.StringVar(&o.leaderElectionName, "leader-election-name", "aad-pod-identity-mic", "name of MIC's leader election")
	if done, err := o.Parse(fs, args); done || err != nil {
		return err
	}
	if o.release == "" {
		return run.Usagef("cleanup: --release is required")
	}
	c, err := newClient(&o.Flags)
	if err != nil {
		return err
	}
	return hookjob.Outcome(cleanup(ctx, c, o, os.Stdout))
}

// cleanup waits for the pods to end and deletes what is left. A pod that cannot
// end because its node does not answer is not waited for to the last.
func cleanup(ctx context.Context, c client.Client, o cleanupOptions, out io.Writer) error {
	progress := hookjob.NewProgress(out)
	var left podsLeft
	err := hookjob.Until(ctx, o.Timeout, o.pause, progress, func(ctx context.Context) (string, error) {
		pods := &corev1.PodList{}
		if err := c.List(ctx, pods, client.InNamespace(o.Namespace), client.MatchingLabels{"app.kubernetes.io/instance": o.release}); err != nil {
			return "", fmt.Errorf("listing the release's pods: %w", err)
		}
		left = remaining(pods.Items)
		return left.String(), nil
	})
	switch {
	case errors.Is(err, hookjob.ErrTimeout) && len(left.running) == 0 && len(left.ending) > 0:
		progress.Printf("note: %s; their nodes do not answer", left)
	case errors.Is(err, hookjob.ErrTimeout):
		return fmt.Errorf("the release's pods did not go: %w\nOnce they are gone: kubectl -n %s delete configmap %s %s",
			err, o.Namespace, marker.Name, o.configMap)
	case err != nil:
		return fmt.Errorf("waiting for the release's pods to go: %w", err)
	}
	objects, err := o.leftovers(ctx, c)
	if err != nil {
		return err
	}
	if err := deleteAll(ctx, c, objects, progress); err != nil {
		return fmt.Errorf("something is left over:\n%w", err)
	}
	progress.Printf("nothing is left but the CRDs and the objects that are yours")
	return nil
}

// podsLeft names pods that run on and pods that are ending.
type podsLeft struct{ running, ending []string }

// String says what is left, "" for nothing.
func (p podsLeft) String() string {
	var parts []string
	if len(p.running) > 0 {
		parts = append(parts, "running pods "+strings.Join(p.running, ", "))
	}
	if len(p.ending) > 0 {
		parts = append(parts, "ending pods "+strings.Join(p.ending, ", "))
	}
	return strings.Join(parts, "; ")
}

// components write to the cluster or to their node while they run.
var components = map[string]bool{"mic": true, "nmi": true, "webhook": true}

func remaining(pods []corev1.Pod) podsLeft {
	var left podsLeft
	for _, p := range pods {
		if !components[p.Labels["app.kubernetes.io/component"]] || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if p.DeletionTimestamp != nil {
			left.ending = append(left.ending, p.Name)
		} else {
			left.running = append(left.running, p.Name)
		}
	}
	return left
}

// leftovers lists what Helm does not know, the marker last.
func (o cleanupOptions) leftovers(ctx context.Context, c client.Client) ([]client.Object, error) {
	ledgers := &metav1.PartialObjectMetadataList{}
	ledgers.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
	if err := c.List(ctx, ledgers, client.InNamespace(o.Namespace), client.MatchingLabels{v1.LedgerLabelKey: "true"}); err != nil {
		return nil, fmt.Errorf("listing ownership ledgers: %w", err)
	}
	var objects []client.Object
	for _, l := range ledgers.Items {
		objects = append(objects, object("", "ConfigMap", o.Namespace, l.Name))
	}
	objects = append(objects,
		object("", "ConfigMap", o.Namespace, o.configMap),
		object("coordination.k8s.io", "Lease", o.leaderElectionNamespace, o.leaderElectionName),
		object("", "Endpoints", o.leaderElectionNamespace, o.leaderElectionName))
	for _, name := range o.secrets {
		objects = append(objects, object("", "Secret", o.Namespace, name))
	}
	ours, err := o.ownCA(ctx, c)
	if err != nil {
		return nil, err
	}
	if ours {
		objects = append(objects, object("", "Secret", o.Namespace, o.caSecret))
	}
	return append(objects, object("", "ConfigMap", o.Namespace, marker.Name)), nil
}

// issuerAnnotation is how cert-manager says in a Secret who signed it.
const issuerAnnotation = "cert-manager.io/issuer-name"

// ownCA reports whether the Secret of the authority is there, and the release's.
func (o cleanupOptions) ownCA(ctx context.Context, c client.Client) (bool, error) {
	if o.caSecret == "" || o.caIssuer == "" {
		return false, nil
	}
	secret := object("", "Secret", o.Namespace, o.caSecret)
	err := c.Get(ctx, client.ObjectKeyFromObject(secret), secret)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading Secret %s: %w", o.caSecret, err)
	}
	return err == nil && secret.GetAnnotations()[issuerAnnotation] == o.caIssuer, nil
}

func object(group, kind, namespace, name string) client.Object {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind})
	return o
}

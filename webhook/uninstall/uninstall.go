// Package uninstall takes the release out of a cluster by two Jobs of the chart.
//
// Before Helm deletes the release, Command has MIC take its identities off the
// VMs and then each NMI remove its redirect, by the handshake of
// internal/uninstall, and deletes the webhook configurations, which would outlive what
// answers them. After Helm has deleted the release, CleanupCommand
// waits for its pods to end and deletes what they and cert-manager left. The
// marker goes last of all: without it an NMI that still runs would put its
// redirect back, and MIC would assign again.
//
// Both may be ended at any point and run again.
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
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	marker "github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/hookjob"
)

// fieldOwner owns the marker's phase; MIC and NMI own their keys.
const fieldOwner = "aad-pod-identity-uninstall"

// options of the command. The names are the chart's.
type options struct {
	hookjob.Flags
	release       string
	micDeployment string // "" in managed mode
	nmiDaemonSet  string
	// webhookConfigurations name mutating and validating ones.
	webhookConfigurations []string
	pause                 time.Duration
}

// Command is the subcommand "uninstall", the chart's pre-delete hook.
func Command(ctx context.Context, args []string) error {
	o := options{Flags: hookjob.Flags{Timeout: 4 * time.Minute}, pause: hookjob.Pause}
	fs := pflag.NewFlagSet("uninstall", pflag.ContinueOnError)
	o.AddFlags(fs)
	fs.StringVar(&o.release, "release", "", "name of the release")
	fs.StringVar(&o.micDeployment, "mic-deployment", "", "name of MIC's Deployment; empty in managed mode")
	fs.StringVar(&o.nmiDaemonSet, "nmi-daemonset", "", "name of NMI's DaemonSet")
	fs.StringSliceVar(&o.webhookConfigurations, "webhook-configurations", nil, "names of the mutating and validating webhook configurations")
	if done, err := o.Parse(fs, args); done || err != nil {
		return err
	}
	if o.nmiDaemonSet == "" {
		return run.Usagef("uninstall: --nmi-daemonset is required")
	}
	c, err := newClient(&o.Flags)
	if err != nil {
		return err
	}
	return hookjob.Outcome(uninstall(ctx, c, o, os.Stdout))
}

func newClient(f *hookjob.Flags) (client.Client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, admissionv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering API types: %w", err)
		}
	}
	return f.Client(scheme)
}

// uninstall leads the handshake to its end.
func uninstall(ctx context.Context, c client.Client, o options, out io.Writer) error {
	progress := hookjob.NewProgress(out)
	said := map[string]bool{}
	var phase string
	err := hookjob.Until(ctx, o.Timeout, o.pause, progress, func(ctx context.Context) (string, error) {
		for {
			f, err := gather(ctx, c, o)
			if err != nil {
				return "", err
			}
			phase = f.marker[marker.PhaseKey]
			d := decide(f)
			for _, note := range d.notes {
				if !said[note] {
					said[note] = true
					progress.Printf("note: %s", note)
				}
			}
			if d.phase == "" {
				return strings.Join(d.waiting, "; "), nil
			}
			if err := setPhase(ctx, c, o.Namespace, d.phase); err != nil {
				return "", err
			}
			progress.Printf("%s", phaseText[d.phase])
		}
	})
	if errors.Is(err, hookjob.ErrTimeout) {
		return fmt.Errorf("the release could not be undone: %w\n%s", err, remedy(o.Namespace, o.release, phase))
	}
	if err != nil {
		return fmt.Errorf("undoing the release: %w", err)
	}
	if err := deleteAll(ctx, c, o.admissionObjects(), progress); err != nil {
		return err
	}
	progress.Printf("all identities and redirects are gone; Helm deletes the rest")
	return nil
}

var phaseText = map[string]string{
	marker.PhaseUnassign: "told MIC to take all identities off the VMs",
	marker.PhaseRedirect: "told every NMI to remove its redirect",
}

// setPhase writes the phase and leaves the keys of MIC and NMI alone.
func setPhase(ctx context.Context, c client.Client, namespace, phase string) error {
	cm := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1",
		"kind":       "ConfigMap",
		"metadata":   map[string]any{"namespace": namespace, "name": marker.Name},
		"data":       map[string]any{marker.PhaseKey: phase},
	}}
	err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(cm), client.ForceOwnership, client.FieldOwner(fieldOwner))
	if err != nil {
		return fmt.Errorf("writing phase %s to ConfigMap %s: %w", phase, marker.Name, err)
	}
	return nil
}

// admissionObjects are deleted here and not left to Helm, which deletes the
// webhook's pods before its configurations: in between, nobody could change an
// AzureIdentity. The policies are left to Helm, which deletes them last, after the
// DaemonSet: an NMI that still runs must not meet a forged AzureAssignedIdentity. They
// hold up nothing, since deletion passes them, and finalizers do.
func (o options) admissionObjects() []client.Object {
	var objects []client.Object
	for _, name := range o.webhookConfigurations {
		m := metav1.ObjectMeta{Name: name}
		objects = append(objects,
			&admissionv1.MutatingWebhookConfiguration{ObjectMeta: m}, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: m})
	}
	return objects
}

// deleteAll deletes the objects that are there and tries each of them.
func deleteAll(ctx context.Context, c client.Client, objects []client.Object, progress *hookjob.Progress) error {
	var errs []error
	for _, o := range objects {
		what := fmt.Sprintf("%s %s", kindOf(o, c.Scheme()), client.ObjectKeyFromObject(o).String())
		what = strings.Replace(what, " /", " ", 1)
		err := c.Delete(ctx, o)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			errs = append(errs, fmt.Errorf("deleting %s: %w", what, err))
		default:
			progress.Printf("deleted %s", what)
		}
	}
	return errors.Join(errs...)
}

func kindOf(o client.Object, scheme *runtime.Scheme) string {
	if kind := o.GetObjectKind().GroupVersionKind().Kind; kind != "" {
		return kind
	}
	if kinds, _, err := scheme.ObjectKinds(o); err == nil && len(kinds) > 0 {
		return kinds[0].Kind
	}
	return fmt.Sprintf("%T", o)
}

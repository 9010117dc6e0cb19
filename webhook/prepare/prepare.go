// Package prepare readies a cluster for an install, an upgrade or a rollback of
// the chart: it applies the CRDs, which Helm installs once and never upgrades,
// calls off an uninstallation that was begun and not finished, and deletes policies
// that the release is to do without. Helm would delete these after it had written
// everything else, and stops before if they refuse one of the release's own objects.
package prepare

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/aad-pod-identity/aad-pod-identity/charts"
	"github.com/aad-pod-identity/aad-pod-identity/internal/uninstall"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/hookjob"
)

// fieldOwner owns what is applied. It takes over the fields of whoever applied an
// older version, such as Helm for the CRDs of the 1.8 releases.
const fieldOwner = "aad-pod-identity"

// options of the command.
type options struct {
	hookjob.Flags
	// manageCRDs applies the CRDs; false leaves them to the user.
	manageCRDs bool
	// stalePolicies name policies, and their bindings, that are to be gone.
	stalePolicies []string
}

// Command is the subcommand "prepare", the chart's pre-install, pre-upgrade and
// pre-rollback hook.
func Command(ctx context.Context, args []string) error {
	o := options{Flags: hookjob.Flags{Timeout: 2 * time.Minute}, manageCRDs: true}
	fs := pflag.NewFlagSet("prepare", pflag.ContinueOnError)
	o.AddFlags(fs)
	fs.BoolVar(&o.manageCRDs, "manage-crds", o.manageCRDs, "apply the CRDs of this version")
	fs.StringSliceVar(&o.stalePolicies, "stale-policies", nil, "names of validating admission policies, and of their bindings, that the release does without")
	if done, err := o.Parse(fs, args); done || err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, apiextensionsv1.AddToScheme, admissionv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("registering API types: %w", err)
		}
	}
	c, err := o.Client(scheme)
	if err != nil {
		return err
	}
	crds, err := load()
	if err != nil {
		return err
	}
	return hookjob.Outcome(prepare(ctx, c, o, crds, os.Stdout))
}

// load parses the embedded CRDs.
func load() ([]*unstructured.Unstructured, error) {
	docs, err := charts.CRDs()
	if err != nil {
		return nil, err
	}
	crds := make([]*unstructured.Unstructured, 0, len(docs))
	for i, doc := range docs {
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &crd.Object); err != nil {
			return nil, fmt.Errorf("parsing the embedded CRD number %d: %w", i+1, err)
		}
		if crd.GetKind() != "CustomResourceDefinition" || crd.GetName() == "" {
			return nil, fmt.Errorf("the embedded CRD number %d is a %q named %q", i+1, crd.GetKind(), crd.GetName())
		}
		crds = append(crds, crd)
	}
	return crds, nil
}

// prepare does the work; it may be repeated, and be ended at any point.
func prepare(ctx context.Context, c client.Client, o options, crds []*unstructured.Unstructured, out io.Writer) error {
	progress := hookjob.NewProgress(out)
	if o.manageCRDs {
		applied := map[string]bool{}
		err := hookjob.Until(ctx, o.Timeout, hookjob.Pause, progress, func(ctx context.Context) (string, error) {
			return establish(ctx, c, crds, applied, progress)
		})
		if err != nil {
			return fmt.Errorf("applying the CRDs: %w", err)
		}
		progress.Printf("%d CRDs are established", len(crds))
	} else {
		progress.Printf("CRDs are left to you (crds.manage is false)")
	}
	err := hookjob.Until(ctx, o.Timeout, hookjob.Pause, progress, func(ctx context.Context) (string, error) {
		return "", callOff(ctx, c, o.Namespace, progress)
	})
	if err != nil {
		return fmt.Errorf("calling off an unfinished uninstallation: %w", err)
	}
	err = hookjob.Until(ctx, o.Timeout, hookjob.Pause, progress, func(ctx context.Context) (string, error) {
		return "", relax(ctx, c, o.stalePolicies, progress)
	})
	if err != nil {
		return fmt.Errorf("deleting policies that the release does without: %w", err)
	}
	return nil
}

// relax deletes policies, their bindings first: a policy without a binding judges
// nothing.
func relax(ctx context.Context, c client.Client, names []string, progress *hookjob.Progress) error {
	for _, name := range names {
		m := metav1.ObjectMeta{Name: name}
		for _, o := range []client.Object{&admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: m}, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: m}} {
			kind := "policy"
			if _, ok := o.(*admissionv1.ValidatingAdmissionPolicyBinding); ok {
				kind = "binding of policy"
			}
			err := c.Delete(ctx, o)
			switch {
			case apierrors.IsNotFound(err):
			case err != nil:
				return fmt.Errorf("deleting %s %s: %w", kind, name, err)
			default:
				progress.Printf("deleted %s %s, which the release does without", kind, name)
			}
		}
	}
	return nil
}

// establish applies each CRD that is not applied yet and returns what keeps the
// API server from serving them.
func establish(ctx context.Context, c client.Client, crds []*unstructured.Unstructured, applied map[string]bool, progress *hookjob.Progress) (string, error) {
	var waiting []string
	for _, crd := range crds {
		name := crd.GetName()
		current := &apiextensionsv1.CustomResourceDefinition{}
		err := c.Get(ctx, client.ObjectKey{Name: name}, current)
		if client.IgnoreNotFound(err) != nil {
			return "", fmt.Errorf("reading CRD %s: %w", name, err)
		}
		if apierrors.IsNotFound(err) {
			applied[name] = false // deleted between two looks
		}
		if current.DeletionTimestamp != nil {
			// To apply now would be lost with the CRD.
			applied[name] = false
			waiting = append(waiting, fmt.Sprintf("CRD %s is being deleted", name))
			continue
		}
		if !applied[name] {
			desired := client.ApplyConfigurationFromUnstructured(crd.DeepCopy())
			if err := c.Apply(ctx, desired, client.ForceOwnership, client.FieldOwner(fieldOwner)); err != nil {
				return "", fmt.Errorf("applying CRD %s: %w", name, err)
			}
			applied[name] = true
			progress.Printf("applied CRD %s", name)
			if err := c.Get(ctx, client.ObjectKey{Name: name}, current); err != nil {
				return "", fmt.Errorf("reading CRD %s: %w", name, err)
			}
		}
		if why := notServed(current.Status.Conditions); why != "" {
			waiting = append(waiting, fmt.Sprintf("CRD %s %s", name, why))
		}
	}
	return strings.Join(waiting, "; "), nil
}

// notServed says why a CRD with these conditions is not served, or "".
func notServed(conditions []apiextensionsv1.CustomResourceDefinitionCondition) string {
	established := false
	for _, c := range conditions {
		switch c.Type {
		case apiextensionsv1.NamesAccepted:
			if c.Status == apiextensionsv1.ConditionFalse {
				return "has names that another CRD has: " + c.Message
			}
		case apiextensionsv1.Established:
			established = c.Status == apiextensionsv1.ConditionTrue
		}
	}
	if !established {
		return "is not established yet"
	}
	return ""
}

// callOff deletes the marker of an uninstallation, so that MIC and NMI go on.
func callOff(ctx context.Context, c client.Client, namespace string, progress *hookjob.Progress) error {
	marker := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: uninstall.Name}}
	err := c.Delete(ctx, marker)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deleting ConfigMap %s/%s: %w", namespace, uninstall.Name, err)
	}
	progress.Printf("called off an uninstallation that was not finished")
	return nil
}

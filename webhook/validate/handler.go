// Package validate is the admission of our own kinds: it judges what users write
// and answers with every finding at once. The rules are those of
// internal/validation; this package knows which requests they apply to.
package validate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// Handler judges objects of our kinds. It reads the raw object: decoding into
// the Go type would drop the misspelt names that users most need to hear about.
//
// The same handler answers the mutating and the validating call. In the mutating
// call it is there to speak before the API server's schema does, which would say
// that resourceID is missing where ResourceID was written. The only thing it
// changes is the capitalisation of a resource ID, if that is the policy.
type Handler struct {
	// Rules judge an object.
	Rules *validation.Validator
	// MICUsername may rewrite a stored object whose only change is the
	// capitalisation of field names, also if it stays invalid. Empty: nobody may.
	MICUsername string
	// ResourceIDCase says what becomes of a resource ID that is miscapitalised and
	// nothing else. Empty: the object is refused.
	ResourceIDCase validation.IDCase
	// Mutating is set for the mutating call, which may change the object. The API
	// server makes both calls for one request, and what there is to warn about is
	// said in the validating one.
	Mutating bool
	// Warner, if set, adds warnings that need to know the cluster.
	Warner *Warner
}

// Handle implements admission.Handler.
func (h *Handler) Handle(ctx context.Context, req admission.Request) admission.Response {
	switch req.Operation {
	case admissionv1.Create, admissionv1.Update:
	case admissionv1.Delete, admissionv1.Connect:
		return admission.Allowed("")
	default:
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("cannot judge operation %q", req.Operation))
	}
	if req.SubResource != "" {
		return admission.Allowed("")
	}
	if req.Kind.Group != v1.GroupName || !h.Rules.Knows(req.Kind.Kind) {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("cannot judge %s", schema.GroupVersionKind(req.Kind)))
	}
	if len(req.Object.Raw) > maxObject {
		return tooLarge(req)
	}
	parts, err := h.parts(req)
	if err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if parts == 0 {
		return admission.Allowed("")
	}
	verdict, err := h.Rules.Judge(req.Kind.Kind, req.Object.Raw, parts, h.idCase())
	if err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if len(verdict.Findings) > 0 {
		return refuse(ctx, req, verdict)
	}
	return h.admit(ctx, req, parts, verdict)
}

// idCase is the policy for this call. The validating call finds nothing left to
// write in another way: what it sees is what is stored.
func (h *Handler) idCase() validation.IDCase {
	if h.ResourceIDCase == validation.CanonicalizeCase && !h.Mutating {
		return validation.RejectCase
	}
	return h.ResourceIDCase
}

// admit answers yes, with what is to be changed and warned about.
func (h *Handler) admit(ctx context.Context, req admission.Request, parts validation.Parts, verdict validation.Verdict) admission.Response {
	resp := admission.Allowed("")
	if verdict.ResourceID != "" {
		resp = admission.Patched("", jsonpatch.NewOperation("replace", "/spec/resourceID", verdict.ResourceID))
	}
	for _, warning := range verdict.Warnings {
		// Of what it changed only the mutating call can know.
		if !h.Mutating || verdict.ResourceID != "" && warning.Rule == validation.RuleResourceIDMiscapitalised {
			resp = resp.WithWarnings(warning.String())
		}
	}
	if h.Warner != nil && parts&validation.PartSpec != 0 {
		resp = resp.WithWarnings(h.Warner.Warnings(ctx, req)...)
	}
	return resp
}

// parts returns which parts of the object are judged. An update is not judged by
// what it leaves alone: that may be older than the rules, and labels, finalizers
// and deletion are not to suffer from it.
func (h *Handler) parts(req admission.Request) (validation.Parts, error) {
	if req.Operation == admissionv1.Create {
		return validation.AllParts, nil
	}
	if len(req.OldObject.Raw) == 0 {
		return 0, errors.New("the update comes without the old object")
	}
	changed, err := validation.Changed(req.OldObject.Raw, req.Object.Raw)
	if err != nil {
		return 0, err
	}
	if changed&validation.PartSpec != 0 && h.MICUsername != "" && req.UserInfo.Username == h.MICUsername &&
		h.Rules.SameButCapitalisation(req.Kind.Kind, req.OldObject.Raw, req.Object.Raw) {
		changed &^= validation.PartSpec
	}
	return changed, nil
}

// tooLarge refuses an object above maxObject, unless nothing of it is to be judged.
func tooLarge(req admission.Request) admission.Response {
	if req.Operation == admissionv1.Update {
		untouched, err := validation.Untouched(req.OldObject.Raw, req.Object.Raw, maxObject)
		if err != nil {
			return admission.Errored(http.StatusBadRequest, err)
		}
		if untouched {
			return admission.Allowed("")
		}
	}
	status := apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("%s has %d bytes as JSON, at most %d are allowed", req.Kind.Kind, len(req.Object.Raw), maxObject)).Status()
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: false, Result: &status}}
}

const (
	// maxObject bounds, in bytes, an object that is judged. The largest that mean
	// something are a hundredth of it; annotations and managedFields come on top.
	maxObject = 512 << 10
	// maxFindings bounds an answer: a small object can hold a hundred thousand
	// mistakes, and each is said twice in a Status.
	maxFindings = 100
	// maxFieldLog bounds, in bytes, a path in the log, which names what users wrote.
	maxFieldLog = 200
)

// refuse answers as the API server does for its own kinds: a Status with a cause
// for every finding, which kubectl prints one below the other.
func refuse(ctx context.Context, req admission.Request, verdict validation.Verdict) admission.Response {
	findings := verdict.Findings
	if more := len(findings) - maxFindings + verdict.More; more > 0 {
		findings = append(findings[:maxFindings:maxFindings], field.Forbidden(field.NewPath("spec"), fmt.Sprintf("%d further findings are left out", more)))
	}
	fields := make([]string, len(findings))
	for i, f := range findings {
		fields[i] = f.Field[:min(len(f.Field), maxFieldLog)]
	}
	name := nameOf(req)
	// Only the paths: the values may hold client IDs.
	klog.FromContext(ctx).Info("Refused", logkey.Kind, req.Kind.Kind, logkey.Name, klog.KRef(req.Namespace, name),
		logkey.User, req.UserInfo.Username, logkey.Operation, req.Operation, logkey.Field, fields)
	status := apierrors.NewInvalid(schema.GroupKind{Group: req.Kind.Group, Kind: req.Kind.Kind}, name, findings).Status()
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: false, Result: &status}}
}

// nameOf returns the object's name, or what its name is to be made from.
func nameOf(req admission.Request) string {
	if req.Name != "" {
		return req.Name
	}
	var object struct {
		Metadata struct {
			Name         string `json:"name"`
			GenerateName string `json:"generateName"`
		} `json:"metadata"`
	}
	// The object was decoded before; a name that is no string stays empty.
	_ = json.Unmarshal(req.Object.Raw, &object)
	if object.Metadata.Name != "" {
		return object.Metadata.Name
	}
	return object.Metadata.GenerateName
}
